"""(a) A bare diffusers loop at the same batch size: no scoring, no writing."""

from __future__ import annotations

from tests.benchmarks.setting import Setting, Warmth, begin


def main(setting: Setting) -> None:
    import pyarrow.parquet as pq

    from tests.benchmarks.variants.user import draw, load_pipeline

    pipe = load_pipeline(setting)
    prompts = pq.read_table(setting.source).column("prompt").to_pylist()[: setting.images]
    warmth = Warmth()
    for start in range(0, len(prompts), setting.batch):
        draw(pipe, prompts[start : start + setting.batch], range(start, start + setting.batch), setting)
        warmth.batch_done(min(start + setting.batch, len(prompts)))
    warmth.answer(len(prompts)).write(setting.folder)


if __name__ == "__main__":
    main(begin())
