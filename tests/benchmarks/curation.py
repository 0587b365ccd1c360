"""How long a million images take to be curated, and in how much memory: `python -m tests.benchmarks.curation`.

Images and embeddings are made up (64 numbers each, in 5,000 clusters, a hundredth of them near copies of another one),
so what is measured is all but the model: sorting into cells, comparing, deciding, and writing the dataset anew.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from promptmill.pipeline.curation.claim import claim_curation
from promptmill.pipeline.curation.curate import Progress, curate, here
from promptmill.pipeline.curation.embed import PARTS, SAMPLE, SAYS, schema_of
from promptmill.pipeline.curation.settings import Settings, Task
from promptmill.pipeline.curation.vectors import LOOK_BYTES, meanings_of
from promptmill.pipeline.dataset.claim import claim_output
from promptmill.pipeline.dataset.commit import commit_tables
from promptmill.pipeline.dataset.records import RecordWriter, to_parquet
from promptmill.pipeline.dataset.verify import verify_dataset
from promptmill.pipeline.models.catalog.clips import ResolvedClip
from promptmill.pipeline.planning.plan import Plan, plan_job
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.plan import CommitRecord, Counts, Shard
from promptmill.schemas.records import HUGGINGFACE
from tests.heart.mill import job

WIDTH, CLUSTERS, COPIES = 64, 5_000, 100
PER_SHARD = 4_096


def made_up(folder: Path, images: int) -> Plan:
    """A finished dataset without real images."""
    prompts = folder / "prompts.parquet"
    pq.write_table(pa.table({"prompt": pa.array(f"image {i}" for i in range(images))}), prompts)
    output = {"url": str(folder / "made"), "images_per_shard": PER_SHARD}
    store = Store(str(folder / "made"))
    plan = claim_output(plan_job(job(prompts, generation={"images_per_prompt": 1}, output=output)), store)
    schema = RecordWriter(plan.score_names, pa.table({}), {}).kept([]).schema
    for shard in plan.all_shards():
        rows = shard.stop - shard.start
        ids = [f"{number:032x}" for number in range(shard.start, shard.stop)]
        known: dict[str, Any] = {"sample_id": ids, "prompt_id": ids, "image_sha256": ids, "variant": ["{}"] * rows}
        known["image"] = [{"bytes": b"made up", "path": None}] * rows
        columns = [pa.array(known.get(each.name, [None] * rows), each.type) for each in schema]
        kept = pa.table(columns, schema=schema).replace_schema_metadata(HUGGINGFACE)
        empty = kept.slice(0, 0)
        commit_tables(CommitRecord(plan.fingerprint, shard, Counts(rows, rows), ()), kept, empty, None, store)
    return plan


def embed(store: Store, shard: Shard, centres: np.ndarray[Any, Any]) -> None:
    """What the model would have written."""
    chance, rows = np.random.default_rng(shard.number), shard.stop - shard.start
    points = centres[chance.integers(CLUSTERS, size=rows)] + 0.7 * chance.standard_normal((rows, WIDTH)) / 8
    looks = chance.integers(-128, 128, size=(rows, LOOK_BYTES), dtype=np.int8)
    twins = np.arange(1, rows, COPIES)
    points[twins] = points[twins - 1] + 0.001 * chance.standard_normal((len(twins), WIDTH))
    meanings = meanings_of(points.astype(np.float32)).astype("<i2")
    columns = {
        **{"kind": [SAMPLE] * rows, "place": (shard.number << 32) + np.arange(rows)},
        **{
            "name": [f"{shard.start + i:032x}" for i in range(rows)],
            "label": [None] * rows,
            "mirrored": [False] * rows,
        },
        "pixels": [int(place).to_bytes(16, "little") for place in (shard.number << 32) + np.arange(rows)],
        **{"look": [row.tobytes() for row in looks], "meaning": [row.tobytes() for row in meanings]},
    }
    schema = schema_of(WIDTH)
    table = pa.table([pa.array(columns[each.name], each.type) for each in schema], schema=schema)
    said = {SAYS: json.dumps({"images": rows, "width": WIDTH, "broken": []}).encode()}
    store.create(f"{PARTS}/{shard.part}.parquet", to_parquet(table.replace_schema_metadata(said)))


def measure(folder: Path, images: int) -> dict[str, Any]:
    plan = made_up(folder, images)
    source, target = Store(str(folder / "made")), Store(str(folder / "curated"))
    settings = Settings(model="made-up", features=ResolvedClip("made-up", "made-up", None, "1", 0), threshold=0.995)
    own = claim_curation(plan, source, target, settings, ())
    centres = np.random.default_rng(0).standard_normal((CLUSTERS, WIDTH)) / 8
    for shard in plan.all_shards():
        embed(target, shard, centres)
    seconds: dict[str, float] = {}
    last = began = time.monotonic()

    def tell(step: str, done: int, of: int) -> None:
        nonlocal last
        now = time.monotonic()
        seconds[step] = round(seconds.get(step, 0.0) + now - last, 3)
        last = now

    before = peak_gib()
    curate(own, Task(source.url, target.url, settings, own.fingerprint), (), here, Progress(tell))
    found = verify_dataset(own, target)
    assert found.complete
    facts = {"images": images, "kept": found.counts.kept, "rejected": found.counts.rejected}
    return {
        **facts,
        "seconds": round(time.monotonic() - began, 1),
        "steps_s": {step: round(each, 1) for step, each in seconds.items()},
        "peak_gib": round(peak_gib(), 2),
        "peak_before_gib": round(before, 2),
    }


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), options.images)), flush=True)


if __name__ == "__main__":
    main()
