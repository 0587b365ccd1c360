"""`promptmill finetune`: an adapter from a few images of your own, for `model.adapters`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer
import yaml

from promptmill.jobs.console import say, say_json, say_on_stderr
from promptmill.jobs.options import AsJson, Set
from promptmill.pipeline.display import shown as on_a_line
from promptmill.pipeline.jobfile.tuning import load_tuning
from promptmill.pipeline.models.catalog.diffusers_source import has_loader
from promptmill.pipeline.models.catalog.resolve import resolve_model
from promptmill.pipeline.models.load import prepare_process
from promptmill.pipeline.storage.urls import is_remote
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.resolved import ResolvedModel
from promptmill.schemas.tuned import FinetuneResult, TunedAdapter
from promptmill.schemas.tuning import Tuning

Told = Callable[[str], None]


def finetune(tuning: Tuning, told: Told = lambda text: None) -> FinetuneResult:
    """Makes what is missing; the same call again goes on where it was stopped.

    Raises JobError where an image is one of those to keep apart, the model is none that can be tuned, or a loss is no
    number; OutputMismatchError where the folder is another training's.
    """
    if is_remote(tuning.output.folder):
        hint = "Train on a disk, and copy the adapter."
        raise JobError(Problem("output.folder", "a folder of this machine", tuning.output.folder, hint))
    base = resolve_model(tuning.model, "model")
    _check_loader(tuning, base)
    from promptmill.pipeline.training.finetune.examples import lessons

    todo = lessons(tuning)
    if notice := _of_one_image(tuning, {each.of: len(each.images) for each in todo}):
        told(notice)
    if tuning.compute.workers > 1 and len(todo) > 1:
        from promptmill.pipeline.execution.fleet.tuning import make_side_by_side

        made: list[TunedAdapter] = make_side_by_side(tuning, todo, base, told)
    else:
        prepare_process(tuning.compute.threads_per_worker)
        from promptmill.pipeline.training.finetune.tune import folders_of, make_adapter

        made = [
            make_adapter(tuning, lesson, base, folder, _steps(told, tuning, lesson.name), told)
            for lesson, folder in zip(todo, folders_of(tuning, todo), strict=True)
        ]
    return FinetuneResult(folder=tuning.output.folder, adapters=made)


def _of_one_image(tuning: Tuning, counts: dict[str, int]) -> str:
    """A subject or a word may be learnt of one image; what images have in common may not."""
    single = [on_a_line(of) for of, count in counts.items() if count == 1]
    if not single or tuning.finetune.method != "lora" or tuning.finetune.each == "image":
        return ""
    of = f"{single[0]}{f' and {len(single) - 1:,} more' if len(single) > 1 else ''}: " if single[0] else ""
    return f"{of}one image teaches that image alone: give several, or say finetune.each: image if that is meant"


def _check_loader(tuning: Tuning, base: ResolvedModel) -> None:
    kind = "TextualInversion" if tuning.finetune.method == "textual_inversion" else "Lora"
    if not has_loader(base.pipeline_class, kind):
        got = f"{base.path}, a {base.pipeline_class}"
        raise JobError(Problem("model", f"a model that takes {kind} adapters", got))


def _steps(told: Told, tuning: Tuning, name: str) -> Callable[[int, float], None]:
    every = max(1, tuning.finetune.steps // 10)

    def on_step(step: int, loss: float) -> None:
        if step % every == 0:
            told(f"{name}: step {step:,} of {tuning.finetune.steps:,}, loss {loss:.4f}")

    return on_step


def command(
    path: Annotated[str, typer.Argument(metavar="TUNING.yaml", help="What to learn from, and how.")],
    set_: Set = None,
    as_json: AsJson = False,
) -> None:
    """Learn an adapter from a few images of your own. Run again to continue."""
    tuning = load_tuning(path, set_ or ())
    result = finetune(tuning, say_on_stderr)
    if as_json:
        say_json(result.as_json())
        return
    for each in result.adapters:
        of = f" of {each.of}" if each.of else ""
        say(f"{each.name}{of}: {each.images} images, {each.steps:,} steps, {each.path}")
    say("For a job file:")
    lines = {"model": {"path": tuning.model.path, "adapters": result.for_a_job()}}
    for line in yaml.safe_dump(lines, sort_keys=False).splitlines():
        say(line)
