"""Datasets that the real engine made with tiny models, once a session."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from promptmill.pipeline.dataset.claim import claim_output
from promptmill.pipeline.execution.dispatch import InProcessDispatcher
from promptmill.pipeline.execution.events import Stop
from promptmill.pipeline.execution.run import RunSummary, run_job
from promptmill.pipeline.planning.plan import Plan, plan_job
from promptmill.pipeline.shapes.suite import sample_prompts
from promptmill.pipeline.shapes.world import KINDS
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.events import Pulse
from promptmill.schemas.job import Job
from promptmill.schemas.plan import Counts, Shard, ShardStats
from tests.report.painter import PainterBench

HOSTILE = "<script>alert(1)</script> \"quotes' `ticks` | pipe \u202eright to left\u202c </td>"
PROMPTS = [
    *(
        f"a {colour} {shape}"
        for colour in ("red", "green", "blue")
        for shape in ("circle", "square", "triangle", "star")
    ),
    HOSTILE,
    "a red circle " + "x" * 5_000,
    "",
    None,
]


class Silence:
    def begin(self, plan: Plan, todo: list[Shard], done: Counts) -> None:
        pass

    def shard_done(self, receipt: ShardStats) -> None:
        pass

    def pulse(self, pulse: Pulse) -> None:
        pass

    def notice(self, text: str) -> None:
        pass


@dataclass(frozen=True)
class Dataset:
    plan: Plan
    store: Store
    summary: RunSummary | None = None

    @property
    def folder(self) -> Path:
        return Path(self.store.url)

    def copy(self, folder: Path) -> Dataset:
        shutil.copytree(self.folder, folder)
        return Dataset(self.plan, Store(str(folder)), self.summary)


@pytest.fixture(scope="session")
def claimed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Dataset]:
    """A dataset that is planned and holds nothing yet; keyword arguments replace sections of the job."""

    def make(prompts: list[str | None] = PROMPTS, categories: list[str] | None = None, **changes: Any) -> Dataset:
        folder = tmp_path_factory.mktemp("dataset")
        kinds = categories or ["plain" if i % 2 else "shape & <colour>" for i in range(len(prompts))]
        source = pa.table({"prompt": pa.array(prompts, pa.string()), "category": kinds})
        pq.write_table(source, folder / "prompts.parquet")
        fields = {
            "name": "Sweep <b>of</b> guidance",
            "prompts": {"source": str(folder / "prompts.parquet")},
            "model": {"path": "builtin:shapes"},
            "generation": {"num_inference_steps": 1, "images_per_prompt": 2, "batch_size": 8},
            "sweep": {"guidance_scale": [1.0, 5.0], "num_inference_steps": [1, 2]},
            "score": [{"clip": "builtin:shapes"}],
            "select": {"keep": 1},
            "output": {"images_per_shard": 16, "keep_rejected_images": True},
        }
        whole: dict[str, Any] = {**fields, **changes}
        whole["prompts"] = whole.pop("prompts_section", whole["prompts"])
        whole["output"] = {**whole["output"], "url": str(folder / "out")}
        job = Job.model_validate(whole)
        store = Store(job.output.url)
        return Dataset(claim_output(plan_job(job), store), store)

    return make


def run(dataset: Dataset) -> Dataset:
    dispatcher = InProcessDispatcher(dataset.plan, dataset.store)
    return Dataset(dataset.plan, dataset.store, run_job(dataset.plan, dataset.store, dispatcher, Silence(), Stop()))


def paint(dataset: Dataset) -> Dataset:
    """As `run`, with the painter in place of the model."""
    dispatcher = InProcessDispatcher(dataset.plan, dataset.store)
    dispatcher._context = PainterBench(dataset.plan, dataset.store)
    return Dataset(dataset.plan, dataset.store, run_job(dataset.plan, dataset.store, dispatcher, Silence(), Stop()))


@pytest.fixture(scope="session")
def painted(claimed: Callable[..., Dataset]) -> Dataset:
    """96 shapes prompts of eight kinds and hostile ones; guidance 1 and 5 × 5 and 20 steps × 3 seeds."""
    rows: list[tuple[str, str]] = [
        (prompt.caption, kind) for kind in KINDS for prompt in sample_prompts(12, 3, "train", kind)
    ]
    rows += [(HOSTILE, "hostile"), ("a red circle " + "x" * 5_000, "hostile"), ("", "hostile"), ("NaN", "hostile")]
    return paint(
        claimed(
            prompts=[text for text, _ in rows],
            categories=[kind for _, kind in rows],
            generation={"images_per_prompt": 3, "batch_size": 16},
            sweep={"guidance_scale": [1.0, 5.0], "num_inference_steps": [5, 20]},
            output={"images_per_shard": 128, "keep_rejected_images": True},
        )
    )


@pytest.fixture(scope="session")
def swept(claimed: Callable[..., Dataset], models: Path) -> Dataset:
    """Two guidance scales × two step counts, two images each, the better one kept; two prompts are empty."""
    return run(claimed(model={"path": str(models / "sd")}, score=[{"clip": f"local-dir:{models / 'clip'}"}]))
