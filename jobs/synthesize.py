"""`promptmill synthesize`: from a folder of real images to a synthetic set, and whether it helps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from promptmill.jobs.console import say, say_json, say_on_stderr
from promptmill.jobs.options import Address, AsJson, InProcess
from promptmill.jobs.proof_options import (
    Batch,
    Draws,
    Flip,
    Initialisations,
    LearnerName,
    Seed,
    Shots,
    Side,
    Steps,
    Test,
    Validation,
    Workers,
)
from promptmill.jobs.prove import check_settings, prove, say_proof
from promptmill.jobs.signals import leave
from promptmill.jobs.synthesis import (
    GUIDANCES,
    STRENGTHS,
    Stages,
    SynthesisSettings,
    Told,
    Way,
    check_ways,
    claim,
    proof_of,
    ways_of,
    worded,
)
from promptmill.pipeline.crashpoints import reached
from promptmill.pipeline.evaluation.prove.settings import ProofSettings
from promptmill.pipeline.models.load import prepare_process
from promptmill.pipeline.storage.local import replace_file
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.synthesized import Candidate, SynthesisResult

RESULT = "synthesis.json"


def synthesize(settings: SynthesisSettings, told: Told = lambda text: None) -> SynthesisResult:
    """Makes, chooses and proves what is missing; the same call again goes on where it was stopped.

    No test file is opened before the last step of the proof. Raises JobError as `prove` does, and where curation
    leaves nothing; OutputMismatchError where the folder is another synthesis', KeyboardInterrupt after a signal.
    """
    asked = replace(settings.proof, synthetic=str(settings.out / "sets/{draw}"))
    check_settings(asked)
    check_ways(settings)
    prepare_process(1)
    from promptmill.pipeline.evaluation.prove.learners import load_learner
    from promptmill.pipeline.evaluation.prove.world import real_sets

    load_learner(asked.learner)  # one that does not load would be told after the first set is made
    sets = real_sets(asked)
    settings = replace(settings, proof=replace(asked, shots=sets.shots))
    wordings = worded(settings, sets.classes)
    draws = [chosen for chosen, _ in sets.draws]
    stages = Stages(settings, draws, sets.validation, wordings, told)
    claim(settings, draws, sets.validation, wordings)
    decisions = [*sets.notices, *_decided(settings, stages, sets.shots)]
    for text in decisions:
        told(text)
    best, tried, real = _choose(settings, stages, told)
    for text in _chosen(best, tried, real, len(wordings)):
        decisions.append(text)
        told(text)
    for draw in range(len(draws)):
        told(f"the set of draw {draw + 1} of {len(draws)}, {best.name}")
        stages.made(best, draw)
    proof = prove(proof_of(settings, stages.place(best)), told)
    place = stages.place(best)
    result = SynthesisResult(str(settings.out), tried, real, best.name, place, proof, wordings, decisions)
    text = json.dumps(result.as_json(), indent=2, allow_nan=False)
    replace_file(settings.out, RESULT, text.encode("utf-8", "surrogatepass"))
    return result


def _decided(settings: SynthesisSettings, stages: Stages, shots: int) -> list[str]:
    draws, classes = len(stages.draws), len(stages.wordings)
    found = [f"{draws} draws of {shots} real images of each of {classes} classes, {stages.each} synthetic ones of each"]
    if stages.foreign:
        found.append(f"{settings.model} lacks a word of the classes: they are called after what it knows")
    if settings.tuning_steps:
        found.append(f"an adapter for each draw, {settings.tuning_steps:,} steps on its images alone")
    ways, learner = ways_of(settings), settings.proof.learner
    others = [max(stages.count(way, draw) for way in ways) for draw in range(1, draws)]
    images = sum(stages.count(way, 0) for way in ways) + sum(others)
    found.append(f"{len(ways)} ways on the first draw, the best of them on the others: {images:,} images at most")
    if learner == "cnn":
        trainings = draws * settings.proof.initialisations
        found.append(f"{trainings} trainings of {settings.proof.steps:,} steps for each arm")
    return found


def _chosen(best: Way, tried: Sequence[Candidate], real: float, classes: int) -> list[str]:
    """With what a reader should doubt."""
    own = next(each for each in tried if each.name == best.name)
    order = f"{_in_order(tried)}; real alone {real:.1f} %"
    found = [f"validation, and a teacher within its error, choose {best.name}: {order}"]
    if (own.validation or 0.0) < real:
        found.append("no way was better on validation than the best with real images alone")
    if (own.agreement or 0.0) < 2 / classes:
        agreed = f"{own.agreement or 0.0:.0%} of their labels, and chance is {1 / classes:.0%}"
        hint = "The verdict is on such images: try a model that knows yours, or more --tuning-steps"
        found.append(f"these images hardly show their classes: a teacher of the real ones agrees with {agreed}. {hint}")
    return found


def _choose(settings: SynthesisSettings, stages: Stages, told: Told) -> tuple[Way, list[Candidate], float]:
    """By the first draw: what validation says of each way, and of the best real-only arm."""
    from promptmill.pipeline.evaluation.prove.protocol import try_out

    tried: list[Candidate] = []
    real = 0.0
    ways = ways_of(settings)
    for number, way in enumerate(ways, 1):
        told(f"way {number} of {len(ways)}: {way.name}")
        made, kept = stages.made(way, 0)
        if not kept:
            tried.append(Candidate(way.name, made, 0, None, None))
            continue
        trial = try_out(proof_of(settings, stages.place(way).replace("{draw}", "0"), draws=1))
        real = trial.real
        tried.append(Candidate(way.name, made, kept, trial.agreement, trial.validation))
        half = f"{trial.validation:.1f} % right on validation with half of each batch from it (real alone {real:.1f} %)"
        told(f"{way.name}: {half}; a teacher of the real images agrees with {trial.agreement:.0%} of its labels")
        reached("synthesize tried")
    able = [each for each in tried if each.validation is not None]
    if not able:
        raise JobError(Problem("REAL", "images that curation leaves", "none of any way: all are copies"))
    best = most_agreed(able, len(stages.validation))
    return next(way for way in ways_of(settings) if way.name == best.name), tried, real


def most_agreed(able: Sequence[Candidate], validated: int) -> Candidate:
    """Of those within one standard error of the best on `validated` images the one whose labels a teacher agrees with
    most: by one more digit of 200 a set of which 12 % of the labels were right won over one with 82 %."""
    best = max(each.validation or 0.0 for each in able)
    error = (best * (100 - best) / max(1, validated)) ** 0.5
    near = [each for each in able if (each.validation or 0.0) >= best - error]
    return max(near, key=lambda each: (each.agreement or 0.0, each.validation or 0.0))


def _in_order(tried: Sequence[Candidate]) -> str:
    told = sorted(tried, key=lambda each: -(each.validation or 0.0))
    return ", ".join(f"{each.name} {_said(each)}" for each in told)


def _said(each: Candidate) -> str:
    if each.validation is None:
        return "nothing left"
    return f"{each.validation:.1f} % ({each.agreement or 0.0:.0%} of labels agreed with)"


Real = Annotated[str, typer.Option(metavar="URL", help="Real images: a folder by class, or a dataset.")]
Out = Annotated[str, typer.Option(metavar="DIR", help="For everything that is made.")]
ModelName = Annotated[str, typer.Option(help="A folder, a hub id with --revision, or builtin:shapes.")]
Revision = Annotated[str | None, typer.Option(help="Commit of a hub model.")]
Each = Annotated[int | None, typer.Option(min=1, help="Synthetic images of each class; else ten times --shots.")]
Tuning = Annotated[int, typer.Option(min=0, help="Of each draw's adapter; 0 tunes none.")]
Sampling = Annotated[int, typer.Option(min=1, help="Of each image.")]
Guidances = Annotated[list[float] | None, typer.Option(help="Text to image; repeat for more. Else 1, 2, 3.")]
Strengths = Annotated[list[float] | None, typer.Option(help="Image to image; repeat for more. Else 0.3, 0.6, 0.9.")]


def command(
    real: Real,
    test: Test,
    validation: Validation = None,
    out: Out = "synthesis",
    model: ModelName = "builtin:shapes",
    revision: Revision = None,
    each: Each = None,
    tuning_steps: Tuning = 500,
    sampling_steps: Sampling = 20,
    guidance: Guidances = None,
    strength: Strengths = None,
    learner: LearnerName = "cnn",
    shots: Shots = None,
    draws: Draws = 5,
    initialisations: Initialisations = 2,
    steps: Steps = 1000,
    batch: Batch = 48,
    size: Side = None,
    flip: Flip = False,
    workers: Workers = 1,
    seed: Seed = 0,
    address: Address = None,
    in_process: InProcess = False,
    as_json: AsJson = False,
) -> None:
    """From a folder of real images to a synthetic set and a verdict. Run again to continue."""
    proof = ProofSettings(
        real, "", test, out, validation, learner, shots, draws, initialisations, steps, batch, size,
        seed=seed, flip=flip, workers=workers,
    )  # fmt: skip
    ways = (tuple(guidance or GUIDANCES), tuple(strength or STRENGTHS))
    how = (model, revision, each, tuning_steps, sampling_steps, *ways, address, in_process)
    try:
        made = synthesize(SynthesisSettings(proof, *how), say_on_stderr)
    except KeyboardInterrupt:  # after a set's run has finished what it had in hand; typer would say nothing
        leave(as_json)
    _say(made, out, as_json)


def _say(made: SynthesisResult, out: str, as_json: bool) -> None:
    if as_json:
        say_json(made.as_json())
        return
    for text in made.decisions:
        say(text)
    say_proof(made.proof, f"{Path(out) / 'proof'}")
