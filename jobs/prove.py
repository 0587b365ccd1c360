"""`promptmill prove`: whether training on a synthetic set helps, by a protocol that can say no."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from promptmill.jobs.console import say, say_json, say_on_stderr
from promptmill.jobs.options import AsJson
from promptmill.jobs.proof_options import (
    Batch,
    Controls,
    Draws,
    Flip,
    Initialisations,
    LearnerName,
    Seed,
    Shares,
    Shots,
    Side,
    Steps,
    Test,
    Validation,
    Workers,
)
from promptmill.pipeline.evaluation.proofs import note_proof
from promptmill.pipeline.evaluation.prove.settings import ProofSettings
from promptmill.pipeline.models.load import prepare_process
from promptmill.pipeline.storage.urls import is_remote
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.proof import Proof


def prove(settings: ProofSettings, told: Callable[[str], None] = lambda text: None) -> Proof:
    """Raises JobError for what cannot be proven so: sets that share images, too few classes or images for the draws."""
    check_settings(settings)
    prepare_process(1)
    from promptmill.pipeline.evaluation.prove.protocol import prove as proven

    proof = proven(settings, told)
    for text in note_proof(proof, settings.synthetic):
        told(text)
    return proof


def check_settings(settings: ProofSettings) -> None:
    """Raises JobError."""
    if is_remote(settings.out):
        raise JobError(Problem("--out", "a folder of this machine", settings.out, "Copy the proof when it is done."))
    if settings.draws < 1 or settings.initialisations < 1 or settings.steps < 4 or settings.batch < 2:
        got = f"{settings.draws}, {settings.initialisations}, {settings.steps} and {settings.batch}"
        expected = "at least 1 draw, 1 initialisation, 4 steps and a batch of 2"
        raise JobError(Problem("--draws, --initialisations, --steps, --batch", expected, got))
    if not settings.shares or not all(0 < share < 1 for share in settings.shares):
        raise JobError(Problem("--share", "shares between 0 and 1", ", ".join(map(str, settings.shares)) or "none"))


def command(
    real: Annotated[
        str, typer.Argument(metavar="REAL", help="Real images to train on: a folder by class, or a dataset.")
    ],
    synthetic: Annotated[
        str, typer.Argument(metavar="SYNTHETIC", help="The set on trial; `{draw}` in it is the number of the draw.")
    ],
    test: Test,
    validation: Validation = None,
    out: Annotated[str, typer.Option(metavar="DIR", help="For proof.json, tables and what was trained.")] = "proof",
    learner: LearnerName = "cnn",
    shots: Shots = None,
    draws: Draws = 5,
    initialisations: Initialisations = 2,
    steps: Steps = 1000,
    batch: Batch = 48,
    size: Side = None,
    share: Shares = None,
    flip: Flip = False,
    control: Controls = None,
    workers: Workers = 1,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Say whether training on a synthetic set helps. Run again to continue."""
    settings = ProofSettings(
        real, synthetic, test, out, validation, learner, shots, draws, initialisations, steps, batch, size,
        tuple(share) if share else ProofSettings.shares, ProofSettings.filters, seed, flip, control, workers,
    )  # fmt: skip
    proof = prove(settings, say_on_stderr)
    if as_json:
        say_json(proof.as_json())
    else:
        say_proof(proof, out)


def say_proof(proof: Proof, folder: str) -> None:
    from promptmill.pipeline.evaluation.prove.tables import markdown

    for line in markdown(proof).splitlines():
        say(line)
    for notice in proof.notices:
        say_on_stderr(f"note: {notice}")
    say(f"{Path(folder) / 'proof.json'}, proof.md, proof.tex, proof.csv")
