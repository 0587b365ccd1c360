"""What commands write lies beside datasets and not in them; what others have put into a dataset stays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from promptmill.pipeline.dataset.targets import refuse_dataset, refuse_inside
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import JobError
from tests.engine.conftest import Answer
from tests.engine.test_beside import claimed, make_shard, planned

Cli = Callable[..., Answer]


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    (tmp_path / "source").mkdir()
    pq.write_table(pa.table({"prompt": ["a red circle", "a blue square"]}), tmp_path / "source" / "a.parquet")
    return planned(tmp_path / "source")


@pytest.fixture
def dataset(plan: Plan, tmp_path: Path) -> Path:
    make_shard(plan, claimed(plan, str(tmp_path / "out")))
    return tmp_path / "out"


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("inner", ["", "data", "data/", "rejects/deep/er", "report", "scores", "segments", "linked"])
def test_nothing_is_written_into_a_dataset(cli: Cli, dataset: Path, tmp_path: Path, inner: str) -> None:
    """`compare --out` wrote data/analysis.js and index.html into it, `export` its folders."""
    out = f"{dataset}/{inner}" if inner else str(dataset)
    if inner == "linked":
        (tmp_path / "link").symlink_to(dataset / "data")
        out = str(tmp_path / "link")
    job = tmp_path / "job.yaml"
    made = {"name": "x", "prompts": {"source": str(tmp_path / "source")}, "model": {"path": "builtin:shapes"}}
    job.write_text(yaml.safe_dump({**made, "output": {"url": out}}))
    before = content(tmp_path)
    commands: list[tuple[object, ...]] = [
        ("compare", dataset, dataset, "--out", out),
        ("export", dataset, out, "--layout", "geneval"),
        ("reproduce", dataset, "0-1-and-more", "--out", f"{out}/a.png"),
        ("init", out),
    ]
    if inner:
        commands += [("score", out, "--metric", "image"), ("run", job, "--in-process")]
    for command in commands:
        answer = cli(*command)
        assert answer.code == 2, (command, answer)
        assert str(dataset) in answer.err.replace("\n", ""), (command, answer.err)
    assert content(tmp_path) == before


@pytest.mark.parametrize("inner", ["compare", "exports/data", "../data", "../other"])
def test_a_folder_beside_the_datasets_own_is_free(dataset: Path, inner: str) -> None:
    refuse_dataset(str(dataset / inner), "--out")


def test_a_page_may_lie_below_the_report(dataset: Path) -> None:
    refuse_dataset(str(dataset / "report" / "against-b"), "--out", page=True)
    refuse_inside(str(dataset), "output.url")
    with pytest.raises(JobError):
        refuse_dataset(str(dataset / "report" / "against-b"), "OUT")


@pytest.mark.slow
def test_the_same_in_a_bucket(plan: Plan, s3_bucket: str, s3_env: dict[str, str]) -> None:
    url = f"s3://{s3_bucket}/a/dataset"
    claimed(plan, url)
    for inner in ("", "/", "/data", "/rejects/deep"):
        with pytest.raises(JobError):
            refuse_dataset(url + inner, "--out")
    for free in (f"s3://{s3_bucket}/a", f"s3://{s3_bucket}/a/data", f"{url}/pages", f"s3://{s3_bucket}"):
        refuse_dataset(free, "--out")


def test_what_others_have_there_is_reported_and_stays(cli: Cli, plan: Plan, dataset: Path) -> None:
    """`verify --repair` removed a user's prompts, other programs' tables, and whole objects of another job."""
    ours = dataset / "data" / "part-000000.parquet"
    strangers = {
        "data/prompts.csv": b"prompt\na red circle\n",
        "data/notes.md": b"# notes",
        "data/part-0.parquet": b"cut",
        "data/backup.parquet": b"cut too",
        "rejects/why.txt": b"x",
        ".tmp/draft.txt": b"x",
    }
    for name, data in strangers.items():
        (dataset / name).write_bytes(data)
    pq.write_table(pa.table({"a": [1]}), dataset / "data" / "part-000001.parquet")
    other = replace(plan, fingerprint="f" * 64)
    make_shard(other, Store(str(dataset.parent / "other")))
    whole = dataset.parent / "other"
    foreign = (whole / "data" / "part-000000.parquet").read_bytes()
    (dataset / "data" / "part-000002.parquet").write_bytes(foreign)
    left = {name: (dataset / name).read_bytes() for name in content(dataset)}
    answer = cli("verify", dataset, "--repair", "--grace", 0, "--json")
    assert content(dataset) == left
    said = [*answer.json["problems"], *answer.json["strangers"]]
    for name in (*strangers, "data/part-000001.parquet", "data/part-000002.parquet"):
        if not name.startswith(".tmp"):
            assert any(text.startswith(name) for text in said), name
    for name in ("data/part-0.parquet", "data/backup.parquet"):
        (dataset / name).unlink()
    for number in (1, 2):
        (dataset / "data" / f"part-{number:06d}.parquet").unlink()
    assert cli("verify", dataset, "--json").code == 0  # no reader of data/*.parquet meets what is left
    (dataset / "data" / "copy.parquet").write_bytes(ours.read_bytes())
    assert cli("verify", dataset, "--repair", "--json").json["removed"] == ["data/copy.parquet"]


def test_markers_of_finder_programs_are_passed_over(cli: Cli, dataset: Path) -> None:
    for name in (".DS_Store", "data/.DS_Store", "segments/.DS_Store", "rejects/.DS_Store", "receipts/Thumbs.db"):
        (dataset / name).parent.mkdir(exist_ok=True)
        (dataset / name).write_bytes(b"\0\0\0\1Bud1")
    for command in ("status", "verify"):
        answer = cli(command, dataset, "--json")
        assert (answer.code, answer.json.get("problems", [])) == (0, []), answer
    assert cli("verify", dataset, "--repair", "--grace", 0, "--json").json["removed"] == []
    assert (dataset / "data" / ".DS_Store").exists()
