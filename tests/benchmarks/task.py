"""The task that all variants get: a model, a scorer, prompts."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.benchmarks.setting import Setting


def built_in(folder: Path, images: int, steps: int, batch: int, core: int | None) -> Setting:
    """On a copy of the built-in model, so that nobody changes it while it is measured."""
    from promptmill.pipeline.models.catalog.clips import builtin_clip_folder
    from promptmill.pipeline.models.catalog.resolve import builtin_folder

    shutil.copytree(builtin_folder("builtin:shapes"), folder / "model")
    shutil.copytree(builtin_clip_folder("builtin:shapes"), folder / "clip")
    return Setting(
        folder="",
        source=write_prompts(folder / "prompts.parquet", images),
        model=str(folder / "model"),
        clip=str(folder / "clip"),
        images=images,
        steps=steps,
        batch=batch,
        core=core,
    )


def write_prompts(path: Path, count: int) -> str:
    """Distinct ones, so that nobody saves work by encoding a prompt once; with a seed for those who ask for one."""
    from promptmill.pipeline.shapes.suite import sample_prompts

    captions = list(dict.fromkeys(prompt.caption for prompt in sample_prompts(4 * count, 0)))[:count]
    captions += [f"{captions[place % len(captions)]} {place}" for place in range(len(captions), count)]
    pq.write_table(pa.table({"prompt": captions, "seed": list(range(count))}), path)
    return str(path)


def machine() -> str:
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    name = names[0].partition(":")[2].strip() if names else platform.processor()
    return f"{name}, {len(os.sched_getaffinity(0))} cores"
