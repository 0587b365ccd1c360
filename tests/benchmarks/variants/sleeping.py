"""Promptmill in process with a generator that sleeps, as a GPU does for the processor; everything else is real."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from tests.benchmarks.setting import Answer, Setting, begin

IMAGE_S: Final = 0.1
SIDE: Final = 512
DISTINCT: Final = 64


class Sleeper:
    """A `Generator` whose images are noise, the hardest pixels to encode, drawn before the first sleep."""

    pipeline_class, dtype, device = "Sleeper", "float32", "cpu"

    def __init__(self) -> None:
        import numpy as np

        shape = (DISTINCT, SIDE, SIDE, 3)
        self._noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        self._made = 0
        self.slept_s = 0.0
        self.first_at: float | None = None

    def scheduler_name(self, settings: Any) -> str:
        return "NoScheduler"

    def prepare(self, samples: Sequence[Any], settings: Any) -> None:
        pass

    def generate(
        self, samples: Sequence[Any], settings: Any, on_step: Callable[[], None], full_precision: bool = False
    ) -> list[Any]:
        from promptmill.pipeline.models.interface import Generated

        started = time.monotonic()
        self.first_at = self.first_at or started
        for _ in range(settings.num_inference_steps):
            time.sleep(len(samples) * IMAGE_S / settings.num_inference_steps)
            on_step()
        # Only what was asked for counts: an overslept step is the machine's loss.
        self.slept_s += len(samples) * IMAGE_S
        places = range(self._made, self._made + len(samples))
        self._made += len(samples)
        return [Generated(self._noise[place % DISTINCT]) for place in places]


def main(setting: Setting) -> None:
    import promptmill.pipeline.worker.context as worker_context
    from promptmill.pipeline.dataset.claim import claim_output
    from promptmill.pipeline.execution.dispatch import InProcessDispatcher
    from promptmill.pipeline.execution.events import Stop
    from promptmill.pipeline.execution.run import run_job
    from promptmill.pipeline.planning.plan import plan_job
    from promptmill.pipeline.storage.store import Store
    from promptmill.schemas.job import Job
    from tests.benchmarks.variants.mill import Watch, job_of

    sleeper = Sleeper()
    worker_context.load_generator = lambda model, threads, told: sleeper
    job = Job.model_validate({**job_of(setting), "score": []})
    store = Store(job.output.url)
    plan = claim_output(plan_job(job), store)
    watch = Watch(lambda: None)
    processor = time.process_time()
    summary = run_job(plan, store, InProcessDispatcher(plan, store), watch, Stop())
    ended, processor = time.monotonic(), time.process_time() - processor
    assert sleeper.first_at is not None and summary.counts.kept == setting.images
    more = {"slept_s": sleeper.slept_s, "processor_s": processor}
    Answer(sleeper.first_at, 0, ended, setting.images, more).write(setting.folder)


if __name__ == "__main__":
    main(begin())
