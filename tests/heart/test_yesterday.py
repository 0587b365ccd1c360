"""The dataset that an older version wrote (see `yesterday/README.md`), under the code of the day."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from promptmill.pipeline.dataset.open import open_dataset
from promptmill.pipeline.dataset.records import read_footer
from promptmill.pipeline.dataset.state import read_receipts
from promptmill.pipeline.jobfile.reader import parse_job
from promptmill.pipeline.planning.plan import plan_job
from tests.engine.conftest import Answer
from tests.heart.conftest import YESTERDAY

Promise = dict[str, Any]
Cli = Callable[..., Answer]
PLANS = json.loads((YESTERDAY / "promise.json").read_text())["plans"]
COUNTS = {"samples": 48, "kept": 18, "rejected": 18, "failed": 12, "shards": 12, "shards_done": 12}
SOME_FAILED = 3
LAST_BITS = {"image_sha256", "image_phash"}


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def check_untouched(dataset: Path, promise: Promise, but: str = "") -> None:
    """Nothing that stood in `data/` and beside it was written again."""
    names = [name for name in promise["sha256"] if name != but]
    assert {name: sha256(dataset / name) for name in names} == {name: promise["sha256"][name] for name in names}


def rows_of(file: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(file).to_pylist()
    return rows


def footer_of(file: Path) -> dict[str, Any]:
    footer: dict[str, Any] = json.loads(pq.read_metadata(file).metadata[b"promptmill"])
    return footer


def check_alike(rows: list[dict[str, Any]], said: list[dict[str, Any]]) -> None:
    """All the same but last bits, which differ between processors that call themselves by one name (seen: 1 of 255 in
    0.03 % of the values of a pixel, 1e-6 of a score)."""
    for row, before in zip(rows, said, strict=True):
        for name, value in before.items():
            if name == "image" and value is not None:
                check_same_picture(row[name]["bytes"], value["bytes"])
            elif name in ("scores", "clip_score") and value is not None:
                assert row[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name
            elif name not in LAST_BITS:
                assert row[name] == value, name


def check_same_picture(found: bytes, said: bytes) -> None:
    """Also what is written into it."""
    pictures = [Image.open(io.BytesIO(data)) for data in (found, said)]
    assert pictures[0].info == pictures[1].info
    pixels = [np.asarray(picture).astype(np.int16) for picture in pictures]
    assert np.abs(pixels[0] - pixels[1]).max() <= 2


def test_nothing_is_left_to_do(home: Path, cli: Cli, promise: Promise) -> None:
    answer = cli("run", "job.yaml", "--in-process", "--json")
    assert answer.code == SOME_FAILED, answer
    assert {name: answer.json[name] for name in COUNTS} == COUNTS
    assert answer.json["made"]["samples"] == 0
    assert answer.json["fingerprint"] == promise["fingerprint"]
    check_untouched(home / "dataset", promise)


def test_every_name_is_as_promised(promise: Promise) -> None:
    """Also that the copy in the repository is whole."""
    files = (file for file in (YESTERDAY / "dataset").rglob("*") if file.is_file())
    here = {file.relative_to(YESTERDAY / "dataset").as_posix() for file in files}
    assert here == {name for name in promise["files"] if not name.startswith("report/")}
    check_untouched(YESTERDAY / "dataset", promise)


def test_status_and_verify(home: Path, cli: Cli, promise: Promise) -> None:
    status = cli("status", "dataset", "--json")
    assert (status.code, {name: status.json[name] for name in COUNTS}) == (0, COUNTS)
    verified = cli("verify", "dataset", "--deep", "--json")
    assert verified.code == 0, verified
    assert {name: verified.json[name] for name in COUNTS} == COUNTS
    assert verified.json["images_checked"] == 18
    assert verified.json["orphans"] == verified.json["problems"] == []


def test_footers_fit_the_plan(home: Path, promise: Promise) -> None:
    plan, store = open_dataset("dataset")
    assert plan.fingerprint == promise["fingerprint"]
    for name, said in promise["footers"].items():
        footer = read_footer(pq.read_metadata(home / "dataset" / "data" / name))
        assert footer is not None
        assert footer.shard == plan.shard(footer.shard.number)
        assert footer.shard.data_key == f"data/{name}"
        assert (footer.fingerprint, list(footer.side_objects)) == (said["fingerprint"], said["side_objects"])
        assert vars(footer.counts) == said["counts"]
        assert plan.samples_in(footer.shard) == said["counts"]["samples"]
    assert [plan.segments[i].kind for i in range(5)] == ["source", "retry", "retry", "retry", "extend"]
    receipts = {receipt.shard: receipt.counts for receipt in read_receipts(store)}
    assert {f"part-{shard:06d}.parquet": vars(counts) for shard, counts in receipts.items()} == {
        name: said["counts"] for name, said in promise["footers"].items()
    }


def test_the_claim_is_what_the_job_says_today(home: Path, promise: Promise) -> None:
    (home / "prompts" / "second.csv").unlink()  # it came later, and a claim is of what was there first
    plan = plan_job(parse_job((home / "job.yaml").read_text(), "job.yaml"))
    assert plan.fields == promise["fields"]
    assert plan.fingerprint == promise["fingerprint"]


@pytest.mark.parametrize("name", PLANS)
def test_plans(home: Path, name: str) -> None:
    """Fourteen jobs that use every field the job file had."""
    said = PLANS[name]
    plan = plan_job(parse_job(json.dumps(said["job"]), "job.json"))
    assert plan.fields == said["fields"]
    assert plan.fingerprint == said["fingerprint"]
    assert [plan.variant(i).values for i in range(plan.variant_count)] == said["variants"]
    assert plan.variant_count == said["cells"]
    for number in ("prompts", "samples", "shards", "rows_per_shard"):
        assert getattr(plan, number) == said[number]


@pytest.mark.parametrize(("change", "field"), [("seed=21", "seed"), ("generation.batch_size=3", "batch_size")])
def test_another_job_is_refused(home: Path, cli: Cli, promise: Promise, change: str, field: str) -> None:
    answer = cli("run", "job.yaml", "--in-process", "--set", change)
    assert answer.code == 2
    assert field in answer.err
    check_untouched(home / "dataset", promise)


@pytest.mark.parametrize("part", ["part-000009", "part-000000", "part-000006"])
def test_a_lost_shard_is_made_again(home: Path, cli: Cli, promise: Promise, part: str) -> None:
    """Of the extension, of the source, where some samples were retried later, and of a retry."""
    lost = home / "dataset" / "data" / f"{part}.parquet"
    before = pq.read_table(lost)
    lost.unlink()
    answer = cli("run", "job.yaml", "--in-process", "--json")
    assert answer.code == SOME_FAILED, answer
    assert {name: answer.json[name] for name in COUNTS} == COUNTS
    said = promise["footers"][lost.name]
    footer = footer_of(lost)
    assert {name: footer[name] for name in ("fingerprint", "shard", "counts")} == {
        name: said[name] for name in ("fingerprint", "shard", "counts")
    }
    assert ids(rows_of(lost)) == ids(promise["data"][lost.name])
    for folder in ("rejects", "failures"):
        (ours,) = [n for n in footer["side_objects"] if n.startswith(folder)] or [None]
        (theirs,) = [n for n in said["side_objects"] if n.startswith(folder)] or [None]
        if theirs is not None:
            assert ours is not None
            assert ids(rows_of(home / "dataset" / ours)) == ids(promise[folder][Path(theirs).name])
    check_untouched(home / "dataset", promise, but=f"data/{lost.name}")
    check_alike(pq.read_table(lost).select(before.column_names).to_pylist(), before.to_pylist())


def ids(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    names = ("sample_id", "prompt_id", "sample_index", "seed", "variant", "caption", "prompt", "negative_prompt")
    return [tuple(row[name] for name in names) for row in rows]


def test_lost_copies_of_the_prompts_come_back(home: Path, cli: Cli, promise: Promise) -> None:
    copies = [file for file in (home / "dataset" / "inputs").iterdir() if not file.name.startswith("retry-")]
    assert len(copies) == 2
    for file in copies:
        file.unlink()
    assert cli("run", "job.yaml", "--in-process").code == SOME_FAILED
    assert all(file.exists() for file in copies)
    check_untouched(home / "dataset", promise)


def test_retry(home: Path, cli: Cli, promise: Promise) -> None:
    """What makes NaN fails again, for the third time; the empty prompt is left alone."""
    answer = cli("retry", "dataset", "--in-process", "--trust-dataset", "--json")
    assert answer.code == SOME_FAILED, answer
    assert {name: answer.json[name] for name in COUNTS} == {**COUNTS, "shards": 15, "shards_done": 15}
    assert answer.json["made"] == {"samples": 6, "kept": 0, "rejected": 0, "failed": 6}
    last = {
        row["sample_id"] for name in promise["failures"] if name >= "part-000006" for row in promise["failures"][name]
    }
    new = [file for file in (home / "dataset" / "failures").iterdir() if file.name >= "part-000012"]
    assert {row["sample_id"] for file in new for row in rows_of(file)} == last
    assert {row["error_kind"] for file in new for row in rows_of(file)} == {"not_finite"}
    check_untouched(home / "dataset", promise)
    assert cli("verify", "dataset", "--deep", "--json").code == 0


def test_extend(home: Path, cli: Cli, promise: Promise) -> None:
    (home / "prompts" / "third.csv").write_text("text,negative,seed,style\na blue star,,,late\n")
    refused = cli("run", "job.yaml", "--in-process")
    assert refused.code == 2
    assert "--extend" in refused.err
    answer = cli("run", "job.yaml", "--in-process", "--extend", "--json")
    assert answer.code == SOME_FAILED, answer
    assert answer.json["made"] == {"samples": 6, "kept": 3, "rejected": 3, "failed": 0}
    assert {name: answer.json[name] for name in ("samples", "shards")} == {"samples": 54, "shards": 15}
    rows = [row for n in (12, 13, 14) for row in rows_of(home / "dataset" / "data" / f"part-{n:06d}.parquet")]
    assert {(row["prompt_id"], row["style"], row["model_revision"]) for row in rows} == {
        ("third.csv:0", "late", promise["data"]["part-000000.parquet"][0]["model_revision"])
    }
    check_untouched(home / "dataset", promise)


def test_report(home: Path, cli: Cli) -> None:
    said = json.loads((home / "summary.json").read_text())
    assert cli("report", "dataset").code == 0
    assert (home / "dataset" / "report" / "index.html").exists()
    ours = json.loads((home / "dataset" / "report" / "summary.json").read_text())
    for name in ("fingerprint", "samples", "kept", "rejected", "failed", "prompts", "shards", "shards_done"):
        assert ours[name] == said[name], name
    assert (ours["failures"], ours["rejects"]) == (said["failures"], said["rejects"])
    for cell, before in zip(ours["cells"], said["cells"], strict=True):
        assert {name: cell[name] for name in ("values", "kept", "rejected", "failed")} == {
            name: before[name] for name in ("values", "kept", "rejected", "failed")
        }
        assert {name: cell["scores"][name] for name in before["scores"]} == pytest.approx(before["scores"])


def test_scores(home: Path, cli: Cli, promise: Promise) -> None:
    """Those of then count as done; made anew they are the same."""
    answer = cli("score", "dataset", "--metric", "verified", "--json")
    assert (answer.code, answer.json["done_before"]) == (0, 12)
    check_untouched(home / "dataset", promise)
    assert cli("score", "dataset", "--metric", "verified", "--again").code == 0
    for name, rows in promise["scores"].items():
        assert rows_of(home / "dataset" / "scores" / name) == rows, name


def test_an_image_is_made_again_from_its_row(home: Path, cli: Cli, promise: Promise) -> None:
    row = promise["data"]["part-000009.parquet"][0]
    answer = cli("reproduce", "dataset", row["sample_id"], "--out", "again.png", "--trust-dataset", "--json")
    assert answer.code == 0, answer
    assert answer.json["seed"] == row["seed"]
    (stored,) = (
        each["image"]["bytes"]
        for each in rows_of(home / "dataset" / "data" / "part-000009.parquet")
        if each["sample_id"] == row["sample_id"]
    )
    check_same_picture((home / "again.png").read_bytes(), stored)
    assert answer.json["identical"] == (sha256(home / "again.png") == row["image_sha256"])


def test_any_tool_reads_it(home: Path) -> None:
    import duckdb

    query = "select count(*), count(distinct sample_id) from 'dataset/data/*.parquet'"
    assert duckdb.sql(query).fetchall() == [(18, 18)]
    schemas = [pq.read_schema(file).remove_metadata() for file in (home / "dataset" / "data").iterdir()]
    assert all(schema.equals(schemas[0]) for schema in schemas)
