"""An output as it is opened, and what is said where it cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from promptmill.pipeline.dataset.claim import claim_output
from promptmill.pipeline.dataset.open import open_dataset, open_output
from promptmill.pipeline.planning.plan import plan_job
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import InputError, JobError, OutputMismatchError
from tests.heart.mill import memory, small_plan


def test_a_folder_is_opened_whether_it_is_there_or_not(tmp_path: Path) -> None:
    assert open_output(str(tmp_path)).root == str(tmp_path)
    assert open_output(str(tmp_path / "new" / "deep"), "output.url").url == str(tmp_path / "new" / "deep")
    assert open_output("memory://x").url == "memory://x"


@pytest.mark.parametrize(("field", "hint"), [("", "Give the job's output.url"), ("output.url", "Choose another")])
def test_what_is_in_the_way_of_a_folder(tmp_path: Path, field: str, hint: str) -> None:
    (tmp_path / "file").write_text("")
    long = tmp_path / ("x" * 300)
    lead = f"{field}: " if field else ""
    for path, got in (
        (tmp_path / "file", "a file"),
        (tmp_path / "file" / "x", "a path below a file"),
        (long, "a name that is too long"),
    ):
        with pytest.raises(JobError) as caught:
            open_output(str(path), field)
        assert str(caught.value) == (f"{lead}{path}: expected a folder, or the name of a new one, got {got}. {hint}")


@pytest.mark.parametrize(("field", "lead"), [("", ""), ("output.url", "output.url: ")])
def test_a_url_with_a_password_is_refused_without_it(field: str, lead: str) -> None:
    with pytest.raises(InputError) as caught:
        open_output("s3://me:hush@bucket/x", field)
    assert str(caught.value) == (
        f"{lead}s3://***@bucket/x: expected a URL without user and password, got one that holds them. "
        "Give credentials in the environment"
    )


def test_what_is_in_the_way_on_a_disk_is_not_looked_for_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The root of an object store is no path of this machine, though it may read like one."""
    store = Store(f"memory://{tmp_path}/file")
    (tmp_path / "file").write_text("")
    assert store.root == str(tmp_path / "file")
    assert open_output(store.url).url == store.url


def test_options_reach_the_store(tmp_path: Path) -> None:
    heard: list[str] = []
    assert open_output(str(tmp_path), patience_s=7.0).patience_s == 7.0
    claim_output(small_plan(tmp_path / "prompts"), Store(str(tmp_path / "out")))
    plan, store = open_dataset(str(tmp_path / "out"), on_wait=heard.append)
    store.on_wait("waiting")
    assert (plan.shards, heard) == (3, ["waiting"])


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        *((entry, "a file of the source without its number of rows") for entry in (5, {"rows": "1", "etag": "e"})),
        ({"rows": 1}, "prompts.source.b.parquet.rows: expected 1, as in the dataset there, got nothing"),
    ],
)
def test_fields_that_say_too_little_of_a_file(tmp_path: Path, entry: object, words: str) -> None:
    """`run` looked for the etag of each file, and ended in a KeyError or TypeError."""
    store, plan = memory(), small_plan(tmp_path)
    claim_output(plan, store)
    content = json.loads(store.read("job.json"))
    content["fields"]["prompts"]["source"]["b.parquet"] = entry
    store.put("job.json", json.dumps(content).encode())
    with pytest.raises(OutputMismatchError, match=words):
        claim_output(plan, store)
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes())
    with pytest.raises(OutputMismatchError):
        claim_output(plan_job(plan.job), store)
