"""Small plans and a small worker without torch: a generator that tints an image by its seed, and fails on words."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from promptmill.pipeline.dataset.claim import claim_output
from promptmill.pipeline.dataset.state import missing_shards
from promptmill.pipeline.jobfile.reader import parse_job
from promptmill.pipeline.models.interface import Generated
from promptmill.pipeline.planning.plan import Plan, plan_job
from promptmill.pipeline.scores.interface import Picture, Scores
from promptmill.pipeline.storage.store import Store
from promptmill.pipeline.worker.context import WorkerContext
from promptmill.pipeline.worker.shard import process_shard
from promptmill.schemas.errors import SampleError
from promptmill.schemas.generation import Generation
from promptmill.schemas.job import Job
from promptmill.schemas.plan import Sample, ShardStats
from promptmill.schemas.resolved import ResolvedModel
from tests.heart.conftest import YESTERDAY

MODEL, CLIP = YESTERDAY / "model", YESTERDAY / "clip"
CLIP_SCORE = {"clip": f"local-dir:{CLIP}"}
PROMPTS = ("a red circle", "a blue square", "", "a green star", "a yellow circle")


def memory() -> Store:
    """An object store of its own in this process."""
    return Store(f"memory://{uuid4().hex}", patience_s=0.1)


def job(source: Path, **sections: Any) -> Job:
    """Of four images a shard; keyword arguments replace or extend its sections, None removes one."""
    content: dict[str, Any] = {
        "name": "small",
        "prompts": {"source": str(source)},
        "model": {"path": str(MODEL)},
        "generation": {"images_per_prompt": 2, "batch_size": 4, "num_inference_steps": 2},
        "score": [CLIP_SCORE],
        "output": {"url": "memory://nowhere", "images_per_shard": 4},
    }
    for section, value in sections.items():
        old = content.get(section)
        content[section] = {**old, **value} if isinstance(old, dict) and isinstance(value, Mapping) else value
    written = {section: value for section, value in content.items() if value is not None}
    return parse_job(json.dumps(written), "job.yaml")


def write_prompts(path: Path, prompts: Sequence[str | None] = PROMPTS, **columns: Sequence[Any]) -> Path:
    pq.write_table(pa.table({"prompt": pa.array(prompts, pa.string()), **columns}), path)
    return path


def small_plan(folder: Path, prompts: Sequence[str | None] = PROMPTS, **sections: Any) -> Plan:
    folder.mkdir(exist_ok=True)
    return plan_job(job(write_prompts(folder / "a.parquet", prompts).parent, **sections))


class Tint:
    """`broken` are words on which the pipeline raises, prompts with `#` and a sample index, or with `@` and a guidance
    scale; `nsfw` in a prompt makes a flag."""

    pipeline_class, dtype, device = "Tint", "float32", "cpu"

    def __init__(self, broken: Iterable[str]) -> None:
        self._broken = frozenset(broken)

    def scheduler_name(self, settings: Generation) -> str:
        return settings.scheduler or "DDIMScheduler"

    def prepare(self, samples: Sequence[Sample], settings: Generation) -> None:
        pass

    def use(self, *added: object) -> None:
        """Adapters and ControlNets, which tint nothing."""

    def generate(
        self, samples: Sequence[Sample], settings: Generation, on_step: Callable[[], None], full_precision: bool = False
    ) -> list[Generated]:
        return [self._one(sample, settings.guidance_scale) for sample in samples]

    def _one(self, sample: Sample, guidance_scale: float) -> Generated:
        prompt = sample.prompt
        words = {*prompt.split(), f"{prompt}#{sample.sample_index}", f"{prompt}@{guidance_scale}"}
        if words & self._broken:
            return Generated(None, error=SampleError("generation", "a broken word"))
        colour = np.frombuffer(sample.seed.to_bytes(8, "little"), np.uint8)[:3]
        return Generated(np.broadcast_to(colour, (8, 8, 3)).copy(), ("nsfw",) if "nsfw" in words else ())


class Redness:
    """A score: how red an image is, -1 to 1."""

    def __init__(self, name: str) -> None:
        self.name = name

    def prepare(self, captions: Sequence[str]) -> None:
        pass

    def score(self, pictures: Sequence[Picture]) -> Scores:
        return {self.name: np.array([float(each.pixels[..., 0].mean()) / 127.5 - 1 for each in pictures], np.float32)}


class OwnScore:
    """A score as a user writes it."""

    scores, version = ("own",), "1"

    def score(self, pictures: Sequence[Picture]) -> dict[str, list[float]]:
        return {"own": [0.5 for _ in pictures]}


class OtherScore(OwnScore):
    pass


class TintContext(WorkerContext):
    broken: Iterable[str] = ()

    def _load(self, model: ResolvedModel) -> Tint:
        return Tint(self.broken)

    def scorers(self) -> list[Any]:
        return [Redness(*score.names) for score in self.plan.job.score if score.model]


def make_missing(plan: Plan, store: Store, broken: Iterable[str] = ()) -> list[ShardStats]:
    """What `run` does, one shard after the other."""
    context = TintContext(plan, store)
    context.broken = frozenset(broken)
    try:
        return [process_shard(shard, context) for shard in missing_shards(plan, store)]
    finally:
        context.close()


def run_small(folder: Path, store: Store, broken: Iterable[str] = (), **sections: Any) -> Plan:
    """The claimed plan of a dataset that `store` then holds."""
    plan = claim_output(small_plan(folder, **sections), store)
    make_missing(plan, store, broken)
    return plan


def rows(store: Store, folder: str = "data") -> list[dict[str, Any]]:
    """Of all objects of a folder, in the order of their names."""
    tables = [pq.read_table(pa.BufferReader(store.read(entry.name))) for entry in store.list(folder)]
    return [row for table in tables for row in table.to_pylist()]
