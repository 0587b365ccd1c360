"""Seeds of 64 bits, from the source to the record and its retry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from promptmill.pipeline.dataset.claim import claim_output
from promptmill.pipeline.dataset.open import require_plan
from promptmill.pipeline.dataset.retry import plan_retry
from promptmill.pipeline.dataset.samples import read_samples
from promptmill.pipeline.planning.plan import plan_job
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import InputError, JobError
from promptmill.schemas.identity import sample_seed
from tests.heart.mill import job, make_missing, memory, rows, write_prompts

LARGEST = 2**64 - 1
WITH_SEEDS: dict[str, Any] = {"prompts": {"columns": {"seed": "n"}}}


def seeds(store: Store, folder: str = "data") -> list[int]:
    return [row["seed"] for row in rows(store, folder)]


def kinds(store: Store) -> set[pa.DataType]:
    return {
        pq.read_schema(pa.BufferReader(store.read(entry.name))).field("seed").type
        for folder in ("data", "failures")
        for entry in store.list(folder)
    }


def test_every_seed_of_64_bits_is_in_the_record(tmp_path: Path) -> None:
    """Those above 2^53 failed row by row, -1 too."""
    store = memory()
    numbers = pa.array([LARGEST, 2**63 - 1, 5, None], pa.uint64())
    source = write_prompts(tmp_path / "a.parquet", ["a", "b", "c broken", "d"], n=numbers)
    plan = claim_output(plan_job(job(source, **WITH_SEEDS)), store)
    make_missing(plan, store, broken=["broken"])
    derived = [sample_seed(0, "a.parquet:3", i) for i in range(2)]
    assert seeds(store) == [LARGEST, 0, 2**63 - 1, 2**63, *derived]
    assert (seeds(store, "failures"), kinds(store)) == ([5, 6], {pa.uint64()})
    assert read_samples(store).table.num_rows == 8
    grown = plan_retry(require_plan(store), store)
    make_missing(grown, store)
    assert seeds(store)[-2:] == [5, 6]


def test_other_datasets_keep_their_column(tmp_path: Path) -> None:
    store = memory()
    source = write_prompts(tmp_path / "a.parquet", ["a", "b"], n=pa.array([2**63 - 2, -1]))
    make_missing(claim_output(plan_job(job(source, **WITH_SEEDS)), store), store)
    assert kinds(store) == {pa.int64()}
    assert "wide_seeds" not in json.loads(store.read("job.json"))["plan"]


def test_a_dataset_that_was_begun_before_goes_on(tmp_path: Path) -> None:
    """It has seeds of 63 bits and rows that fail; a new one with such rows is refused."""
    store = Store(str(tmp_path / "out"))
    source = write_prompts(tmp_path / "a.parquet", ["a", "b", "c"], n=pa.array([LARGEST, 5, 6], pa.uint64()))
    own = {**WITH_SEEDS, "output": {"url": str(tmp_path / "out")}}
    claim_output(plan_job(job(source, **own)), store)
    content = json.loads(store.read("job.json"))
    del content["plan"]["wide_seeds"]
    store.put("job.json", json.dumps(content).encode())
    make_missing(claim_output(plan_job(job(source, **own)), store), store)
    assert (seeds(store), kinds(store)) == ([5, 6, 6, 7], {pa.int64()})
    assert {row["error_kind"] for row in rows(store, "failures")} == {"invalid_seed"}


def test_wrong_seeds_are_refused_where_nothing_is_begun(tmp_path: Path) -> None:
    source = write_prompts(tmp_path / "a.parquet", ["a", "b"], n=pa.array([-2, 5]))
    with pytest.raises(InputError, match=r"a.parquet row 0: expected an integer from 0 to 18446744073709551615"):
        claim_output(plan_job(job(source, **WITH_SEEDS)), memory())
    (tmp_path / "a.csv").write_text('prompt,n\na,"7, got 8"\n')
    with pytest.raises(InputError, match=r"or -1 for one that is derived, got '7, got 8'"):
        claim_output(plan_job(job(tmp_path / "a.csv", **WITH_SEEDS)), memory())


def test_wide_seeds_do_not_come_to_a_narrow_dataset(tmp_path: Path) -> None:
    store = memory()
    source = write_prompts(tmp_path / "a.parquet", ["a"], n=pa.array([1], pa.uint64())).parent
    claim_output(plan_job(job(source, **WITH_SEEDS)), store)
    write_prompts(tmp_path / "b.parquet", ["b"], n=pa.array([LARGEST], pa.uint64()))
    with pytest.raises(JobError, match="seeds up to 9223372036854775807"):
        claim_output(plan_job(job(source, **WITH_SEEDS)), store, extend=True)
