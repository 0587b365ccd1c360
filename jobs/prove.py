"""`promptmill prove`: whether training on a synthetic set helps, by a protocol that can say no."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from promptmill.jobs.console import say, say_json, say_on_stderr
from promptmill.jobs.options import AsJson
from promptmill.pipeline.evaluation.prove.settings import ProofSettings
from promptmill.pipeline.models.load import prepare_process
from promptmill.pipeline.storage.urls import is_remote
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.proof import Proof


def prove(settings: ProofSettings, told: object = None) -> Proof:
    """Raises JobError for what cannot be proven so: sets that share images, too few classes or images for the draws."""
    if is_remote(settings.out):
        raise JobError(Problem("--out", "a folder of this machine", settings.out, "Copy the proof when it is done."))
    if settings.draws < 1 or settings.initialisations < 1 or settings.steps < 4 or settings.batch < 2:
        got = f"{settings.draws}, {settings.initialisations}, {settings.steps} and {settings.batch}"
        expected = "at least 1 draw, 1 initialisation, 4 steps and a batch of 2"
        raise JobError(Problem("--draws, --initialisations, --steps, --batch", expected, got))
    if not settings.shares or not all(0 < share < 1 for share in settings.shares):
        raise JobError(Problem("--share", "shares between 0 and 1", ", ".join(map(str, settings.shares)) or "none"))
    prepare_process(1)
    from promptmill.pipeline.evaluation.prove.protocol import prove as proven

    return proven(settings, told if callable(told) else lambda text: None)


def command(
    real: Annotated[
        str, typer.Argument(metavar="REAL", help="Real images to train on: a folder by class, or a dataset.")
    ],
    synthetic: Annotated[
        str, typer.Argument(metavar="SYNTHETIC", help="The set on trial; `{draw}` in it is the number of the draw.")
    ],
    test: Annotated[str, typer.Option(metavar="URL", help="Opened once, by the last step.")],
    validation: Annotated[
        str | None, typer.Option(metavar="URL", help="Chooses share, filter and checkpoint; else a third of REAL does.")
    ] = None,
    out: Annotated[str, typer.Option(metavar="DIR", help="For proof.json, tables and what was trained.")] = "proof",
    learner: Annotated[
        str, typer.Option(help="cnn, pixels, an open_clip model, or timm:NAME=weights.safetensors.")
    ] = "cnn",
    shots: Annotated[int | None, typer.Option(min=1, help="Real images of each class in a draw.")] = None,
    draws: Annotated[int, typer.Option(min=1, help="Few-shot draws, paired over the arms.")] = 5,
    initialisations: Annotated[int, typer.Option(min=1, help="Trainings of each draw.")] = 2,
    steps: Annotated[int, typer.Option(min=4, help="Equal in all arms but the one with twice as many.")] = 1000,
    batch: Annotated[int, typer.Option(min=2, help="Images of a step.")] = 48,
    size: Annotated[int | None, typer.Option(min=8, max=512, help="Side to which images are brought.")] = None,
    share: Annotated[
        list[float] | None, typer.Option(help="Synthetic part of each batch; repeat for more. Else 0.1, 0.3, 0.5, 0.7.")
    ] = None,
    flip: Annotated[bool, typer.Option("--flip", help="Augmentation may mirror images.")] = False,
    control: Annotated[
        Literal["shuffled", "copies"] | None,
        typer.Option(help="What must harm (labels shuffled), or change nothing (copies of the real images)."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Trainings at once.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of draws and trainings.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Say whether training on a synthetic set helps. Run again to continue."""
    from promptmill.pipeline.evaluation.prove.tables import markdown

    settings = ProofSettings(
        real, synthetic, test, out, validation, learner, shots, draws, initialisations, steps, batch, size,
        tuple(share) if share else ProofSettings.shares, ProofSettings.filters, seed, flip, control, workers,
    )  # fmt: skip
    proof = prove(settings, say_on_stderr)
    if as_json:
        say_json(proof.as_json())
        return
    for line in markdown(proof).splitlines():
        say(line)
    for notice in proof.notices:
        say_on_stderr(f"note: {notice}")
    say(f"{Path(out) / 'proof.json'}, proof.md, proof.tex, proof.csv")
