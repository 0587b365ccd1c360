"""Selecting again among what was made: a view, and what its readers see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import promptmill
from promptmill.pipeline.dataset.claim import claim_output
from promptmill.pipeline.dataset.selections import read_selected
from promptmill.pipeline.export.card import write_card
from promptmill.pipeline.planning.plan import plan_job
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.plan import Counts
from tests.heart.mill import job, make_missing, rows, write_prompts

PROMPTS = ["a circle", "a nsfw star", "a square"]


@pytest.fixture
def made(tmp_path: Path) -> Store:
    """Five images of each prompt, of which the reddest is kept, and a score that came later."""
    sections: dict[str, Any] = {
        "generation": {"images_per_prompt": 5},
        "select": {"keep": 1, "by": "clip"},
        "output": {"url": str(tmp_path / "out"), "images_per_shard": 5, "keep_rejected_images": True},
    }
    store = Store(str(tmp_path / "out"))
    plan = plan_job(job(write_prompts(tmp_path / "a.parquet", PROMPTS), **sections))
    make_missing(claim_output(plan, store), store)
    ids = [row["sample_id"] for folder in ("data", "rejects") for row in rows(store, folder)]
    late = pa.table({"sample_id": ids, "late": pa.array(np.arange(len(ids)) % 4, pa.float32())})
    pq.write_table(late, tmp_path / "late.parquet")
    store.put("scores/late-all.parquet", (tmp_path / "late.parquet").read_bytes())
    return store


def view(store: Store, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(pa.BufferReader(store.read(f"selections/{name}.parquet"))).to_pylist()
    return found


def best(store: Store, prompt: str, score: Any, keep: int) -> set[str]:
    everything = [row for folder in ("data", "rejects") for row in rows(store, folder) if row["prompt"] == prompt]
    return {row["sample_id"] for row in sorted(everything, key=score, reverse=True)[:keep]}


def test_the_best_of_what_was_made(cli: Any, made: Store) -> None:
    before = {entry.name: entry.version for entry in made.find()}
    answer = cli("select", made.url, "--keep", "3", "--by", "clip", "--name", "three", "--json").json
    assert answer == {
        **{"name": "three", "object": "selections/three.parquet"},
        **{"candidates": 15, "kept": 6, "rejected": 9, "without_image": 0},
    }
    kept = {row["sample_id"] for row in view(made, "three") if row["reason"] is None}
    expected = [best(made, prompt, lambda row: row["clip_score"], 3) for prompt in ("a circle", "a square")]
    assert kept == set().union(*expected)
    reasons = {(row["prompt_id"], row["reason"]) for row in view(made, "three")}
    assert {reason for _, reason in reasons} == {None, "nsfw", "not_selected"}
    assert {row["weight"] for row in view(made, "three") if row["reason"] is None} == {1.0}
    assert {entry.name: entry.version for entry in made.find() if entry.name in before} == before  # nothing was touched


def test_every_reader_understands_it(cli: Any, made: Store, tmp_path: Path) -> None:
    cli("select", made.url, "--keep", "3", "--by", "clip", "--name", "three")
    dataset = promptmill.open_dataset(made.url, selection="three")
    records = list(dataset)
    assert (len(dataset), len(records), dataset.to_arrow().num_rows) == (6, 6, 6)
    assert len({record["sample_id"] for record in records if record.image.size == (8, 8)}) == 6
    assert len(promptmill.open_dataset(made.url)) == 2
    table = dataset.to_arrow()
    assert all(image["bytes"] for image in table.column("image").to_pylist())
    summary = cli("report", made.url, "--selection", "three", "--json").json
    assert (summary["kept"], summary["rejected"]) == (6, 9)
    assert summary["selection"] == {"name": "three", "kept": 6, "keep": 3, "by": ["clip"], "least": {}}
    assert "Seen through the selection" in made.read("report/index.html").decode()
    assert (dataset.counts.kept, dataset.counts.rejected) == (6, 9) and "6 kept" in repr(dataset)
    assert cli("report", made.url, "--json").json["kept"] == 2
    compared = cli("compare", made.url, made.url, "--out", tmp_path / "c", "--selection", "three", "--json")
    assert compared.code == 0, compared.err
    answer = cli("compare", made.url, made.url, "--out", tmp_path / "c", "--selection-b", "three", "--json").json
    better = answer["answers"]["clip"]["difference"]
    assert better[0] > 0 and better[3] == 2, "the best three of five against all, where nsfw keeps nothing"
    assert cli("verify", made.url).code == 0
    unknown = cli("report", made.url, "--selection", "four")
    assert (unknown.code, "one of three" in unknown.err) == (2, True)


def test_the_card_lists_selections_and_keeps_what_people_wrote(cli: Any, made: Store) -> None:
    made.put("README.md", b"---\nlicense: cc0-1.0\n---\n\n# Mine\n")
    cli("select", made.url, "--keep", "3", "--by", "clip", "--name", "three")
    cli("select", made.url, "--min", "late=2", "--name", "bound")
    cli("select", made.url, "--keep", "2", "--by", "late", "--by", "clip", "--name", "three")
    card = made.read("README.md").decode()
    assert card.startswith("---\nlicense: cc0-1.0\n---\n\n# Mine\n") and card.count("## Selections") == 1
    assert "| `three` | 4 | the best 2 of each prompt and setting by `late` and `clip` |" in card
    assert "| `bound` | " in card and "`late` at least 2 |" in card
    write_card(promptmill_plan(made)[0], made, Counts(15, 2, 13, 0))
    assert made.read("README.md").decode().count("## Selections") == 1


def test_by_several_scores_and_bounds(cli: Any, made: Store) -> None:
    assert cli("select", made.url, "--keep", 1, "--by", "late", "--by", "clip", "--name", "two").code == 0
    assert cli("select", made.url, "--min", "late=2", "--name", "bound").code == 0
    assert cli("select", made.url, "--keep", 2, "--by", "late", "--min", "1").code == 0
    assert {row["reason"] for row in view(made, "bound")} == {None, "below_min", "nsfw"}
    scores = pq.read_table(pa.BufferReader(made.read("scores/late-all.parquet"))).to_pylist()
    late = {row["sample_id"]: row["late"] for row in scores}
    assert {late[row["sample_id"]] for row in view(made, "bound") if row["reason"] is None} == {2.0, 3.0}
    _, samples = read_selected(*promptmill_plan(made), "keep-2-late")
    assert samples.texts("status").count("kept") == 4


def promptmill_plan(store: Store) -> Any:
    from promptmill.pipeline.dataset.open import require_plan

    return require_plan(store), store


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--keep", "1", "--by", "beauty"], "a score of the dataset (clip, late)"),
        ([], "--keep, or --min"),
        (["--keep", "1"], "--by"),
        (["--min", "late=x"], "NAME=VALUE"),
        (["--min", "late=nan"], "NAME=VALUE"),  # all was kept: nothing is below it
        (["--keep", "1", "--by", "late", "--name", "../x"], "letters, digits"),
    ],
)
def test_what_cannot_be_selected(cli: Any, made: Store, options: list[str], expected: str) -> None:
    answer = cli("select", made.url, *options)
    assert (answer.code, expected in answer.err) == (2, True), answer.err
