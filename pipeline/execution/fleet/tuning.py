"""Many small adapters, each a Ray task: each follows from its images alone, so their number changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import ray

from promptmill.pipeline.execution.fleet.answers import answer_of
from promptmill.pipeline.execution.fleet.cluster import connect
from promptmill.pipeline.models.load import prepare_process
from promptmill.pipeline.training.finetune.examples import Lesson
from promptmill.schemas.resolved import ResolvedModel
from promptmill.schemas.tuned import TunedAdapter
from promptmill.schemas.tuning import Tuning

_TRIES = 3
"""Deaths of a worker that a task outlives; it goes on from its checkpoint."""


def make_side_by_side(
    tuning: Tuning, lessons: Sequence[Lesson], base: ResolvedModel, told: Callable[[str], None]
) -> list[TunedAdapter]:
    """In the order of `lessons`. Their folder must be the same on every node. Raises ClusterError, and as tasks do."""
    connect(None)
    try:
        return _made(tuning, lessons, base, told)
    finally:
        ray.shutdown()


def _made(
    tuning: Tuning, lessons: Sequence[Lesson], base: ResolvedModel, told: Callable[[str], None]
) -> list[TunedAdapter]:
    gpus = 1 if tuning.compute.device != "cpu" and ray.cluster_resources().get("GPU", 0) else 0
    task = ray.remote(num_cpus=0 if gpus else 1, num_gpus=gpus, max_retries=_TRIES)(_make)
    folder = Path(tuning.output.folder).absolute()
    waiting = list(range(len(lessons)))
    running: dict[ray.ObjectRef, int] = {}
    made: dict[int, TunedAdapter] = {}
    while waiting or running:
        while waiting and len(running) < tuning.compute.workers:
            number = waiting.pop(0)
            running[task.remote(tuning, lessons[number], base, folder / lessons[number].name)] = number
        done, _ = ray.wait(list(running))
        for each in done:
            number = running.pop(each)
            made[number] = answer_of(each, "an adapter")
            told(f"{lessons[number].name}: done, {len(made)} of {len(lessons)}")
    return [made[number] for number in range(len(lessons))]


def _make(tuning: Tuning, lesson: Lesson, base: ResolvedModel, folder: Path) -> TunedAdapter:
    prepare_process(tuning.compute.threads_per_worker)
    from promptmill.pipeline.training.finetune.tune import make_adapter

    return make_adapter(tuning, lesson, base, folder)
