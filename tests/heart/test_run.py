"""The whole job: what is left is made, what goes wrong too often stops it, and the counts are the dataset's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from promptmill.pipeline.dataset import claim, commit
from promptmill.pipeline.dataset.claim import claim_output
from promptmill.pipeline.dataset.retry import plan_retry
from promptmill.pipeline.dataset.state import proven_shards
from promptmill.pipeline.execution import run as run_module
from promptmill.pipeline.execution.events import LeftOut, Listener, Stop
from promptmill.pipeline.execution.run import RunSummary, run_job
from promptmill.pipeline.models.catalog.versions import library_versions
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.storage import store as store_module
from promptmill.pipeline.storage.entry import Entry
from promptmill.pipeline.storage.store import Store
from promptmill.pipeline.worker.shard import process_shard
from promptmill.schemas.errors import JobError, OutputMismatchError, PromptmillError, StorageError
from promptmill.schemas.events import Pulse
from promptmill.schemas.plan import Counts, Shard, ShardStats
from tests.heart.mill import TintContext, make_missing, memory, small_plan


class Notes:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.begun: tuple[list[int], Counts] | None = None
        self.done: list[int] = []
        self.heard: list[object] = []

    def begin(self, plan: Plan, todo: list[Shard], done: Counts) -> None:
        self.begun = ([shard.number for shard in todo], done)

    def shard_done(self, receipt: ShardStats) -> None:
        self.done.append(receipt.shard)

    def pulse(self, pulse: Pulse) -> None:
        self.heard.append((pulse.samples_made, pulse.workers, pulse.model_loads))

    def notice(self, text: str) -> None:
        self.heard.append(text)


class InTurn:
    """One shard after the other, as every dispatcher does it, but without threads."""

    left_out: Sequence[LeftOut] = ()

    def __init__(self, plan: Plan, store: Store, broken: Iterable[str] = ()) -> None:
        self._context = TintContext(plan, store)
        self._context.broken = frozenset(broken)

    def run(self, shards: Iterable[Shard], listener: Listener, stop: Stop) -> None:
        listener.pulse(Pulse(1, 2, 3))
        listener.notice("begun")
        for shard in shards:
            if not stop.requested:
                listener.shard_done(process_shard(shard, self._context))


class Lazy:
    """Forgets every shard but the first."""

    left_out: Sequence[LeftOut] = ()

    def __init__(self, inner: InTurn) -> None:
        self._inner = inner

    def run(self, shards: Iterable[Shard], listener: Listener, stop: Stop) -> None:
        self._inner.run(list(shards)[:1], listener, stop)


def run(plan: Plan, store: Store, broken: Iterable[str] = (), notes: Notes | None = None) -> RunSummary:
    return run_job(plan, store, InTurn(plan, store, broken), notes or Notes(), Stop())


def test_a_run_and_the_next(tmp_path: Path) -> None:
    store, notes = memory(), Notes()
    plan = claim_output(small_plan(tmp_path), store)
    summary = run(plan, store, notes=notes)
    assert notes.begun == ([0, 1, 2], Counts())
    assert notes.done == [0, 1, 2]
    assert notes.heard == [(1, 2, 3), "begun"]
    assert (summary.counts, summary.made) == (Counts(10, 8, 0, 2), Counts(10, 8, 0, 2))
    assert (summary.shards, summary.shards_done, summary.interrupted) == (3, 3, False)
    assert 0 < summary.seconds < 60
    assert summary.images_per_second == pytest.approx(8 / summary.seconds)
    (acted,) = summary.versions
    assert library_versions().items() <= acted.items()
    assert summary.left_out == ()
    store.delete("data/part-000001.parquet")
    again = Notes()
    summary = run(plan, store, notes=again)
    assert again.begun == ([1], Counts(6, 6))
    assert (summary.counts, summary.made) == (Counts(10, 8, 0, 2), Counts(4, 2, 0, 2))
    idle = Notes()
    summary = run(plan, store, notes=idle)
    assert (idle.begun, idle.heard) == (([], Counts(10, 8, 0, 2)), [])  # no dispatcher is started for nothing
    assert (summary.made, summary.shards_done) == (Counts(), 3)
    assert RunSummary(Counts(), 0, 0, Counts(), 0.0, False).images_per_second == 0


def test_what_another_driver_made_meanwhile_is_not_made_by_this_run(tmp_path: Path) -> None:
    store = memory()
    plan = claim_output(small_plan(tmp_path), store)

    class Overtaken(InTurn):
        def run(self, shards: Iterable[Shard], listener: Listener, stop: Stop) -> None:
            process_shard(plan.shard(0), self._context)
            super().run(shards, listener, stop)

    summary = run_job(plan, store, Overtaken(plan, store), Notes(), Stop())
    assert (summary.counts, summary.made) == (Counts(10, 8, 0, 2), Counts(6, 4, 0, 2))


def test_a_stop_ends_the_run(tmp_path: Path) -> None:
    store, stop = memory(), Stop()
    plan = claim_output(small_plan(tmp_path), store)

    class Stopping(Notes):
        def shard_done(self, receipt: ShardStats) -> None:
            stop.request()

    summary = run_job(plan, store, InTurn(plan, store), Stopping(), stop)
    assert (summary.interrupted, summary.shards_done, summary.counts) == (True, 1, Counts(4, 4))


def test_a_shard_that_nobody_reports_is_an_error(tmp_path: Path) -> None:
    store = memory()
    plan = claim_output(small_plan(tmp_path), store)
    with pytest.raises(PromptmillError) as caught:
        run_job(plan, store, Lazy(InTurn(plan, store)), Notes(), Stop())
    assert str(caught.value) == "2 shards were neither done nor reported, the first is 1"


@pytest.mark.parametrize("spoil", [lambda data: b"", lambda data: data.replace(b"promptmill", b"promptmall")])
def test_what_is_no_proof_is_refused(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    store = memory()
    plan = claim_output(small_plan(tmp_path), store)
    run(plan, store)
    for number in (2, 1):
        key = f"data/part-{number:06d}.parquet"
        store.put(key, spoil(store.read(key)))
    with pytest.raises(OutputMismatchError) as caught:
        run(plan, store)
    assert str(caught.value) == (
        f"{store.url}/data/part-000001.parquet: expected a whole object of this job, got something else (2 such "
        "objects). `promptmill verify --repair` removes them so that they are made again"
    )


def test_places_where_the_fault_suite_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In their order, for one shard with rejects and failures: a point that nobody passes breaks nothing any more."""
    passed: list[str] = []
    for module in (claim, commit, run_module, store_module):
        monkeypatch.setattr(module, "reached", passed.append)
    store = memory()
    sections = {"select": {"keep": 1, "by": "clip"}}
    plan = claim_output(small_plan(tmp_path, ["a red circle", "a broken one"], **sections), store)
    run(plan, store, ["broken"])
    make_missing(plan_retry(plan, store), store)
    written = ["before-write", "after-write"]
    side = [*written, "after-rejects", *written, "after-failures"]
    data, receipt = ["before-data", *written, "after-data"], [*written, "after-receipt"]
    retried = [*written, *written, "driver-after-segment", "before-side-objects", *written, "after-rejects", *data]
    assert passed == [
        *(*written, "driver-after-claim", "driver-before-dispatch"),
        *("before-side-objects", *side, *data, *receipt),
        *("driver-shard-done", "driver-dispatched"),
        *(*retried, *receipt),
    ]


def test_failures_that_are_gone_are_not_named(tmp_path: Path) -> None:
    class Forgetful(Store):
        def list(self, folder: str) -> list[Entry]:
            return [] if folder == "failures" else super().list(folder)

    store = Forgetful(memory().url)
    plan = claim_output(many(tmp_path, 60, 100), store)
    with pytest.raises(JobError, match=r"got 60 of the first 100\. What is done stays\."):
        run(plan, store, ["broken"])


def many(folder: Path, failing: int, of: int, share: float | None = None) -> Plan:
    compute = {} if share is None else {"compute": {"max_failure_share": share}}
    prompts = ["a broken one"] * failing + ["a red circle"] * (of - failing)
    sections = {"generation": {"images_per_prompt": 1}, "output": {"images_per_shard": 10}, **compute}
    return small_plan(folder, prompts, **sections)


@pytest.mark.parametrize(
    ("failing", "of", "share", "stops"),
    [(60, 120, None, True), (50, 120, None, False), (30, 120, 0.2, True), (99, 99, None, False), (20, 120, 0.2, False)],
)
def test_too_many_failures_stop_the_run(
    tmp_path: Path, failing: int, of: int, share: float | None, stops: bool
) -> None:
    """More than the share of the first hundred, no less, and nobody is judged before."""
    store = memory()
    plan = claim_output(many(tmp_path, failing, of, share), store)
    if not stops:
        assert run(plan, store, ["broken"]).counts == Counts(of, of - failing, 0, failing)
        return
    with pytest.raises(JobError) as caught:
        run(plan, store, ["broken"])
    percent = "50%" if share is None else "20%"
    assert str(caught.value) == (
        f"compute.max_failure_share: {store.url}/failures/: expected at most {percent} of samples to fail, got "
        f"{failing} of the first 100, most of them with: generation: a broken word. What is done stays. Mend the cause "
        "and run again, then `promptmill retry` makes the failed ones; or raise compute.max_failure_share"
    )
    assert len(store.list("data")) == 10


@pytest.mark.parametrize("folder", ["data", "failures"])
def test_what_is_reported_done_and_is_not_there_is_made_again(tmp_path: Path, folder: str) -> None:
    """A run on a path that its workers did not share said done, and a third of the samples was nowhere."""
    store = memory()
    plan = claim_output(small_plan(tmp_path), store)

    class Losing(InTurn):
        rounds = 0

        def run(self, shards: Iterable[Shard], listener: Listener, stop: Stop) -> None:
            super().run(shards, listener, stop)
            self.rounds += 1
            if self.rounds < losses:
                store.delete(store.list(folder)[0].name)

    losses = 2
    dispatcher = Losing(plan, store, ["square"])
    summary = run_job(plan, store, dispatcher, Notes(), Stop())
    assert (dispatcher.rounds, summary.shards_done) == (2, plan.shards)
    assert len(proven_shards(plan, store, {})) == plan.shards
    losses = 99
    store.delete(store.list(folder)[0].name)
    store.delete(store.list("data")[0].name)
    with pytest.raises(StorageError, match="see the same storage"):
        run_job(plan, store, Losing(plan, store, ["square"]), Notes(), Stop())


def test_what_was_there_before_and_goes_while_the_run_goes_on_is_made_again(tmp_path: Path) -> None:
    store = memory()
    plan = claim_output(small_plan(tmp_path), store)
    run(plan, store)
    store.delete("data/part-000001.parquet")

    class Losing(InTurn):
        def run(self, shards: Iterable[Shard], listener: Listener, stop: Stop) -> None:
            made = list(shards)
            super().run(made, listener, stop)
            if made[0].number == 1:
                store.delete("data/part-000000.parquet")

    summary = run_job(plan, store, Losing(plan, store), Notes(), Stop())
    assert (summary.shards_done, summary.counts, summary.made) == (3, Counts(10, 8, 0, 2), Counts(8, 6, 0, 2))


def test_a_run_that_is_stopped_counts_what_a_listing_shows(tmp_path: Path) -> None:
    """Receipts of a worker that wrote into a folder of its own say that all is well."""
    store, stop = memory(), Stop()
    plan = claim_output(small_plan(tmp_path), store)

    class Elsewhere(InTurn):
        def run(self, shards: Iterable[Shard], listener: Listener, stop: Stop) -> None:
            super().run(shards, listener, stop)
            store.delete("data/part-000001.parquet")
            stop.request()

    summary = run_job(plan, store, Elsewhere(plan, store), Notes(), stop)
    assert (summary.interrupted, summary.shards_done, summary.counts) == (True, 2, Counts(6, 6))


def test_what_the_dispatcher_left_out_is_told(tmp_path: Path) -> None:
    store = memory()
    plan = claim_output(small_plan(tmp_path), store)
    dispatcher = InTurn(plan, store)
    dispatcher.left_out = [LeftOut("node-1", "10.0.0.1", "its disk is full")]
    assert run_job(plan, store, dispatcher, Notes(), Stop()).left_out == (
        LeftOut("node-1", "10.0.0.1", "its disk is full"),
    )


def test_other_versions_are_named_once(tmp_path: Path) -> None:
    store, notes = memory(), Notes()
    plan = claim_output(small_plan(tmp_path), store)
    now = library_versions()["torch"]
    run(replace(plan, versions={**library_versions(), "torch": "1.0"}), store, notes=notes)
    assert [text for text in notes.heard if isinstance(text, str) and text != "begun"] == [
        f"this dataset was begun under other versions: torch {now} (then 1.0). The same samples are made; their "
        "images may differ in last bits"
    ]


def test_an_object_of_another_job_proves_nothing(tmp_path: Path) -> None:
    store, other = memory(), memory()
    plan = claim_output(small_plan(tmp_path), store)
    make_missing(claim_output(small_plan(tmp_path, seed=1), other), other)
    for entry in (*other.list("data"), *other.list("rejects"), *other.list("failures")):
        store.put(entry.name, other.read(entry.name))
    assert proven_shards(plan, store, {}) == {}
