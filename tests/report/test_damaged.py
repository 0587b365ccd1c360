"""Objects beside the data, damaged or written by anybody: the report says which it leaves out, and is built."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from promptmill.jobs.compare import compare
from promptmill.jobs.report import report
from promptmill.pipeline.dataset.samples import plain, read_samples
from promptmill.pipeline.dataset.state import read_receipts
from promptmill.pipeline.evaluation.reference import read_references
from promptmill.pipeline.report.before import run_before
from promptmill.pipeline.report.build import build_report
from promptmill.pipeline.report.cost import run_facts, seconds_per_image
from promptmill.pipeline.storage.store import Store
from tests.report.conftest import Dataset, paint

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
QUICK = settings(max_examples=100, deadline=None, phases=(Phase.generate,), suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def small(claimed: Callable[..., Dataset]) -> Dataset:
    return paint(
        claimed(
            prompts=["a red circle", "a blue square", ""],
            generation={"images_per_prompt": 1},
            sweep={"guidance_scale": [1.0, 5.0]},
            select=None,
            output={"images_per_shard": 8},
        )
    )


@pytest.fixture
def copied(small: Dataset, tmp_path: Path) -> Dataset:
    return small.copy(tmp_path / "copy")


def mutated(sound: Any, path: tuple[Any, ...], value: Any) -> Any:
    """The content with something else in one place."""
    if not path:
        return value
    content = json.loads(json.dumps(sound))
    inner = content
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return content


def places(content: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    steps = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [prefix, *(place for step, inner in steps for place in places(inner, (*prefix, step)))]


REFERENCE = {
    "reference": "photos",
    "reference_images": 100,
    "reference_left_out": 0,
    "left_out": 0,
    "features": "builtin:shapes",
    "features_revision": "x",
    "dimensions": 64,
    "cells": [
        {
            "name": "all",
            "variant": "{}",
            "images": 4,
            "fid": 1.5,
            "kid": 0.1,
            "kid_std": None,
            "precision": 0.5,
            "recall": 1,
        }
    ],
}


@QUICK
@given(data=st.data())
def test_any_receipt_reference_and_summary(small: Dataset, data: st.DataObject) -> None:
    """Each is read or named, and what is read can be reckoned with and written as JSON."""
    targets = {
        "receipts/part-000000.json": json.loads((small.folder / "receipts/part-000000.json").read_text()),
        "scores/reference-0123456789ab.json": REFERENCE,
        "report/summary.json": {
            "fingerprint": small.plan.fingerprint,
            "run": {"wall_seconds": 3.0, "price_per_hour": 2.0},
        },
    }
    key = data.draw(st.sampled_from(sorted(targets)))
    place = data.draw(st.sampled_from(places(targets[key])))
    content = json.dumps(mutated(targets[key], place, data.draw(JSON))).encode()
    store = Store("memory://" + uuid.uuid4().hex)
    store.put(key, content[: data.draw(st.none() | st.integers(0, len(content)))])
    problems: list[str] = []
    receipts = read_receipts(store, problems)
    tables, unread = read_references(store)
    before = run_before(small.plan, store)
    found = [len(receipts) + len(problems), len(tables) + len(unread)]
    assert found == [int(key.startswith(folder)) for folder in ("receipts", "scores")]
    speeds = [asdict(speed) for speed in seconds_per_image(small.plan, receipts).values()]
    facts = run_facts(receipts, before.wall_seconds, before.price_per_hour)
    assert json.loads(json.dumps([asdict(facts), plain(tables), speeds], allow_nan=False))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"\xff\xfe",
        b"null",
        b'{"cells": [1]}',
        b'{"cells": "x", "dimensions": "64"}',
    ],
    ids=["empty", "lists", "objects", "bytes", "null", "numbers", "texts"],
)
def test_what_is_left_out_is_said(copied: Dataset, content: bytes) -> None:
    for key in ("receipts/part-000000.json", "scores/reference-a.json", "report/summary.json"):
        copied.store.put(key, content)
    summary = build_report(copied.plan, copied.store).as_json()
    assert {text.partition(":")[0] for text in summary["problems"]} == {
        "receipts/part-000000.json",
        "scores/reference-a.json",
    }
    assert "receipts/part-000000.json" in (copied.folder / "report/index.html").read_text()


def test_scores_of_other_shapes(copied: Dataset) -> None:
    ids = read_samples(copied.store).texts("sample_id")
    folder = copied.folder / "scores"
    folder.mkdir(exist_ok=True)
    tables = {
        "good-a": pa.table({"sample_id": ids, "mine": [1.0] * 6, "held": [True] * 6}),
        "texts-a": pa.table({"sample_id": ids, "words": ["0.5"] * 6}),
        "deep-a": pa.table({"sample_id": ids, "nested": [[{"a": [1]}]] * 6, "fine": [2] * 6}),
        "no_ids-a": pa.table({"mine": [0.0] * 6}),
        "odd_ids-a": pa.table({"sample_id": [[1]] * 6, "odd": [0.0] * 6}),
        "null_ids-a": pa.table({"sample_id": pa.nulls(6, pa.string()), "lost": [0.0] * 6}),
        "infinite-a": pa.table({"sample_id": ids, "infinite": [float("inf"), float("nan"), None, 1.0, 2.0, 3.0]}),
    }
    for name, table in tables.items():
        pq.write_table(table, folder / f"{name}.parquet")
    (folder / "cut-a.parquet").write_bytes(b"PAR1 and no more")
    summary = build_report(copied.plan, copied.store).as_json()
    said = " ".join(summary["problems"])
    assert all(word in said for word in ("cut-a", "words", "nested", "no_ids-a", "odd_ids-a")) and "good-a" not in said
    assert {"mine", "held", "fine", "infinite"} <= set(summary["metrics"])
    assert compare(str(copied.folder), str(copied.folder), str(copied.folder.parent / "out")).shared_prompts == 3


def test_cost_survives_a_report_that_is_built_again(copied: Dataset) -> None:
    url = str(copied.folder)
    first = report(url, price_per_hour=36.0).as_json()["run"]
    again = report(url).as_json()["run"]
    assert again["price_per_hour"] == 36.0 and again["cost"] == first["cost"] > 0
    assert report(url, price_per_hour=72.0).as_json()["run"]["cost"] == pytest.approx(2 * first["cost"])


def test_a_single_file_never_tells_old_numbers(copied: Dataset) -> None:
    """Of the last report, whoever built it: a run that made more, too."""
    page = copied.folder / "report" / "single-file.html"
    report(str(copied.folder), single_file=True)
    page.write_text("old numbers")
    report(str(copied.folder))
    assert "old numbers" not in page.read_text() and "<html" in page.read_text()
