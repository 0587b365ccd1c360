"""Small functions whose words and names people and programs read: each says exactly this."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from promptmill.pipeline.dataset.claim import _short, claim_output
from promptmill.pipeline.dataset.keys import hash_in_name, is_temporary
from promptmill.pipeline.dataset.open import _in_the_way, located, open_output, read_plan
from promptmill.pipeline.dataset.records import to_parquet
from promptmill.pipeline.dataset.retry import plan_retry
from promptmill.pipeline.dataset.state import failure_kinds, newest_object, read_footers, read_receipts
from promptmill.pipeline.display import first_line, letters, local_time
from promptmill.pipeline.planning.fingerprint import differing_fields
from promptmill.pipeline.planning.plan import plan_job
from promptmill.pipeline.planning.variants import describe_axes, model_name, shown_value
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.generation import Model
from tests.heart.mill import job, make_missing, memory, run_small, small_plan, write_prompts


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
    store.put("data/part-000001.parquet", to_parquet(pa.table({"x": [1]})))
    newest = newest_object(store)
    assert newest is not None
    assert newest.name == "data/part-000001.parquet"


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
    assert letters(JobError()) == [""]


def test_times_for_people() -> None:
    told = local_time(1_700_000_000.75)
    assert datetime.fromisoformat(told).timestamp() == 1_700_000_000
    assert len(told) == len("2023-11-14T22:13:20+00:00")


def test_receipts_that_hold_no_numbers_are_named(tmp_path: Path) -> None:
    store = memory()
    run_small(tmp_path, store)
    key = "receipts/part-000000.json"
    content = json.loads(store.read(key))
    for attempts, problems in (
        (2**53 - 1, []),
        (2**53, [f"{key}: left out: a number that is negative or not finite"]),
    ):
        store.put(key, json.dumps({**content, "attempts": attempts}).encode())
        told: list[str] = []
        assert len(read_receipts(store, told)) == 3 - len(problems)
        assert told == problems


def test_a_path_that_nothing_bars(tmp_path: Path) -> None:
    assert _in_the_way(tmp_path) == _in_the_way(tmp_path / "new") == ""
    (tmp_path / "file").touch()
    assert _in_the_way(tmp_path / "file") == "a file"
    assert _in_the_way(tmp_path / "file" / "below") == "a path below a file"
    assert _in_the_way(tmp_path / ("x" * 300)) == "a name that is too long"


def test_relative_places_are_found_beside_a_local_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From another folder too, where the dataset is on this machine."""
    monkeypatch.chdir(tmp_path)
    Path("prompts").mkdir()
    write_prompts(Path("prompts/a.parquet"))
    plan = plan_job(job(Path("prompts"), output={"url": "out"}))
    local = Store(str(tmp_path / "out"))
    claim_output(plan, local)
    monkeypatch.chdir("/")
    stored = read_plan(local)
    assert stored is not None
    assert located(stored, local).segments[0].files[0].path == str(tmp_path / "prompts" / "a.parquet")
    assert located(stored, memory()).segments[0].files[0].path != str(tmp_path / "prompts" / "a.parquet")


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


def test_a_model_is_shown_by_what_tells_it_from_its_defaults() -> None:
    assert shown_value(Model(path="a", dtype="float16")) == "a dtype float16"
    assert shown_value(Model(path="a")) == "a"
    assert shown_value(2.5) == 2.5
