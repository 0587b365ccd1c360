"""What a dataset that somebody else made can make this machine read: itself, and what its user has named."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import promptmill
from promptmill.jobs.trust import reach_of
from promptmill.pipeline.dataset.retry import plan_retry
from promptmill.pipeline.planning.plan_json import from_json
from promptmill.pipeline.prompts.inputs import InputReader
from promptmill.pipeline.prompts.reach import Reach, remember_places
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import JobError, SampleError
from tests.engine.conftest import Answer, records

Cli = Callable[..., Answer]
Job = Callable[..., Path]
MODEL = {"path": "builtin:shapes"}


def _picture(shade: int) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(np.full((64, 64, 3), shade, np.uint8)).save(sink, "PNG")
    return sink.getvalue()


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What somebody else made in a folder of his: `out`, from two images of which one was not there."""
    folder = tmp_path_factory.mktemp("theirs")
    (folder / "images").mkdir()
    (folder / "images" / "a.png").write_bytes(_picture(90))
    rows = [{"prompt": "a red circle", "image": f"images/{name}.png"} for name in ("a", "b")]
    (folder / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    job = {
        "name": "theirs",
        "prompts": {"source": str(folder / "p.jsonl"), "columns": {"image": "image"}},
        "model": MODEL,
        "generation": {"num_inference_steps": 2, "strength": 0.5},
        "output": {"url": str(folder / "out")},
    }
    (folder / "job.yaml").write_text(json.dumps(job))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROMPTMILL_STATE_DIR", str(folder / "state"))
        assert promptmill.run(folder / "job.yaml", in_process=True).failed == 1
    return folder


@pytest.fixture
def stranger(theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the dataset, where another user has it."""
    monkeypatch.setenv("PROMPTMILL_STATE_DIR", str(tmp_path / "my-state"))
    yield Path(shutil.copytree(theirs / "out", tmp_path / "out"))
    (theirs / "images" / "a.png").write_bytes(_picture(90))
    (theirs / "images" / "b.png").unlink(missing_ok=True)


def _rewrite(path: Path, **columns: Any) -> None:
    table = pq.read_table(path)
    for name, value in columns.items():
        place = table.column_names.index(name)
        table = table.set_column(place, table.schema.field(name), pa.array([value] * table.num_rows))
    pq.write_table(table, path)


@pytest.mark.parametrize("where", ["path", "url", "upwards", "a column", "a link"])
def test_a_retry_reads_no_image_elsewhere(stranger: Path, tmp_path: Path, cli: Cli, where: str) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(_picture(10))
    (stranger / "inputs" / "link").symlink_to(tmp_path)
    places = {
        "path": str(secret),
        "url": "http://169.254.169.254/latest/meta-data/x.png",
        "upwards": f"{stranger}/inputs/../../secret.png",
        "a column": f"row:{tmp_path}/prompts.parquet#prompt:0",
        "a link": f"{stranger}/inputs/link/secret.png",
    }
    (failures,) = (stranger / "failures").iterdir()
    _rewrite(failures, input_image=places[where])
    before = sorted(str(path) for path in stranger.rglob("*"))
    answer = cli("retry", stranger, "--in-process")
    assert answer.code == 2, answer
    assert "--trust-dataset" in answer.err and "elsewhere" in answer.err
    assert sorted(str(path) for path in stranger.rglob("*")) == before
    if where == "path":
        assert cli("retry", stranger, "--in-process", "--trust-dataset").code == 0
        assert len(records(stranger)) == 2


def test_a_retry_that_a_stranger_has_begun(stranger: Path, tmp_path: Path, cli: Cli) -> None:
    plan, store = from_json((stranger / "job.json").read_bytes()), Store(str(stranger))
    plan_retry(plan, store)
    (copy,) = (stranger / "inputs").glob("retry-*.parquet")
    _rewrite(copy, input_image="/etc/hostname")
    answer = cli("retry", stranger, "--in-process")
    assert answer.code == 2 and "/etc/hostname" in answer.err


def test_the_users_own_job_names_its_place(
    stranger: Path, theirs: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    (theirs / "images" / "b.png").write_bytes(_picture(200))
    assert cli("retry", stranger, "--in-process").code == 2
    monkeypatch.setenv("PROMPTMILL_STATE_DIR", str(theirs / "state"))  # as who made it
    assert cli("retry", stranger, "--in-process").code == 0
    assert len(records(stranger)) == 2


def test_a_job_given_beside_it_names_its_place(stranger: Path, theirs: Path) -> None:
    store = Store(str(stranger))
    plan = from_json((stranger / "job.json").read_bytes())
    with pytest.raises(JobError, match="elsewhere"):
        plan_retry(plan, store, reach_of(store, trusted=False, job=None))
    plan_retry(plan, store, reach_of(store, trusted=False, job=str(theirs / "job.yaml")))


def test_a_job_whose_prompts_are_gone_names_no_place(tmp_path: Path) -> None:
    """Its models are trusted all the same: a retry needs the prompts no more."""
    content = {"name": "x", "prompts": {"source": str(tmp_path / "gone")}, "output": {"url": str(tmp_path / "out")}}
    (tmp_path / "job.yaml").write_text(json.dumps(content))
    reach = reach_of(Store(str(tmp_path / "out")), trusted=False, job=str(tmp_path / "job.yaml"))
    assert reach == Reach((str(tmp_path / "out"),))


def test_reproduce_reads_what_the_row_has_the_hash_of(
    stranger: Path, theirs: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (row,) = records(stranger)
    answer = cli("reproduce", stranger, row["sample_id"], "--json")
    assert answer.code == 0 and answer.json["identical"], answer
    (theirs / "images" / "a.png").write_bytes(_picture(91))  # what lies there now is somebody's own
    answer = cli("reproduce", stranger, row["sample_id"])
    assert answer.code == 2 and "outside the dataset" in answer.err, answer


def test_reproduce_reads_no_prompts_elsewhere(
    tmp_path: Path, cli: Cli, job: Job, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMPTMILL_STATE_DIR", str(tmp_path / "their-state"))
    assert cli("run", job(model=MODEL, score=None, generation={"images_per_prompt": 1}), "--in-process").code == 0
    monkeypatch.setenv("PROMPTMILL_STATE_DIR", str(tmp_path / "my-state"))
    monkeypatch.chdir(tmp_path)
    out, sample = tmp_path / "out", records(tmp_path / "out")[0]["sample_id"]
    content = json.loads((out / "job.json").read_text())
    (file,) = content["plan"]["segments"][0]["files"]
    assert cli("reproduce", out, sample).code == 0  # the file is the one that the plan has the hash of
    for change in ({"digest": None}, {"path": "s3://somebody/p.parquet"}, {"path": "http://10.0.0.1/p.parquet"}):
        content["plan"]["segments"][0]["files"] = [{**file, **change}]
        (out / "job.json").write_text(json.dumps(content))
        answer = cli("reproduce", out, sample)
        assert answer.code == 2 and "--trust-dataset" in answer.err, answer


def test_a_report_shows_no_image_elsewhere(stranger: Path, theirs: Path, cli: Cli) -> None:
    def shown() -> bool:
        pages = b"".join(path.read_bytes() for path in (stranger / "report" / "data").iterdir())
        return b'"inputs":{"image":[' in pages and b'"inputs":{"image":[-1' not in pages

    assert cli("report", stranger).code == 0
    assert shown()
    (theirs / "images" / "a.png").write_bytes(_picture(91))
    shutil.rmtree(stranger / "report")
    assert cli("report", stranger).code == 0
    assert not shown()


@pytest.mark.parametrize(
    "name", ["../prompts.parquet", "inputs/../../x.parquet", "/etc/x", "data/part-000000.parquet", ""]
)
def test_copies_of_prompts_lie_below_inputs(stranger: Path, name: str, cli: Cli) -> None:
    content = json.loads((stranger / "job.json").read_text())
    content["plan"]["segments"][0]["files"][0]["path"] = f"staged:{name}"
    (stranger / "job.json").write_text(json.dumps(content))
    assert cli("status", stranger).code == 2


NAMED: dict[str, tuple[tuple[Any, ...], Any]] = {
    "a model that is not built in": (("plan", "models", 0, "path"), "builtin:unknown"),
    "a model of a path": (("plan", "models", 0, "path"), "builtin:../../../etc"),
    "a class that is none": (("plan", "models", 0, "pipeline_class"), "os"),
    "a function of diffusers": (("plan", "models", 0, "pipeline_class"), "utils"),
    "a number format": (("plan", "models", 0, "dtype"), "load"),
    "a type that holds no weights": (("plan", "models", 0, "dtype"), "bool"),
    "a scheduler": (("job", "generation", "scheduler"), "builtin:unknown"),
    "a column of prompts": (("job", "prompts", "columns", "prompt"), "zz"),
    "a column of seeds": (("job", "prompts", "columns", "seed"), "zz"),
    "a column of images": (("job", "prompts", "columns", "image"), "zz"),
    "the model's own scheduler": (("plan", "models", 0, "scheduler"), "../../x"),
}
"""Fields that a command takes as a key, a class or a path."""


@pytest.mark.parametrize("name", NAMED)
def test_names_that_lead_nowhere(stranger: Path, theirs: Path, tmp_path: Path, name: str, cli: Cli) -> None:
    (theirs / "images" / "b.png").write_bytes(_picture(200))
    content = json.loads((stranger / "job.json").read_text())
    (*way, last), value = NAMED[name]
    parent = content
    for key in way:
        parent = parent[key]
    parent[last] = value
    (stranger / "job.json").write_text(json.dumps(content))
    sample = records(stranger)[0]["sample_id"]
    again = ("reproduce", stranger, sample, "--out", tmp_path / "a.png")
    for command in (again, ("retry", stranger, "--in-process")) if "scheduler" in name else (again,):
        answer = cli(*command, "--trust-dataset")
        assert answer.code in (0, 2), answer
        assert "Traceback" not in answer.err and "defect" not in answer.err, answer.err


def test_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTMILL_STATE_DIR", str(tmp_path / "state"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "out").symlink_to("/etc")
    remember_places([str(tmp_path / "mine"), "s3://bucket/mine"])
    reach = Reach((str(tmp_path / "dataset"),))
    near = [tmp_path / "mine" / "a" / "b.png", tmp_path / "dataset" / "x", "s3://bucket/mine/a.png", "s3://bucket/mine"]
    far = [tmp_path / "x.png", tmp_path / "mine2" / "x", tmp_path / "mine" / "out" / "hostname", tmp_path, "/", ""]
    far += ["s3://bucket/mine2/a.png", "s3://bucket/mine/../a.png", "s3://bucket/mine/%2e%2E/a.png", "s3://other/mine"]
    far += ["http://bucket/mine/a.png", f"file://{tmp_path}/x.png", f"{tmp_path}/mine/../x.png"]
    assert [reach.holds(str(place)) for place in near] == [True] * len(near)
    assert [place for place in far if reach.holds(str(place))] == []
    assert not Reach().holds(os.sep)


def test_no_request_goes_to_a_place_that_nobody_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bytes:
        raise AssertionError("it was asked for")

    monkeypatch.setattr(InputReader, "_read_file", refuse)
    reader = InputReader(Store(str(tmp_path)), reach=Reach((str(tmp_path),), frozenset({"0" * 64})))
    for place in ("http://169.254.169.254/x", "s3://bucket/x", "row:staged:../../x.parquet#a:0", "row:/etc/x#a:0"):
        with pytest.raises(SampleError, match="outside the dataset"):
            reader.read(place)


def _crafted(folder: Path, **change: Any) -> None:
    """A segment that was added to the dataset of somebody else's, as `run --extend` writes them."""
    content = json.loads((folder / "job.json").read_text())
    (segment,) = content["plan"]["segments"]
    file = {**segment["files"][0], "name": "more.parquet", "digest": None, "version": None}
    kind = change.pop("kind", "extend")
    added = {**segment, "kind": kind, "first_shard": segment["shards"], "files": [{**file, **change}]}
    added |= {"variant": 0, "ends": [segment["prompts"]]} if kind == "retry" else {}
    (folder / "segments").mkdir(exist_ok=True)
    (folder / "segments" / f"{segment['shards']:09d}.json").write_text(json.dumps({"segments": [added], "source": {}}))


@pytest.mark.parametrize("kind", ["extend", "retry"])
def test_a_run_reads_no_prompts_that_a_stranger_has_added(stranger: Path, theirs: Path, cli: Cli, kind: str) -> None:
    secret = theirs / "secret.parquet"
    pq.write_table(pa.table({"prompt": ["my", "own"], "image": ["images/a.png"] * 2}), secret)
    _crafted(stranger, kind=kind, path=str(secret))
    for extra in ((), ("--extend",)):
        answer = cli("run", theirs / "job.yaml", "--set", f"output.url={stranger}", "--in-process", *extra)
        assert answer.code == 2 and "segments/" in answer.err, answer
    assert not any(row["prompt"] in ("my", "own") for row in records(stranger))
    assert cli("retry", stranger, "--in-process", "--trust-dataset").code == 2


@pytest.mark.parametrize("way", ["a path", "a cell of a copy"])
def test_a_run_reads_no_image_that_a_stranger_s_copy_names(
    stranger: Path, theirs: Path, tmp_path: Path, cli: Cli, way: str
) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(_picture(10))
    content = json.loads((stranger / "job.json").read_text())
    (file,) = content["plan"]["segments"][0]["files"]
    copy = stranger / file["path"].removeprefix("staged:")
    place = str(secret)
    if way != "a path":
        pq.write_table(pa.table({"image": [{"bytes": None, "path": place}]}), stranger / "inputs" / "cells.parquet")
        place = "row:staged:inputs/cells.parquet#image:0"
        plan, store = from_json((stranger / "job.json").read_bytes()), Store(str(stranger))
        plan_retry(plan, store)
        (copy,) = (stranger / "inputs").glob("retry-*.parquet")
        _rewrite(copy, input_image=place)
        (segment,) = (stranger / "segments").iterdir()
        added = json.loads(segment.read_text())
        added["segments"][0]["files"][0] |= {"digest": None, "version": None}
        segment.write_text(json.dumps(added))
    else:
        _rewrite(copy, image=place)
        content["plan"]["segments"][0]["files"][0] |= {"digest": None, "version": None}
        (stranger / "job.json").write_text(json.dumps(content))
        (data,) = (stranger / "data").iterdir()
        data.unlink()
    own = ("run", theirs / "job.yaml", "--set", f"output.url={stranger}", "--in-process")
    answer = cli(*own)
    assert answer.code == 2 and str(secret) in answer.err, answer
    if way != "a path":
        assert cli("retry", stranger, "--in-process").code == 2


def test_a_run_goes_on_with_images_that_its_own_prompts_name(theirs: Path, tmp_path: Path, cli: Cli) -> None:
    """Absolute paths outside of the folder of the prompts."""
    (tmp_path / "mine").mkdir()
    rows = [{"prompt": "a red circle", "image": str(theirs / "images" / "a.png")}]
    (tmp_path / "mine" / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    out, source = tmp_path / "mine" / "out", tmp_path / "mine" / "p.jsonl"
    own = ("run", theirs / "job.yaml", "--set", f"output.url={out}", "--set", f"prompts.source={source}")
    assert cli(*own, "--in-process").code == 0
    (data,) = (out / "data").iterdir()
    data.unlink()
    assert cli(*own, "--in-process").code == 0
    assert len(records(out)) == 1


@pytest.mark.parametrize("value", [7, "../../secret.png", [{"a": "b"}], {"image": 7}, {"image": "../job.json"}])
@pytest.mark.parametrize("name", ["input_image", "input_image_sha256"])
def test_what_a_row_says_of_its_image_may_be_anything(stranger: Path, cli: Cli, name: str, value: Any) -> None:
    (path,) = (stranger / "data").iterdir()
    table = pq.read_table(path)
    place = table.column_names.index(name)
    pq.write_table(table.set_column(place, name, pa.array([value] * table.num_rows)), path)
    answer = cli("report", stranger)
    assert answer.code in (0, 2) and "Traceback" not in answer.err, answer
