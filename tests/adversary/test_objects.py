"""Every object of a dataset that a command reads, spoiled: the command names it, or leaves it out and says so."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from promptmill.jobs.status import _run, _sentence
from promptmill.opened import Dataset
from promptmill.pipeline.dataset.open import open_dataset
from promptmill.pipeline.dataset.selections import read_selected
from promptmill.pipeline.execution.heartbeat import KEY
from promptmill.pipeline.prompts.reader import PromptReader
from promptmill.pipeline.report.before import run_before
from promptmill.pipeline.report.build import build_report
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import JobError, PromptmillError
from promptmill.schemas.plan import STAGED
from tests.adversary import junk
from tests.engine.conftest import Answer
from tests.heart.conftest import YESTERDAY

Cli = Callable[..., Answer]
FEW = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
REFERENCE: dict[str, Any] = {
    "reference": "photos",
    "reference_images": 20,
    "reference_left_out": 1,
    "left_out": 2,
    "features": "builtin:shapes",
    "features_revision": "abc",
    "dimensions": 64,
    "cells": [{"name": "all samples", "variant": "{}", "images": 18, "fid": 1.5, "kid": 0.1, "kid_std": 0.01}],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset of yesterday: kept, rejected and failed samples, retries and an extension, scores and a report."""
    folder = tmp_path_factory.mktemp("objects") / "dataset"
    shutil.copytree(YESTERDAY / "dataset", folder)
    for file in (folder / "job.json", *(folder / "segments").iterdir()):
        file.write_text(file.read_text().replace("{home}", str(YESTERDAY)))
    (folder / "scores" / "reference-0123456789ab.json").write_text(json.dumps(REFERENCE))
    build_report(*open_dataset(str(folder)))
    return folder


@contextlib.contextmanager
def spoiled_object(path: Path, content: bytes) -> Iterator[None]:
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)


def check(answer: Answer, started: float) -> None:
    assert answer.code in (0, 1, 2, 3, 4), answer
    assert "Traceback" not in answer.err, answer.err
    assert "defect of Promptmill" not in answer.err, answer.err
    assert time.monotonic() - started < 20


def check_all(cli: Cli, made: Path, *commands: str) -> None:
    for command in commands:
        started = time.monotonic()
        extra = ("--deep",) if command == "verify" else ()
        check(cli(command, made, *extra), started)
    with contextlib.suppress(PromptmillError):
        next(iter(Dataset(str(made))), None)


@settings(FEW, max_examples=60)
@given(data=st.data())
def test_a_heartbeat(made: Path, data: st.DataObject) -> None:
    beat = {"state": "running", "error": "", "host": "a", "process": 7, "began": 1.5, "beat": 2.5, "samples": 4}
    beat |= {"samples_done": 2, "images_per_second": 0.5, "eta_s": 4, "workers": 1, "last_shard": 0}
    content = data.draw(junk.spoiled(json.dumps(beat).encode()))
    store = Store(str(made))
    (made / KEY).write_bytes(content)
    shown = _run(store)
    assert shown is None or (_sentence(shown) and json.dumps(asdict(shown), allow_nan=False))


@settings(FEW, max_examples=60)
@given(data=st.data())
def test_the_summary_of_the_report_before(made: Path, data: st.DataObject) -> None:
    """Its hours and its price are taken over, where it is one of this job."""
    path = made / "report" / "summary.json"
    plan, store = open_dataset(str(made))
    with spoiled_object(path, data.draw(junk.spoiled(path.read_bytes()))):
        before = run_before(plan, store)
    for value in (before.wall_seconds, before.price_per_hour):
        assert value is None or 0 <= value < float("inf")


@pytest.mark.parametrize("columns", [("sample_id",), ("reason",), ("sample_id", "reason")])
@settings(FEW, max_examples=8)
@given(data=st.data())
def test_selections(columns: tuple[str, ...], made: Path, data: st.DataObject) -> None:
    ids = [record.sample_id for record in Dataset(str(made))]
    table = pa.table({"sample_id": ids, "reason": pa.array(["x"] + [None] * (len(ids) - 1), pa.string())})
    for name in columns:
        place, kind = table.column_names.index(name), data.draw(st.sampled_from([*KINDS, "broken"]))
        broken = pa.array([b"\xff"] * len(ids)).view(pa.string())
        column = broken if kind == "broken" else None if kind == "gone" else _other(table.column(name), kind)
        table = table.remove_column(place)
        table = table if column is None else table.add_column(place, name, column)
    (made / "selections").mkdir(exist_ok=True)
    pq.write_table(table, made / "selections" / "odd.parquet")
    with contextlib.suppress(PromptmillError):
        assert len(Dataset(str(made), "odd")) >= 0
        read_selected(*open_dataset(str(made)), "odd")


@FEW
@given(flips=st.lists(st.tuples(st.integers(0, 20_000), st.integers(0, 255)), min_size=1, max_size=3))
def test_copies_of_prompts(made: Path, flips: list[tuple[int, int]]) -> None:
    """What retries and extensions read: another byte is another file, and never a row."""
    plan, store = open_dataset(str(made))
    segment = next(each for each in plan.segments if each.files[0].path.startswith(STAGED))
    path = made / segment.files[0].path.removeprefix(STAGED)
    content = bytearray(path.read_bytes())
    for place, value in flips:
        content[place % len(content)] = value
    same = bytes(content) == path.read_bytes()
    with spoiled_object(path, bytes(content)):
        reader = PromptReader(segment.files, store, plan.source_schema, plan.job.prompts.mapped)
        if segment.files[0].digest is not None and not same:
            with pytest.raises(JobError):
                reader.read(0, segment.prompts)
        else:
            with contextlib.suppress(PromptmillError):
                reader.read(0, segment.prompts)


JSON_OBJECTS = ["job.json", "segments/first", "segments/last", "receipts/first", "scores/reference-0123456789ab.json"]


def path_of(made: Path, name: str) -> Path:
    folder, _, which = name.partition("/")
    if which in ("first", "last"):
        return sorted((made / folder).iterdir())[0 if which == "first" else -1]
    return made / name


@pytest.mark.parametrize("name", JSON_OBJECTS)
@FEW
@given(data=st.data())
def test_json(name: str, made: Path, cli: Cli, data: st.DataObject) -> None:
    path = path_of(made, name)
    with spoiled_object(path, data.draw(junk.spoiled(path.read_bytes()))):
        check_all(cli, made, "status", "verify")


@pytest.mark.parametrize("name", JSON_OBJECTS)
@settings(FEW, max_examples=2)
@given(data=st.data())
def test_a_report_beside_spoiled_json(name: str, made: Path, cli: Cli, data: st.DataObject) -> None:
    path = path_of(made, name)
    with spoiled_object(path, data.draw(junk.spoiled(path.read_bytes()))):
        check_all(cli, made, "report")


OBJECTS = ["data", "rejects", "failures", "scores"]


def parquet_of(made: Path, folder: str) -> Path:
    return next(path for path in sorted((made / folder).glob("*.parquet")) if pq.read_metadata(path).num_rows)


@pytest.mark.parametrize("folder", OBJECTS)
@FEW
@given(flips=st.lists(st.tuples(st.integers(0, 20_000), st.integers(0, 255)), min_size=1, max_size=3))
@example(flips=[(143, 0)])  # OSError while rows of data are read
@example(flips=[(126, 128)])  # a name of a column that is no UTF-8, in failures
def test_footers_of_parquet(folder: str, made: Path, cli: Cli, flips: list[tuple[int, int]]) -> None:
    path = parquet_of(made, folder)
    content = bytearray(path.read_bytes())
    length = int.from_bytes(content[-8:-4], "little")
    for place, value in flips:
        content[len(content) - 8 - length + place % (length + 4)] = value
    with spoiled_object(path, bytes(content)):
        check_all(cli, made, "status", "verify")


@pytest.mark.parametrize("folder", ["data"])
@FEW
@given(data=st.data())
def test_what_a_footer_of_ours_says(folder: str, made: Path, cli: Cli, data: st.DataObject) -> None:
    path = parquet_of(made, folder)
    table = pq.read_table(path)
    metadata = dict(table.schema.metadata)
    metadata[b"promptmill"] = data.draw(junk.spoiled(metadata[b"promptmill"]))
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata), sink)
    with spoiled_object(path, sink.getvalue()):
        check_all(cli, made, "status", "verify")


def _other(column: pa.ChunkedArray, kind: str) -> pa.Array:
    rows = len(column)
    others = {
        "null": pa.nulls(rows),
        "number": pa.array([7] * rows),
        "huge": pa.array([2**62] * rows),
        "nan": pa.array([float("nan")] * rows),
        "text": pa.array(["x"] * rows),
        "brackets": pa.array(["[" * 100_000] * rows),
        "list": pa.array([["a", None]] * rows),
        "struct": pa.array([{"bytes": b"x", "a": {"b": None}}] * rows),
        "bytes": pa.array([b"\xff\x00"] * rows),
        "dictionary": pa.array(["y"] * rows).dictionary_encode(),
        "time": pa.array([0] * rows).cast(pa.timestamp("ns")),
    }
    return others[kind]


KINDS = ["null", "number", "huge", "nan", "text", "brackets", "list", "struct", "bytes", "dictionary", "time", "gone"]


@pytest.mark.parametrize("folder", OBJECTS)
@settings(FEW, max_examples=4)
@given(data=st.data())
def test_columns_of_other_kinds(folder: str, made: Path, cli: Cli, data: st.DataObject) -> None:
    path = parquet_of(made, folder)
    table = pq.read_table(path)
    for name in data.draw(st.lists(st.sampled_from(table.column_names), min_size=1, max_size=2, unique=True)):
        kind, place = data.draw(st.sampled_from(KINDS)), table.column_names.index(name)
        column = table.column(name)
        table = table.remove_column(place)
        if kind != "gone":
            table = table.add_column(place, name, _other(column, kind))
    sink = io.BytesIO()
    pq.write_table(table, sink)
    with spoiled_object(path, sink.getvalue()):
        check_all(cli, made, "verify", "report")
        started = time.monotonic()
        check(cli("export", made, made.parent / "exported", "--layout", "geneval"), started)
