"""(b) The script a user would write: diffusers, open_clip and pyarrow, one thing after the other."""

from __future__ import annotations

from typing import Any

from tests.benchmarks.setting import Setting, Warmth, begin


def main(setting: Setting) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tests.benchmarks.variants.user import Clip, draw, load_pipeline, rows

    pipe, clip = load_pipeline(setting), Clip(setting)
    prompts = pq.read_table(setting.source).column("prompt").to_pylist()[: setting.images]
    setting.out.mkdir()
    warmth = Warmth()
    pending: list[dict[str, Any]] = []
    for start in range(0, len(prompts), setting.batch):
        texts, seeds = prompts[start : start + setting.batch], range(start, start + setting.batch)
        images = draw(pipe, texts, seeds, setting)
        pending += rows(images, texts, seeds, clip.score(images, texts))
        warmth.batch_done(start + len(texts))
        if len(pending) >= setting.images_per_file or start + len(texts) == len(prompts):
            pq.write_table(pa.Table.from_pylist(pending), setting.out / f"part-{start:06d}.parquet")
            pending = []
    warmth.answer(len(prompts)).write(setting.folder)


if __name__ == "__main__":
    main(begin())
