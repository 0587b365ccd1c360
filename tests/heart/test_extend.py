"""A nightly source: files that grow, files that are archived, and what is new in them."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

import promptmill
from promptmill.jobs.plan import plan as command_plan
from promptmill.jobs.plan import plan_of
from promptmill.pipeline.dataset.claim import claim_output
from promptmill.pipeline.dataset.open import require_plan
from promptmill.pipeline.dataset.state import missing_shards
from promptmill.pipeline.dataset.verify import verify_dataset
from promptmill.pipeline.jobfile.dates import dated
from promptmill.pipeline.planning.plan import Plan, plan_job
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import InputError, JobError, NoFilesError, OutputMismatchError
from tests.engine.conftest import Answer
from tests.heart.mill import MODEL, job, make_missing, rows, small_plan
from tests.models.test_adapters import write_lora

FORMATS = ["a.txt", "a.csv", "a.jsonl", "a.parquet"]


def write(path: Path, prompts: list[str]) -> None:
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"prompt": prompts, "n": list(range(len(prompts)))}), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"prompt": text, "n": n}) + "\n" for n, text in enumerate(prompts)))
    else:
        lines = [f"{text},{n}" if path.suffix == ".csv" else text for n, text in enumerate(prompts)]
        path.write_text("\n".join([*(["prompt,n"] if path.suffix == ".csv" else []), *lines]) + "\n")


class Nightly:
    def __init__(self, folder: Path) -> None:
        self.source, self.store = folder / "in", Store(str(folder / "out"))
        self.source.mkdir()

    def planned(self, **sections: Any) -> Plan:
        return plan_job(job(self.source, **{"output": {"url": self.store.url}, **sections}))

    def claim(self, extend: bool = True) -> Plan:
        return claim_output(self.planned(), self.store, extend)

    def run(self, extend: bool = True) -> Plan:
        plan = self.claim(extend)
        make_missing(plan, self.store)
        result = verify_dataset(plan, self.store, deep=True)
        assert (result.problems, result.missing, result.orphans) == ([], [], [])
        return plan

    def made(self) -> list[tuple[str, str]]:
        return sorted({(row["prompt_id"], row["prompt"]) for row in rows(self.store)})


@pytest.fixture
def nightly(tmp_path: Path) -> Nightly:
    return Nightly(tmp_path)


@pytest.mark.parametrize("name", FORMATS)
def test_of_a_file_that_grew_only_the_new_rows_are_made(nightly: Nightly, name: str) -> None:
    """From the second week on every night ended with exit code 2."""
    prompts = ["a", "b", "c"]
    write(nightly.source / name, prompts)
    nightly.run()
    for night in ("d", "e"):
        before = len(rows(nightly.store))
        prompts += [night, night * 2]
        write(nightly.source / name, prompts)
        with pytest.raises(OutputMismatchError, match="run --extend"):
            nightly.claim(extend=False)
        nightly.run()
        assert len(rows(nightly.store)) == before + 4
    nightly.run(extend=False)  # and it is the dataset of these files now
    assert nightly.made() == [(f"{name}:{i}", text) for i, text in enumerate(prompts)]
    if "n" in rows(nightly.store)[0]:
        assert {row["prompt"]: row["n"] for row in rows(nightly.store)} == {text: i for i, text in enumerate(prompts)}


@pytest.mark.parametrize("name", FORMATS)
def test_rows_that_were_not_made_yet_come_from_the_file_as_it_is(nightly: Nightly, name: str) -> None:
    write(nightly.source / name, ["a", "b", "c"])
    nightly.claim()
    write(nightly.source / name, ["a", "b", "c", "d"])
    plan = nightly.claim()
    for entry in nightly.store.list("inputs"):
        nightly.store.delete(entry.name)  # brought back, each part with its rows
    assert plan.prompts == 4
    nightly.run()
    assert nightly.made() == [(f"{name}:{i}", text) for i, text in enumerate("abcd")]


def test_a_damaged_object_is_made_again_from_the_file_as_it_is(nightly: Nightly) -> None:
    """What was made is held against the file that grew: a damaged object ended that in an error of Arrow's."""
    write(nightly.source / "a.parquet", ["a", "b", "c"])
    nightly.run()
    first = nightly.store.list("data")[0].name
    nightly.store.put(first, b"PAR1 and no more")
    write(nightly.source / "a.parquet", ["a", "b", "c", "d"])
    assert nightly.claim().prompts == 4
    nightly.store.delete(first)
    nightly.run()
    assert nightly.made() == [(f"a.parquet:{i}", text) for i, text in enumerate("abcd")]


@pytest.mark.parametrize("name", FORMATS)
def test_another_beginning_is_refused(nightly: Nightly, name: str) -> None:
    write(nightly.source / name, ["a", "b", "c"])
    nightly.run()
    write(nightly.source / name, ["a", "x", "c", "d"])
    with pytest.raises(OutputMismatchError, match=rf"{name}: expected the rows that it had.*another row 1"):
        nightly.claim()
    write(nightly.source / name, ["a", "b"])
    with pytest.raises(OutputMismatchError):
        nightly.claim()


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_was_archived_is_not_missed(nightly: Nightly, name: str) -> None:
    write(nightly.source / name, ["a", "b", "c"])
    nightly.run()
    (nightly.source / name).unlink()
    write(nightly.source / f"b{name}", ["d"])
    nightly.run()
    nightly.run()
    assert [text for _, text in nightly.made()] == ["a", "b", "c", "d"]
    with pytest.raises(OutputMismatchError, match="were archived"):
        nightly.claim(extend=False)


def test_a_night_on_which_all_files_are_archived_has_nothing_to_do(nightly: Nightly) -> None:
    """It ended with exit code 2."""
    write(nightly.source / "a.csv", ["a", "b", "c"])
    write(nightly.source / "b.parquet", ["d"])
    nightly.run()
    for path in nightly.source.iterdir():
        path.unlink()
    asked = job(nightly.source, output={"url": nightly.store.url})
    planned = plan_of(asked, False, extend=True)
    assert missing_shards(claim_output(planned, nightly.store, True), nightly.store) == []
    assert command_plan(asked, False, extend=True)[1].prompts == 4
    write(nightly.source / "c.csv", ["e"])
    assert len(nightly.run().segments) == 2
    for other in ({"seed": 5}, {"generation": {"num_inference_steps": 3}}):
        with pytest.raises(OutputMismatchError, match="seed|num_inference_steps"):
            command_plan(job(nightly.source, output={"url": nightly.store.url}, **other), False, extend=True)
    (nightly.source / "c.csv").unlink()
    with pytest.raises(OutputMismatchError, match="seed"):
        command_plan(job(nightly.source, output={"url": nightly.store.url}, seed=5), False, extend=True)
    with pytest.raises(NoFilesError):
        plan_of(asked, False, extend=False)


@pytest.mark.parametrize(("before", "after"), [("a.csv", "a.csv.gz"), ("a.csv", "old/a.csv"), ("a.csv.gz", "a.csv")])
def test_a_file_that_was_rotated_within_the_source_is_not_made_again(nightly: Nightly, before: str, after: str) -> None:
    """Packed or moved, each of its prompts was made a second time."""
    text = b"prompt\na\nb\nc\n"
    for name, others in ((before, {}), (after, {"n.csv": b"prompt\nd\n", "other.csv": text})):
        shutil.rmtree(nightly.source)
        for each, content in {name: text, **others}.items():
            (nightly.source / each).parent.mkdir(parents=True, exist_ok=True)
            (nightly.source / each).write_bytes(gzip.compress(content) if each.endswith(".gz") else content)
        nightly.run()
    nightly.run()
    made = [text for _, text in nightly.made()]
    assert made == ["a", "b", "c", "d", "a", "b", "c"], "the prompts of another file are new, whatever it holds"


def test_a_file_that_is_gone_before_it_was_made(nightly: Nightly) -> None:
    for name in ("a.parquet", "b.csv"):
        write(nightly.source / name, ["a", "b", "c"])
    nightly.claim()
    write(nightly.source / "c.csv", ["d"])
    (nightly.source / "b.csv").unlink()  # has its copy
    nightly.claim()
    (nightly.source / "a.parquet").unlink()
    with pytest.raises(InputError, match=r"a.parquet: expected the file, got nothing, while 2 shards"):
        nightly.claim()


def test_plan_says_what_an_extension_would_make(nightly: Nightly) -> None:
    write(nightly.source / "a.csv", ["a", "b", "c"])
    nightly.run()
    write(nightly.source / "a.csv", ["a", "b", "c", "d"])
    write(nightly.source / "b.csv", ["e"])
    (nightly.source / "a.csv").rename(nightly.source / "a.csv")
    asked = job(nightly.source, output={"url": nightly.store.url})
    with pytest.raises(OutputMismatchError):
        command_plan(asked, False)
    shown = command_plan(asked, False, extend=True)[1].as_json()
    assert (shown["prompts"], shown["samples"], shown["shards"], shown["shards_done"]) == (5, 10, 3, 2)
    assert require_plan(nightly.store).prompts == 3
    assert command_plan(asked, False, extend=True)[1].as_json() == shown


def test_a_limit_does_not_grow(nightly: Nightly) -> None:
    write(nightly.source / "a.csv", ["a", "b", "c"])
    nightly.run()
    write(nightly.source / "a.csv", ["a", "b", "c", "d"])
    with pytest.raises(JobError, match=r"prompts.limit"):
        claim_output(nightly.planned(prompts={"limit": 3}), nightly.store, extend=True)


def test_a_date_in_the_output_is_that_of_the_day(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", ["a"])
    asked = job(tmp_path, output={"url": f"{tmp_path}/out-{{date}}/{{date:%Y/%m}}/{{dates}}"})
    day = datetime.now(UTC)
    assert asked.output.url == f"{tmp_path}/out-{day:%Y-%m-%d}/{day:%Y/%m}/{{dates}}"
    assert dated(asked, datetime(2030, 1, 2, tzinfo=UTC)) == asked  # what was resolved stays
    assert job(tmp_path / "{date}.parquet").prompts.source == f"{tmp_path}/{day:%Y-%m-%d}.parquet"
    store = Store(asked.output.url)
    make_missing(claim_output(plan_job(asked), store, extend=True), store)
    assert require_plan(store).job.output.url == asked.output.url


def test_a_date_in_the_place_of_a_dataset(tmp_path: Path, cli: Callable[..., Answer]) -> None:
    """As the job says it: today's; who asks for another day says which."""
    today = f"{tmp_path}/{datetime.now(UTC):%Y-%m-%d}"
    claim_output(small_plan(tmp_path / "prompts"), Store(today))
    answer = cli("status", f"{tmp_path}/{{date}}", "--json")
    assert (answer.code, answer.json["output"]) == (0, today)
    assert promptmill.status(tmp_path / "{date}").output == today
    assert cli("verify", f"{tmp_path}/x-{{date:%Y/%m}}").code == 2
    (tmp_path / "{date}").mkdir()  # nobody has to call it so, but who does means it
    assert cli("status", f"{tmp_path}/{{date}}").code == 2


def test_a_delta_table_is_extended_by_what_was_appended(nightly: Nightly) -> None:
    """Rows that a compaction moved to another file would be made again."""
    for text in ("a", "b"):
        write_deltalake(str(nightly.source), pa.table({"prompt": [text]}), mode="append")
        nightly.run()
    assert sorted(text for _, text in nightly.made()) == ["a", "b"]  # the names of its files are random
    DeltaTable(str(nightly.source)).optimize.compact()
    with pytest.raises(OutputMismatchError, match="rewritten"):
        nightly.claim()


def test_a_trigger_before_the_prompts_does_not_make_another_beginning(nightly: Nightly) -> None:
    """What was made is held against the file that grew, and there the words of the adapter stand before each prompt."""
    adapter = {
        "name": "bold",
        "path": str(write_lora(MODEL, nightly.source.parent / "lora", 1)),
        "trigger": "bold style",
    }
    sections = {"model": {"adapters": [adapter]}}
    write(nightly.source / "a.parquet", ["a ring", "a BOLD STYLE cross"])
    plan = claim_output(nightly.planned(**sections), nightly.store)
    make_missing(plan, nightly.store)
    assert sorted({row["prompt"] for row in rows(nightly.store)}) == ["a BOLD STYLE cross", "bold style, a ring"]
    write(nightly.source / "a.parquet", ["a ring", "a BOLD STYLE cross", "a disc"])
    assert claim_output(nightly.planned(**sections), nightly.store, extend=True).prompts == 3
    write(nightly.source / "a.parquet", ["a king", "a BOLD STYLE cross", "a disc", "a star"])
    with pytest.raises(OutputMismatchError, match="another row 0"):
        claim_output(nightly.planned(**sections), nightly.store, extend=True)


def test_a_value_that_makes_no_image_fails_alone_in_what_comes_later(nightly: Nightly) -> None:
    """One bad row of the night does not cost the night."""
    seeds = {"prompts": {"columns": {"seed": "n"}}}
    write(nightly.source / "a.jsonl", ["a", "b"])
    claim_output(nightly.planned(**seeds), nightly.store)
    (nightly.source / "b.jsonl").write_text('{"prompt": "c", "n": -7}\n{"prompt": "d", "n": 5}\n')
    make_missing(claim_output(nightly.planned(**seeds), nightly.store, extend=True), nightly.store)
    assert {row["prompt"] for row in rows(nightly.store)} == {"a", "b", "d"}
    assert {row["error_kind"] for row in rows(nightly.store, "failures")} == {"invalid_seed"}
