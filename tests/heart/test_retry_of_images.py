"""A retry of prompts with images: what the rows of a dataset lead to is read within reach only."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from promptmill.pipeline.dataset import retry
from promptmill.pipeline.dataset.claim import claim_output
from promptmill.pipeline.dataset.retry import _by_prompt, plan_retry, stage_again
from promptmill.pipeline.planning.plan import plan_job
from promptmill.pipeline.prompts.reach import Reach
from promptmill.schemas.errors import JobError, MissingObjectError
from tests.heart.mill import job, make_missing, memory, run_small, write_prompts


def test_images_are_read_within_reach(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    Image.new("RGB", (8, 8), "red").save(folder / "photo.png")
    source = write_prompts(folder / "a.parquet", ["a red circle", "a blue square"], photo=["photo.png"] * 2)
    generation = {"strength": 0.5, "width": 8, "height": 8}
    given = job(source, prompts={"columns": {"image": "photo"}}, generation=generation)
    store = memory()
    plan = claim_output(plan_job(given), store)
    make_missing(plan, store, broken=["square"])
    elsewhere = Reach((str(tmp_path / "theirs"),))
    for _ in ("planned", "begun and unfinished"):
        with pytest.raises(JobError, match=r"1 elsewhere, such as .*mine/photo\.png"):
            plan_retry(plan, store, elsewhere)
        plan = plan_retry(plan, store, Reach((str(folder),)))
        assert [segment.kind for segment in plan.segments] == ["source", "retry"]
    assert plan_retry(plan, store).segments == plan.segments


def test_rows_of_one_prompt_come_together() -> None:
    rows = pa.table({"prompt_id": ["b", "a", "b", "a"], "sample_index": [0, 1, 2, 3]})
    assert _by_prompt(rows).to_pydict() == {"prompt_id": ["b", "b", "a", "a"], "sample_index": [0, 2, 1, 3]}


def test_an_object_that_goes_away_meanwhile_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> None:
        raise MissingObjectError("failures/x is not there")

    store = memory()
    plan = run_small(tmp_path, store, broken=["square"])
    monkeypatch.setattr(retry, "whole_object", gone)
    with pytest.raises(JobError) as caught:
        plan_retry(plan, store)
    assert str(caught.value) == (
        f"{store.url}: expected a dataset of which nothing is removed meanwhile, got failures/x is not there. "
        "`promptmill verify --repair` and then `promptmill run` make that shard again"
    )


def test_copies_that_are_there_are_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = memory()
    grown = plan_retry(run_small(tmp_path, store, broken=["square"]), store)
    (copy,) = (entry.name for entry in store.list("inputs") if "retry-" in entry.name)
    content = store.read(copy)
    store.delete(copy)
    stage_again(grown, store)
    assert store.read(copy) == content
    monkeypatch.setattr(retry, "_segments", None)
    stage_again(grown, store)


def test_a_copy_whose_failures_are_gone_too_is_left(tmp_path: Path) -> None:
    store = memory()
    grown = plan_retry(run_small(tmp_path, store, broken=["square"]), store)
    for entry in (*store.list("inputs"), *store.list("failures")):
        store.delete(entry.name)
    stage_again(grown, store)
    assert not [entry for entry in store.list("inputs") if "retry-" in entry.name]
