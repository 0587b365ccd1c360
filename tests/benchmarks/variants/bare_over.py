"""A bare diffusers loop over files of images, at the same batch size: nothing scored or written."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks.setting import Setting, Warmth, begin


def main(setting: Setting) -> None:
    import pyarrow.parquet as pq

    from tests.benchmarks.variants.user import draw_over, load_pipeline

    pipe = load_pipeline(setting)
    table = pq.read_table(setting.source).slice(0, setting.images)
    prompts, photos = table.column("prompt").to_pylist(), table.column("image").to_pylist()
    beside = Path(setting.source).parent
    warmth = Warmth()
    for start in range(0, len(prompts), setting.batch):
        stop = min(start + setting.batch, len(prompts))
        places = [str(beside / photo) for photo in photos[start:stop]]
        draw_over(pipe, prompts[start:stop], places, range(start, stop), setting)
        warmth.batch_done(stop)
    warmth.answer(len(prompts)).write(setting.folder)


if __name__ == "__main__":
    main(begin())
