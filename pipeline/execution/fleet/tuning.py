"""Many small adapters, each a Ray task: each follows from its images alone, so their number changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from promptmill.pipeline.execution.fleet.cluster import connect, disconnect
from promptmill.pipeline.execution.fleet.tasks import RaySpread
from promptmill.pipeline.models.load import prepare_process
from promptmill.pipeline.training.finetune.examples import Lesson
from promptmill.schemas.resolved import ResolvedModel
from promptmill.schemas.tuned import TunedAdapter
from promptmill.schemas.tuning import Tuning


def make_side_by_side(
    tuning: Tuning, lessons: Sequence[Lesson], base: ResolvedModel, told: Callable[[str], None]
) -> list[TunedAdapter]:
    """In the order of `lessons`. Their folder must be the same on every node. Raises ClusterError, and as tasks do.

    A task whose process dies is started again, and goes on from its checkpoint.
    """
    make = partial(_make, tuning, base, Path(tuning.output.folder).absolute())
    made: list[TunedAdapter] = []
    connect(None)
    try:
        spread = RaySpread(tuning.compute.workers)
        for lesson, adapter in zip(lessons, spread(make, lessons, tuning.compute.device != "cpu"), strict=True):
            made.append(adapter)
            told(f"{lesson.name}: done, {len(made)} of {len(lessons)}")
    finally:
        disconnect()
    return made


def _make(tuning: Tuning, base: ResolvedModel, folder: Path, lesson: Lesson) -> TunedAdapter:
    prepare_process(tuning.compute.threads_per_worker)
    from promptmill.pipeline.training.finetune.tune import make_adapter

    return make_adapter(tuning, lesson, base, folder / lesson.name)
