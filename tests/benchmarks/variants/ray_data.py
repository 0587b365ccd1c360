"""(c) The same job in Ray Data: read_parquet → map_batches with one actor → write_parquet.

Fair to it: images are encoded inside the actor, so that no pixels pass through the object store; one CPU more than the
actor takes, so that reading and writing can go on beside it; no dashboard, no progress bars.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tests.benchmarks.setting import Answer, Setting, begin


class Painter:
    def __init__(self, setting: Setting) -> None:
        from tests.benchmarks.variants.user import Clip, load_pipeline

        self._setting = setting
        self._pipe, self._clip = load_pipeline(setting), Clip(setting)
        self._stamp = Path(setting.folder) / "first-batch"

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        from tests.benchmarks.variants.user import draw, rows

        prompts, seeds = batch["prompt"].tolist(), batch["seed"].tolist()
        images = draw(self._pipe, prompts, seeds, self._setting)
        made = rows(images, prompts, seeds, self._clip.score(images, prompts))
        if not self._stamp.exists():
            self._stamp.write_text(f"{time.monotonic()} {len(made)}")
        return {name: [row[name] for row in made] for name in made[0]}


def main(setting: Setting) -> None:
    import ray
    import ray.data

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=128 << 20,
        log_to_driver=False,
        logging_level="ERROR",
    )
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    (
        ray.data.read_parquet(setting.source)
        .limit(setting.images)
        .map_batches(
            Painter,
            fn_constructor_args=[setting],
            batch_size=setting.batch,
            compute=ray.data.ActorPoolStrategy(size=1),
            num_cpus=1,
        )
        .write_parquet(str(setting.out), min_rows_per_file=setting.images_per_file)
    )
    ended = time.monotonic()
    first_at, first_images = (Path(setting.folder) / "first-batch").read_text().split()
    Answer(float(first_at), int(first_images), ended, setting.images).write(setting.folder)
    ray.shutdown()


if __name__ == "__main__":
    main(begin())
