"""A text that an earlier version read in other rows: its dataset goes on with those it has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from promptmill.pipeline.dataset.claim import claim_output
from promptmill.pipeline.planning.places import recorded
from promptmill.pipeline.planning.plan import Plan, plan_job
from promptmill.pipeline.planning.plan_json import to_json
from promptmill.pipeline.prompts.staging import stage
from promptmill.pipeline.storage.store import Store
from tests.heart.mill import job, make_missing, memory, rows


def as_before(plan: Plan, store: Store, count: int) -> None:
    """Claims the store for the plan of a version in which the only file had so many rows."""
    (file,) = (replace(file, rows=count) for file in plan.segments[0].files)
    plan.fields["prompts"]["source"][file.name]["rows"] = count
    segment = replace(plan.segments[0], files=stage([file], plan.job.prompts, store), prompts=count, shards=2)
    store.create("job.json", to_json(recorded(replace(plan, segments=(segment,)), None)))


@pytest.mark.parametrize(
    ("name", "text", "prompts"),
    [
        ("a.txt", "a\n\nb\n", ["a", "a", "b", "b"]),
        ("a.tsv", 'prompt\n"a ""b"""\n"c\nd"\n', ['"a ""b"""', '"a ""b"""', '"c', '"c', 'd"', 'd"']),
    ],
)
def test_a_dataset_of_other_rows_goes_on(tmp_path: Path, name: str, text: str, prompts: list[str]) -> None:
    (tmp_path / name).write_text(text)
    store, made = memory(), job(tmp_path / name)
    as_before(plan_job(made), store, 3)
    for entry in store.list("inputs"):
        store.delete(entry.name)
    make_missing(claim_output(plan_job(made), store), store)
    assert [row["prompt"] for row in rows(store)] == prompts
    assert len(rows(store)) + len(rows(store, "failures")) == 6
