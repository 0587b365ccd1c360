"""(d), (e) `promptmill run`, as its command line runs it, with a display that only takes the time."""

from __future__ import annotations

import importlib
import io
from pathlib import Path
from typing import Any, Final

from promptmill.pipeline.execution.progress import PlainProgress
from promptmill.schemas.events import Pulse
from promptmill.schemas.plan import ShardStats
from tests.benchmarks.setting import Setting, Warmth

EAGER_S: Final = 0.01
"""How often the dispatcher is made to look until the first batch is there; afterwards as always."""


class Watch(PlainProgress):
    """Notes when the first batch was made and each shard was done. `slow_down` is called after the first batch."""

    def __init__(self, slow_down: Any) -> None:
        super().__init__(io.StringIO())
        self.warmth = Warmth()
        self.receipts: list[ShardStats] = []
        self.answer: Any = None
        self._slow_down = slow_down

    def pulse(self, pulse: Pulse) -> None:
        super().pulse(pulse)
        if pulse.samples_made and self.warmth.first is None:
            self.warmth.batch_done(pulse.samples_made)
            self._slow_down()

    def shard_done(self, receipt: ShardStats) -> None:
        super().shard_done(receipt)
        self.receipts.append(receipt)
        made = sum(each.counts.samples for each in self.receipts)
        if self.warmth.first is None:  # a starved machine: the first shard was done before a batch of it was seen
            self.pulse(Pulse(made, 1, 0))
        self.answer = self.warmth.answer(made)


def job_of(setting: Setting) -> dict[str, Any]:
    job = _from_text(setting)
    if setting.strength is not None:
        job["prompts"]["columns"] = {"image": "image"}
        job["generation"]["strength"] = setting.strength
        job["score"] = []
    return job


def _from_text(setting: Setting) -> dict[str, Any]:
    return {
        "name": "benchmark",
        "prompts": {"source": setting.source, "limit": setting.images},
        "model": {"path": setting.model, "dtype": setting.dtype},
        "generation": {
            "num_inference_steps": setting.steps,
            "guidance_scale": setting.guidance,
            "batch_size": setting.batch,
            "width": setting.side,
            "height": setting.side,
        },
        "score": [{"clip": f"local-dir:{setting.clip}"}],
        "output": {"url": str(setting.out), "images_per_shard": setting.images_per_file},
        "compute": {"workers": 1, "threads_per_worker": 1},
    }


def run(setting: Setting, in_process: bool) -> None:
    import promptmill.jobs.run as command
    from promptmill.schemas.job import Job

    pace = _Pace()
    pace.quicken("promptmill.pipeline.execution.dispatch")
    if not in_process:
        pace.quicken("promptmill.pipeline.execution.fleet.dispatch")
        pace.quicken("promptmill.pipeline.execution.fleet.worker_handle")
    watch = Watch(pace.restore)
    job = Job.model_validate(job_of(setting))
    _, summary = command.run(
        job, address=None, in_process=in_process, extend=False, allow_large_sweep=False, display=watch
    )
    if summary.counts.kept != setting.images:
        raise SystemExit(f"asked for {setting.images} images, got {summary.counts}")
    stages: dict[str, float] = {}
    for receipt in watch.receipts:
        for stage, seconds in receipt.seconds.items():
            stages[stage] = round(stages.get(stage, 0.0) + seconds, 3)
    watch.answer.more["stages"] = stages
    watch.answer.write(Path(setting.folder))


class _Pace:
    """Makes a dispatcher look more often, so that the first batch is seen when it comes."""

    def __init__(self) -> None:
        self._before: list[tuple[Any, str, float]] = []

    def quicken(self, module: str) -> None:
        loaded = importlib.import_module(module)
        for name in ("_POLL_S", "_VITALS_EVERY_S"):
            if hasattr(loaded, name):
                self._before.append((loaded, name, getattr(loaded, name)))
                setattr(loaded, name, EAGER_S)

    def restore(self) -> None:
        for module, name, value in self._before:
            setattr(module, name, value)
