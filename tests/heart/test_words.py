"""Small functions whose words and names people and programs read: each says exactly this."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from promptmill.pipeline.dataset.claim import _short
from promptmill.pipeline.dataset.keys import hash_in_name, is_temporary
from promptmill.pipeline.dataset.open import open_output
from promptmill.pipeline.dataset.records import to_parquet
from promptmill.pipeline.dataset.retry import plan_retry
from promptmill.pipeline.dataset.state import failure_kinds, newest_object, read_footers
from promptmill.pipeline.display import first_line, letters
from promptmill.pipeline.planning.fingerprint import differing_fields
from promptmill.pipeline.planning.variants import describe_axes, model_name
from promptmill.schemas.errors import JobError, Problem
from tests.heart.mill import job, make_missing, memory, run_small, small_plan


def test_names_of_objects() -> None:
    assert hash_in_name("rejects/part-000007-0123456789ab.parquet") == "0123456789ab"
    assert hash_in_name("rejects/part-000007.parquet") == ""
    word = "0" * 32
    assert all(map(is_temporary, (word, f".tmp/{word}", f".tmp/clock-{word}", f"a/.tmp/taken-{word}")))
    assert is_temporary(f".tmp/run-{'0' * 16}-x")
    assert not any(map(is_temporary, ("x", f".tmp/{word}0", f".tmp/mine-{word}", f"run-{'0' * 15}")))


def test_failures_are_counted_by_kind_and_those_that_a_retry_made_are_none(tmp_path: Path) -> None:
    store = memory()
    plan = run_small(tmp_path, store, broken=["square", "star"])
    found = failure_kinds(plan, store, read_footers(plan, store))
    assert list(found.items()) == [("generation", 4), ("empty_prompt", 2)]
    grown = plan_retry(plan, store)
    make_missing(grown, store, broken=["star"])
    assert failure_kinds(grown, store, read_footers(grown, store)) == {"generation": 2, "empty_prompt": 2}
    for entry in store.list("failures"):
        store.delete(entry.name)
    assert failure_kinds(grown, store, read_footers(grown, store)) == {}


def test_failures_whose_columns_have_other_names_are_passed_over(tmp_path: Path) -> None:
    """One byte of a footer makes `error_kind` another name: `status` ended in a traceback."""
    store = memory()
    plan = run_small(tmp_path, store, broken=["square"])
    footers = read_footers(plan, store)
    assert failure_kinds(plan, store, footers)
    for entry in store.list("failures"):
        table = pq.read_table(pa.BufferReader(store.read(entry.name)))
        names = ["error_kine" if name == "error_kind" else name for name in table.column_names]
        store.put(entry.name, to_parquet(table.rename_columns(names)))
    assert failure_kinds(plan, store, footers) == {}


def test_the_newest_object_is_the_one_written_last(tmp_path: Path) -> None:
    store = memory()
    assert newest_object(store) is None
    for name in ("part-000001", "part-000000", "other"):
        store.put(f"data/{name}.parquet", to_parquet(pa.table({"x": [1]})))
    newest = newest_object(store)
    assert newest is not None
    assert newest.name == "data/part-000000.parquet"


def test_a_folder_of_a_ray_job_is_no_place_for_a_dataset() -> None:
    url = "/tmp/ray/session_latest/runtime_resources/working_dir_files/_ray_pkg_0/out"
    with pytest.raises(JobError) as caught:
        open_output(url, "output.url")
    assert str(caught.value) == (
        f"output.url: {url}: expected a place that stays, got one in the working folder of a Ray job, which each node "
        "has for itself and which Ray deletes. Give object storage, or the absolute path of a folder that all nodes "
        "share"
    )


def test_values_in_messages() -> None:
    assert _short(None) == "nothing"
    assert _short("zwölf") == '"zwölf"'
    assert _short("x" * 300) == f'"{"x" * 196}…'


def test_an_unfinished_dataset_is_named(tmp_path: Path) -> None:
    plan, store = small_plan(tmp_path), memory()
    with pytest.raises(JobError, match="expected a finished dataset, got 3 shards missing"):
        plan_retry(plan, store)


def test_what_an_error_says() -> None:
    two = JobError(Problem("a", "b", "c"), Problem("d", "e", "f"))
    assert letters(two) == ["a: expected b, got c", "d: expected e, got f"]
    assert letters(ValueError("one\ntwo")) == ["one\\ntwo"]
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(ValueError("x" * 300)) == "x" * 200
    assert first_line(ValueError()) == "ValueError"


def test_fields_that_differ() -> None:
    assert differing_fields({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "c": 2}) == [("a.b", 1, 3)]
    assert differing_fields({"a": 1}, {"b": 2}) == [("a", 1, None), ("b", None, 2)]


def test_axes_in_words(tmp_path: Path) -> None:
    sweep = {"guidance_scale": [1, 2], "num_inference_steps": [1, 2, 3]}
    assert describe_axes(job(tmp_path, sweep=sweep)) == "num_inference_steps 3 × guidance_scale 2"
    less = {**sweep, "exclude": [{"guidance_scale": 1, "num_inference_steps": 3}]}
    assert describe_axes(job(tmp_path, sweep=less)) == "num_inference_steps 3 × guidance_scale 2, 1 excluded"


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ({"path": "a"}, "a"),
        ({"path": "a", "dtype": "float16", "revision": None}, "a dtype float16"),
        ({"path": "a", "dtype": "auto"}, "a"),
        ({"path": "a", "adapters": [{"name": "x"}, {"name": "y", "weight": 0.75}]}, "a + x + y × 0.75"),
        ({"controlnets": [{"name": "z", "scale": 0.5}]}, "builtin:shapes + z × 0.5"),
        ({"other": 1}, "{'other': 1}"),
    ],
)
def test_models_of_a_sweep_by_name(model: dict[str, object], name: str) -> None:
    assert model_name(model) == name
