"""The section `curate:` of a job: known to be right before anything is made, done once when all is."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from promptmill.pipeline import crashpoints
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.scores import reason_kind
from tests.curation.drawn import scenes, write_images
from tests.curation.test_curate import bytes_in
from tests.engine.test_balance import job_of_classes

Cli = Callable[..., Any]
Write = Callable[..., Path]


def rows(out: Path, folder: str) -> list[dict[str, Any]]:
    return [row for file in sorted((out / folder).glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


@pytest.fixture
def leaked(tmp_path: Path, job: Write, cli: Cli) -> Path:
    """A test set that holds the first image of the job."""
    made = cli("run", job(output={"url": str(tmp_path / "plain")}), "--in-process", "--json")
    assert made.code == 0, made.err
    (tmp_path / "test").mkdir()
    first = rows(tmp_path / "plain", "data")[0]
    Image.open(io.BytesIO(first["image"]["bytes"])).save(tmp_path / "test" / "planted.bmp")
    return tmp_path / "test"


def test_a_run_ends_with_the_curated_dataset_and_a_second_one_does_nothing(
    tmp_path: Path, job: Write, cli: Cli, leaked: Path
) -> None:
    plain = cli("status", tmp_path / "plain", "--json").json
    wanted = job(curate={"to": str(tmp_path / "curated"), "test": [str(leaked)]})
    ran = cli("run", wanted, "--in-process", "--json")
    assert ran.code == 0, ran.err
    told = ran.json["curated"]
    assert ran.json["fingerprint"] == told["input_fingerprint"] == plain["fingerprint"]
    assert (told["kept"], told["reasons"]) == (ran.json["kept"] - 1, {"leak": 1})
    assert [reason_kind(row["reason"]) for row in rows(tmp_path / "curated", "rejects")] == ["leak"]
    assert cli("verify", tmp_path / "curated", "--deep").code == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    again = cli("run", wanted, "--in-process", "--json").json
    assert (again["made"]["samples"], again["curated"]["reasons"]) == (0, {"leak": 1})
    written = {path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_mtime_ns != before.get(path)}
    assert {path.name for path in written} <= {"heartbeat.json"}


def test_another_curation_makes_no_image_anew(tmp_path: Path, job: Write, cli: Cli) -> None:
    assert cli("run", job(), "--in-process").code == 0
    ran = cli("run", job(curate={"to": str(tmp_path / "curated")}), "--in-process")
    assert ran.code == 0, ran.err
    assert "has nothing new to make" in ran.out
    assert "small curated: kept" in ran.out
    other = cli("run", job(curate={"to": str(tmp_path / "curated"), "quantile": 0.9}), "--in-process", "--json")
    assert other.code == 2
    assert "curate.quantile" in other.json["message"]
    elsewhere = cli("run", job(curate={"to": str(tmp_path / "other"), "quantile": 0.9}), "--in-process", "--json")
    assert elsewhere.json["made"]["samples"] == 0


class _Died(BaseException):
    pass


def test_a_run_that_dies_while_it_curates_goes_on(
    tmp_path: Path, job: Write, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wanted(to: str) -> Path:
        return job(curate={"to": str(tmp_path / to)})

    def die(_: int) -> None:
        raise _Died

    assert cli("run", wanted("undisturbed"), "--in-process").code == 0
    expected = bytes_in(tmp_path / "undisturbed" / "data") | bytes_in(tmp_path / "undisturbed" / "curation")
    monkeypatch.setattr(crashpoints.os, "_exit", die)
    for step in itertools.count(1, 4):
        to = f"died-{step}"
        monkeypatch.setenv("PROMPTMILL_TEST_CRASH", f"*:{step}")
        monkeypatch.setattr(crashpoints, "_passes", itertools.count(1))
        try:
            cli("run", wanted(to), "--in-process")
        except _Died:
            monkeypatch.delenv("PROMPTMILL_TEST_CRASH")
            again = cli("run", wanted(to), "--in-process", "--json").json
            assert (again["made"]["samples"], again["curated"]["reasons"]) == (0, {})
            assert bytes_in(tmp_path / to / "data") | bytes_in(tmp_path / to / "curation") == expected
            continue
        break
    assert step > 5


def test_what_came_later_needs_another_place(tmp_path: Path, job: Write, cli: Cli, source: Path) -> None:
    folder = tmp_path / "prompts"
    folder.mkdir()
    source.rename(folder / "one.parquet")
    wanted = {"prompts": {"source": str(folder)}, "curate": {"to": str(tmp_path / "curated")}}
    assert cli("run", job(**wanted), "--in-process").code == 0
    pq.write_table(pq.read_table(folder / "one.parquet"), folder / "two.parquet")
    refused = cli("run", job(**wanted), "--extend", "--in-process", "--json")
    assert refused.code == 2
    assert (
        "expected a curation of all samples of the input, got one of what was there before" in refused.json["message"]
    )
    shards = len(list((tmp_path / "out" / "data").iterdir()))
    wanted["curate"]["to"] = str(tmp_path / "later")
    ran = cli("run", job(**wanted), "--extend", "--in-process", "--json")
    assert ran.code == 0, ran.err
    assert (ran.json["shards_done"], ran.json["curated"]["shards_done"]) == (2 * shards, 2 * shards)


@pytest.mark.parametrize(
    ("asked", "field", "said"),
    [
        ({"to": "out"}, "to", "expected a place outside the job's output"),
        ({"to": "out/data/within"}, "to", "expected a place outside the job's output"),
        ({"to": "."}, "to", "which holds the job's output"),
        ({"to": "real/x", "real": ["real"]}, "to", "expected a place outside the real images"),
        ({"to": "x", "real": ["nowhere"]}, "real", "a folder of images"),
        ({"to": "x", "model": "no-such-model"}, "model", "expected"),
        ({"to": "x", "threshold": 0.9}, "model", "expected a model, of whose embeddings"),
        ({"to": "x", "percentiles": {"aes": 30}}, "percentiles", "expected a score that the job makes (clip)"),
        ({"to": "x", "label": "tga"}, "label", "expected a column of the dataset, got 'tga'. Did you mean tag?"),
        ({"to": "x", "quantil": 0.9}, "quantil", "Did you mean"),
        ({}, "to", "got nothing"),
    ],
)
def test_what_cannot_be_curated_is_refused_with_its_line(
    tmp_path: Path, job: Write, cli: Cli, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], field: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "real" / "one.png")
    file = job(curate=asked, output={"url": "out"})
    answer = cli("validate", file, "--json")
    assert answer.code == 2
    (problem,) = answer.json["problems"]
    assert f"curate.{field}" in problem["where"]
    assert "job.yaml" in problem["where"]
    assert said in answer.json["message"]


def test_a_place_that_is_another_jobs_is_refused_before_anything_is_made(tmp_path: Path, job: Write, cli: Cli) -> None:
    to = tmp_path / "curated"
    assert cli("run", job(curate={"to": str(to)}), "--in-process").code == 0
    assert cli("validate", job()).code == 0
    other = job(curate={"to": str(to)}, output={"url": str(tmp_path / "other")}, seed=7)
    for command in (("validate",), ("plan",), ("run", "--in-process")):
        refused = cli(*command, other, "--json")
        assert refused.code == 2
        assert "Choose another curate.to" in refused.json["message"]
    assert not (tmp_path / "other").exists()
    claim = json.loads((to / "job.json").read_text())
    claim["fields"]["curate"] = []
    (to / "job.json").write_text(json.dumps(claim))
    assert "curate" in cli("validate", job(curate={"to": str(to)}), "--json").json["message"]


def test_classes_that_are_short_are_not_curated_until_they_are_full(tmp_path: Path, cli: Cli) -> None:
    to = tmp_path / "curated"
    wanted = job_of_classes(tmp_path, tmp_path / "out", curate={"to": str(to)})
    one_round = ("--set", "select.max_rounds=1", "--in-process")
    ran = cli("run", wanted, *one_round)
    assert ran.code == 3
    assert "It is curated when no class is short" in ran.out
    assert not to.exists()
    assert cli("curate", tmp_path / "out", "--to", to, "--in-process").code == 0
    assert cli("run", wanted, *one_round).code == 3
    shards = list((tmp_path / "out" / "data").iterdir())
    refused = cli("run", wanted, "--in-process", "--json")
    assert refused.code == 2
    assert "curate.to" in refused.json["message"]
    assert list((tmp_path / "out" / "data").iterdir()) == shards


def test_the_report_says_of_a_class_how_many_the_curation_was_to_leave(tmp_path: Path, cli: Cli) -> None:
    classes = {"prompts": {"classes": {"circle": "a red circle"}}}
    wanted = job_of_classes(tmp_path, tmp_path / "out", curate={"to": str(tmp_path / "two"), "per_class": 2}, **classes)
    assert cli("run", wanted, "--in-process").code == 0
    for name, asked in (("out", 3), ("two", 2)):
        (told,) = json.loads((tmp_path / name / "report" / "summary.json").read_text())["classes"]
        assert (told["asked"], told["kept"]) == (asked, asked)


def test_a_percentile_of_classes_that_are_too_small_is_refused_before_they_are_made(tmp_path: Path, cli: Cli) -> None:
    asked = {"to": str(tmp_path / "curated"), "percentiles": {"verified": 30}}
    refused = cli("validate", job_of_classes(tmp_path, tmp_path / "out", curate=asked), "--json")
    assert "expected at least 10 images of each class, by select.per_class, got 3" in refused.json["message"]


def test_known_images_are_read_once_where_nothing_is_to_be_done(
    tmp_path: Path, job: Write, cli: Cli, leaked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = job(curate={"to": str(tmp_path / "curated"), "test": [str(leaked)]})
    assert cli("run", wanted, "--in-process").code == 0
    reads: list[str] = []
    read = Store.read
    monkeypatch.setattr(Store, "read", lambda store, key, *given: (reads.append(key), read(store, key, *given))[1])
    assert cli("run", wanted, "--in-process").code == 0
    assert reads.count("planted.bmp") == 1


@pytest.mark.parametrize(
    ("source", "to", "is_read"),
    [
        ("prompts", "prompts/clean", True),
        ("prompts", "prompts", True),
        ("prompts", "prompts/_clean", False),
        ("prompts", "prompts-clean", False),
        ("prompts/*.parquet", "prompts/clean", False),
        ("prompts/**/*.parquet", "prompts/clean", True),
        ("prompts*/data/*.parquet", "prompts-clean", True),
        ("prompts/one.parquet", "clean", False),
    ],
)
def test_a_place_that_the_next_run_would_read_prompts_from_is_refused(
    tmp_path: Path, job: Write, cli: Cli, source: str, to: str, is_read: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts" / "data").mkdir(parents=True)
    for name in ("one", "data/two"):
        pq.write_table(pa.table({"prompt": [name]}), tmp_path / "prompts" / f"{name}.parquet")
    file = job(prompts={"source": source}, curate={"to": to}, output={"url": "prompts/out"})
    answer = cli("validate", file, "--json")
    assert answer.code == (2 if is_read else 0)
    assert ("curate.to: expected a place outside prompts.source" in answer.json.get("message", "")) is is_read


@pytest.mark.parametrize(("url", "to", "wrong"), [("out", "real/clean", "curate.to"), ("real/out", "x", "output.url")])
def test_nothing_is_written_into_the_folder_of_the_classes(
    tmp_path: Path, job: Write, cli: Cli, url: str, to: str, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("cat", "dog"):
        write_images(tmp_path / "real" / name, scenes(1))
    prompts = {"source": None, "classes": "real", "templates": ["a {class}"]}
    refused = cli("validate", job(prompts=prompts, curate={"to": to}, output={"url": url}), "--json")
    assert f"{wrong}: expected a place outside prompts.classes" in refused.json["message"]
