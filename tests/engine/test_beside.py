"""Whoever writes, and `verify --repair`, on one dataset: another runs whole between any two steps of the first."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from promptmill.pipeline.dataset import claim, commit, repair, retry
from promptmill.pipeline.dataset.claim import add_segments, claim_output
from promptmill.pipeline.dataset.commit import commit_shard, proven
from promptmill.pipeline.dataset.open import newest_plan, require_plan
from promptmill.pipeline.dataset.records import Outcome, RecordWriter
from promptmill.pipeline.dataset.samples import read_dataset
from promptmill.pipeline.dataset.verify import verify_dataset
from promptmill.pipeline.planning.plan import Plan, plan_job
from promptmill.pipeline.storage import local
from promptmill.pipeline.storage import store as store_module
from promptmill.pipeline.storage.entry import Entry, same_write
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import InputError, JobError, OutputMismatchError, SampleError
from promptmill.schemas.job import Job
from promptmill.schemas.plan import Sample

STEPS = ("create", "put", "read", "read_if_exists", "list", "entry", "delete", "remove", "read_range")
Act = Callable[[Store], object]


class Between(Store):
    """Runs `act` once, on a store of its own, before its n-th step; steps are calls and crash points."""

    def __init__(self, url: str, n: int, act: Act, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(url, patience_s=0.1)
        self.left: int = n
        self.act: Act | None = act
        for module in (local, commit, store_module, claim):
            monkeypatch.setattr(module, "reached", lambda name: self.step())

    def step(self) -> None:
        self.left -= 1
        if self.left < 0 and self.act is not None:
            act, self.act = self.act, None
            act(Store(self.url, patience_s=0.1))


def _stepping(name: str) -> Any:
    method = getattr(Store, name)

    @functools.wraps(method)
    def call(self: Between, *arguments: Any) -> Any:
        self.step()
        return method(self, *arguments)

    return call


for _name in STEPS:
    setattr(Between, _name, _stepping(_name))


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    folder = tmp_path_factory.mktemp("source") / "prompts"
    folder.mkdir()
    pq.write_table(pa.table({"prompt": ["a red circle", "a blue square"]}), folder / "a.parquet")
    return planned(folder)


def planned(source: Path) -> Plan:
    content = {
        "name": "beside",
        "prompts": {"source": str(source)},
        "model": {"path": "builtin:shapes"},
        "generation": {"images_per_prompt": 2},
        "select": {"keep": 1, "by": "near_black"},
        "score": [{"metric": "image"}],
        "output": {"url": "unset", "images_per_shard": 4},
    }
    return plan_job(Job.model_validate(content))


@pytest.fixture(params=["disk", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "out") if request.param == "disk" else f"memory://{tmp_path.name}-{os.getpid()}"


def make_shard(plan: Plan, store: Store, number: int = 0) -> None:
    """As a worker does, with one rejected and one failed of four samples."""
    shard = plan.shard(number)
    if proven(store, shard, plan.fingerprint):
        return
    names = [f"{number}-{i}" for i in range(plan.samples_in(shard))]
    outcomes = [Outcome(Sample(n, f"p{i // 2}", 0, i % 2, i, "p", "", "p"), {}) for i, n in enumerate(names)]
    outcomes[0] = replace(outcomes[0], reason="not_selected")
    outcomes[-1] = replace(outcomes[-1], error=SampleError("generation", "it broke"))
    writer = RecordWriter([], pa.table({"tag": [1, 2]}), {"variant": "{}"})
    commit_shard(shard, names, outcomes, writer, store, plan.fingerprint)


def claimed(plan: Plan, url: str) -> Store:
    store = Store(url, patience_s=0.1)
    claim_output(plan, store)
    return store


def repair_all(plan: Plan, store: Store) -> repair.Repair:
    return repair.repair(verify_dataset(plan, store), store, grace_s=-2)


def sides(store: Store) -> list[str]:
    return [entry.name for folder in ("rejects", "failures") for entry in store.list(folder)]


def orphans(plan: Plan, store: Store) -> None:
    """Left by a worker that died before its proof."""
    make_shard(plan, store)
    entry = store.entry("data/part-000000.parquet")
    assert entry is not None and store.remove(entry)


def damage(plan: Plan, store: Store) -> None:
    make_shard(plan, store)
    store.put("data/part-000000.parquet", b"cut")


def lose_a_side_object(plan: Plan, store: Store) -> None:
    make_shard(plan, store)
    store.delete(sides(store)[0])


def nothing(plan: Plan, store: Store) -> None:
    pass


def at_every_step(run: Callable[[int], bool]) -> None:
    """`run` says whether its step was reached."""
    for n in itertools.count():
        if not run(n):
            assert n > 5
            return


@pytest.mark.parametrize("before", [nothing, orphans])
def test_a_repair_between_any_two_steps_of_a_commit(
    plan: Plan, url: str, before: Callable[[Plan, Store], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It removed side objects of a shard that was being committed: the run said done, samples were nowhere."""

    def run(n: int) -> bool:
        store = claimed(plan, f"{url}/{n}")
        before(plan, store)
        with monkeypatch.context() as patch:
            between = Between(store.url, n, lambda other: repair_all(plan, other), patch)
            make_shard(plan, between)
        result = verify_dataset(plan, store)
        assert (result.problems, result.missing, result.orphans, store.list(".tmp")) == ([], [], [], [])
        return between.act is None

    at_every_step(run)


@pytest.mark.parametrize("before", [nothing, orphans, damage, lose_a_side_object])
def test_a_commit_between_any_two_steps_of_a_repair(
    plan: Plan, url: str, before: Callable[[Plan, Store], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(n: int) -> bool:
        store = claimed(plan, f"{url}/{n}")
        before(plan, store)
        made = False

        def write(other: Store) -> None:
            nonlocal made
            try:
                make_shard(plan, other)
                made = True
            except OutputMismatchError:  # the damaged one is there still
                pass

        with monkeypatch.context() as patch:
            between = Between(store.url, n, write, patch)
            repair_all(plan, between)
        if made:
            assert verify_dataset(plan, store).complete
        make_shard(plan, store)
        result = verify_dataset(plan, store)
        assert (result.problems, result.missing) == ([], [])
        return between.act is None

    at_every_step(run)


def test_a_repair_and_a_commit_between_any_two_steps_of_another_repair(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second repair, which had seen the damage too, removed the good object that was made in its place."""

    def run(n: int) -> bool:
        store = claimed(plan, str(tmp_path / str(n)))
        damage(plan, store)

        def act(other: Store) -> None:
            repair_all(plan, other)
            make_shard(plan, other)

        with monkeypatch.context() as patch:
            between = Between(store.url, n, act, patch)
            repair_all(plan, between)
        if between.act is None:
            result = verify_dataset(plan, store)
            assert (result.problems, result.missing) == ([], [])
        return between.act is None

    at_every_step(run)


def test_left_overs_are_spared_while_they_are_young(plan: Plan, tmp_path: Path) -> None:
    store = claimed(plan, str(tmp_path))
    orphans(plan, store)
    (tmp_path / ".tmp" / ("0" * 32)).write_bytes(b"half a shard")
    left = [*sides(store), f".tmp/{'0' * 32}"]
    done = repair.repair(verify_dataset(plan, store), store)
    assert (done.removed, sorted(done.spared)) == ([], sorted(left))
    for name in left:
        os.utime(tmp_path / name, (time.time() - 7200,) * 2)
    done = repair.repair(verify_dataset(plan, store), store)
    assert (sorted(done.removed), done.spared, sides(store)) == (sorted(left), [], [])


def extended(plan: Plan, store: Store, added: str = "b") -> Plan:
    """As another `run --extend` does: a segment, and a shard of it."""
    shards = require_plan(store).shards
    content = {"size_bytes": 1, "rows": 2, "etag": added}
    segment = replace(plan.segments[0], kind="extend", first_shard=shards)
    grown = add_segments(require_plan(store), store, [segment], {f"{added}.parquet": content})
    make_shard(grown, store, shards)
    return grown


def test_an_extension_between_any_two_steps_of_a_repair(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repair that had read the plan before removed the new shards: the plan has 1 shards only."""

    def run(n: int) -> bool:
        store = claimed(plan, str(tmp_path / str(n)))
        make_shard(plan, store)
        with monkeypatch.context() as patch:
            between = Between(store.url, n, lambda other: extended(plan, other), patch)
            done = repair_all(plan, between)
        assert done.removed == []
        if between.act is None:
            result = verify_dataset(plan, store)
            assert (result.complete, result.plan.shards) == (True, 2)
        return between.act is None

    at_every_step(run)


def test_a_shard_that_no_segment_has_is_reported_and_stays(plan: Plan, tmp_path: Path) -> None:
    store = claimed(plan, str(tmp_path))
    make_shard(plan, store)
    extended(plan, store)
    (tmp_path / "segments" / "000000001.json").unlink()
    result = verify_dataset(plan, store)
    assert len(result.problems) == 1 and "segments/" in result.problems[0]
    assert repair.repair(result, store, -2).removed == []


def test_samples_come_with_the_plan_that_has_them(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A report that had read the plan before an extension died, or counted the old number."""

    def run(n: int) -> bool:
        store = claimed(plan, str(tmp_path / str(n)))
        make_shard(plan, store)
        with monkeypatch.context() as patch:
            between = Between(store.url, n, lambda other: extended(plan, other), patch)
            newest, samples = read_dataset(plan, between)
        assert max(samples.counts) < newest.shards
        assert samples.problems == ()
        return between.act is None

    at_every_step(run)


def test_a_retry_that_an_extension_overtakes_goes_on_behind_it(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its segment's place was taken: it made the extension's shards and said done."""

    def run(n: int) -> bool:
        store = claimed(plan, str(tmp_path / str(n)))
        make_shard(plan, store)
        with monkeypatch.context() as patch:
            between = Between(store.url, n, lambda other: extended(plan, other), patch)
            grown = retry.plan_retry(plan, between)
        assert "retry" in {segment.kind for segment in grown.segments}
        assert newest_plan(plan, store).segments[: len(grown.segments)] == grown.segments
        return between.act is None

    at_every_step(run)


def test_two_extensions_at_once_both_get_in(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that came second was told to give --extend, which it had."""
    source = tmp_path / "source"
    source.mkdir()
    pq.write_table(pa.table({"prompt": ["a red circle", "a blue square"]}), source / "a.parquet")
    first = planned(source)
    pq.write_table(pa.table({"prompt": ["a pink ring"]}), source / "b.parquet")
    second = planned(source)
    pq.write_table(pa.table({"prompt": ["a cyan ring"]}), source / "c.parquet")
    third = planned(source)

    def extend_second(other: Store) -> None:
        with contextlib.suppress(
            OutputMismatchError, InputError
        ):  # the third is there already, with files it knows nothing of
            claim_output(second, other, extend=True)

    def run(n: int) -> bool:
        store = claimed(first, str(tmp_path / str(n)))
        with monkeypatch.context() as patch:
            between = Between(store.url, n, extend_second, patch)
            grown = claim_output(third, between, extend=True)
        names = [file.name for segment in grown.segments for file in segment.files]
        assert sorted(names) == ["a.parquet", "b.parquet", "c.parquet"]
        return between.act is None

    at_every_step(run)


def test_retry_beside_retry_makes_one_segment(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(n: int) -> bool:
        store = claimed(plan, str(tmp_path / str(n)))
        make_shard(plan, store)
        with monkeypatch.context() as patch:
            between = Between(store.url, n, lambda other: retry.plan_retry(plan, other), patch)
            grown = retry.plan_retry(plan, between)
        assert [segment.kind for segment in grown.segments] == ["source", "retry"]
        return between.act is None

    at_every_step(run)


def test_a_retry_whose_rows_are_removed_meanwhile_says_so(plan: Plan, tmp_path: Path) -> None:
    store = claimed(plan, str(tmp_path))
    lose_a_side_object(plan, store)
    store.delete(sides(store)[0])
    with pytest.raises(JobError, match="verify --repair"):
        retry.plan_retry(plan, store)


def test_a_proof_of_before_is_read_and_checked(plan: Plan, tmp_path: Path) -> None:
    """Footers of older versions name their side objects, and say no more of them."""
    store = claimed(plan, str(tmp_path))
    make_shard(plan, store)
    path = tmp_path / "data" / "part-000000.parquet"
    table = pq.read_table(path)
    content = json.loads(table.schema.metadata[b"promptmill"])
    assert [set(one) for one in content.pop("sidecars")] == [{"name", "rows", "size_bytes", "sha256"}] * 2
    metadata = {**table.schema.metadata, b"promptmill": json.dumps(content).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    assert verify_dataset(plan, store, deep=True).complete
    name = sides(store)[0]
    rows = pq.read_table(tmp_path / name)
    pq.write_table(rows, tmp_path / name, compression="none")
    assert verify_dataset(plan, store).complete
    assert any("SHA-256" in problem for problem in verify_dataset(plan, store, deep=True).problems)
    pq.write_table(rows.slice(0, 0), tmp_path / name)
    assert any("has 0 rows, not 1" in problem for problem in verify_dataset(plan, store).problems)


def test_what_the_proof_says_of_side_objects(plan: Plan, tmp_path: Path) -> None:
    store = claimed(plan, str(tmp_path))
    make_shard(plan, store)
    record = proven(store, plan.shard(0), plan.fingerprint)
    assert record is not None
    described = [asdict(sidecar) for sidecar in record.sidecars]
    assert [(one["name"], one["rows"]) for one in described] == [(name, 1) for name in sides(store)]
    for name, change in (("rejects", b""), ("failures", b"no parquet"), ("rejects", b"PAR1")):
        path = next((tmp_path / name).iterdir())
        whole = path.read_bytes()
        path.write_bytes(change)
        assert verify_dataset(plan, store).problems, change
        path.write_bytes(whole)
    assert verify_dataset(plan, store, deep=True).complete


def test_what_a_retry_reads_is_brought_back(plan: Plan, tmp_path: Path) -> None:
    """Deleted as left-overs before the retry was finished, it could not go on any more."""
    store = claimed(plan, str(tmp_path))
    make_shard(plan, store)
    grown = retry.plan_retry(plan, store)
    (entry,) = store.list("inputs")
    content = store.read(entry.name)
    store.delete(entry.name)
    assert retry.plan_retry(grown, store) is grown
    assert store.read(entry.name) == content


def test_a_store_whose_listings_know_parts_of_a_second() -> None:
    listed, looked_at = Entry("a", 1, 1000.7, "x 1"), Entry("a", 1, 1000.0, "x 1")
    assert same_write(listed, looked_at)
    assert not same_write(listed, replace(looked_at, modified=1004.0))
    assert not same_write(listed, replace(looked_at, version="y 1"))
