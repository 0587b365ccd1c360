"""The whole job: claim the output, dispatch what is missing, count what is there."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from promptmill.pipeline.crashpoints import reached
from promptmill.pipeline.dataset.rounds import Short
from promptmill.pipeline.dataset.state import (
    commonest_failure,
    dataset_counts,
    distinct_versions,
    missing_shards,
    proven_shards,
    read_data_object,
    read_footers,
    side_objects,
)
from promptmill.pipeline.execution.budget import Budget, budget_of
from promptmill.pipeline.execution.dispatch import Dispatcher
from promptmill.pipeline.execution.events import LeftOut, Listener, Stop
from promptmill.pipeline.execution.lease import Elsewhere
from promptmill.pipeline.models.catalog.versions import differing, in_words, library_versions
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import JobError, OutputMismatchError, Problem, PromptmillError, StorageError
from promptmill.schemas.events import Pulse
from promptmill.schemas.plan import CommitRecord, Counts, Shard, ShardStats
from promptmill.schemas.results import CurateResult

_ROUNDS = 3

SAMPLES_BEFORE_JUDGING = 100
"""Fewer say little about a job: `compute.max_failure_share` is looked at after so many."""


@dataclass(frozen=True)
class RunSummary:
    """`counts` and `shards_done` are of the whole dataset, `made`, `seconds` and `model_loads` of this run.

    `reported` says that the report was written after it, `versions` which ones made the shards, `left_out` which nodes
    and devices it did without. `elsewhere` is the run for whose sake this one made nothing. `spent` is what the dataset
    cost by now, `over_budget` what was spent and allowed where that ended the run. `short` are
    classes that could not be filled, `curated` is what the job's `curate` came to. `lost` says that nothing was to be
    made and side objects are gone.
    """

    counts: Counts
    shards: int
    shards_done: int
    made: Counts
    seconds: float
    interrupted: bool
    model_loads: int = 0
    reported: bool = False
    versions: tuple[Mapping[str, str], ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    elsewhere: Elsewhere | None = None
    spent: float | None = None
    over_budget: str | None = None
    short: tuple[Short, ...] = ()
    curated: CurateResult | None = None
    lost: bool = False

    @property
    def found_whole(self) -> bool:
        """Whether all was there when it began."""
        return not self.made.samples and self.shards_done == self.shards and not self.interrupted

    @property
    def images_per_second(self) -> float:
        """Of this run, failed samples not counted; 0 for one that took no time."""
        return (self.made.kept + self.made.rejected) / self.seconds if self.seconds else 0.0


class RunListener(Listener, Protocol):
    def begin(self, plan: Plan, todo: list[Shard], done: Counts) -> None: ...


class _Versions:
    """Says once of each version that acts where others acted before, in earlier runs or on another node of this one."""

    def __init__(self, claimed: Mapping[str, str], acted: Iterable[Mapping[str, str]], listener: Listener) -> None:
        self.acted = distinct_versions(acted)
        self._known = [claimed, *self.acted]
        self._listener = listener

    def look(self, now: Mapping[str, str]) -> None:
        if different := differing(self._known, now):
            self._listener.notice(
                f"this dataset was begun under other versions: {in_words(different)}. The same samples are made; their "
                "images may differ in last bits"
            )
        self._known = distinct_versions([*self._known, now])

    def made(self, stats: ShardStats) -> None:
        self.look(stats.versions)
        self.acted = distinct_versions([*self.acted, stats.versions])


class _Tally:
    """Hands everything on to the listener, keeps the receipts of this run, and stops one that is plainly wrong."""

    def __init__(
        self, listener: Listener, stop: Stop, max_failure_share: float, versions: _Versions, budget: Budget
    ) -> None:
        self._listener = listener
        self._budget = budget
        self._versions = versions
        self._stop = stop
        self._max_failure_share = max_failure_share
        self.receipts: dict[int, ShardStats] = {}
        self.made = Counts()
        self.broken = False
        self.model_loads = 0

    def shard_done(self, receipt: ShardStats) -> None:
        self.receipts[receipt.shard] = receipt
        if not receipt.already_done:
            self.made = self.made + receipt.counts
            self.model_loads += receipt.model_loads
            self._versions.made(receipt)
        self._listener.shard_done(receipt)
        reached("driver-shard-done")
        made = self.made
        if made.samples >= SAMPLES_BEFORE_JUDGING and made.failed > self._max_failure_share * made.samples:
            self.broken = True
            self._stop.request("failures")

    def pulse(self, pulse: Pulse) -> None:
        self._budget.pulse(pulse.workers)
        self._listener.pulse(pulse)
        self.look_at_budget()

    def look_at_budget(self) -> None:
        if self._budget.is_spent and not self._stop.requested:
            self._listener.notice(f"{self._budget}: no new shard begins")
            self._stop.request("budget")

    def notice(self, text: str) -> None:
        self._listener.notice(text)

    def summary(self, plan: Plan, by_shard: Mapping[int, Counts]) -> RunSummary:
        is_short = len(by_shard) < plan.shards
        return RunSummary(
            counts=dataset_counts(plan, by_shard),
            shards=plan.shards,
            shards_done=len(by_shard),
            made=self.made,
            seconds=0.0,
            interrupted=self._stop.reason == "asked",
            spent=self._budget.spent,
            over_budget=f"{self._budget}" if self._stop.reason == "budget" and is_short else None,
            model_loads=self.model_loads,
            versions=tuple(self._versions.acted),
        )


def run_job(
    plan: Plan,
    store: Store,
    dispatcher: Dispatcher,
    listener: RunListener,
    stop: Stop,
    *,
    budget: Budget | None = None,
    backwards: bool = False,
) -> RunSummary:
    """Make every shard that is not there yet; `plan` is what `claim_output` returned. `budget` is that of a run which
    calls this several times. `backwards` begins with the last shard, where another run began with the first.

    Raises the first job, storage or cluster error, and JobError where more samples fail than
    `compute.max_failure_share`; all that was committed before stays, and the same call goes on.
    """
    started, compute = time.monotonic(), plan.job.compute
    todo, footers = _left(plan, store)
    if backwards:
        todo.reverse()
    versions = _Versions(plan.versions, (footer.versions for footer in footers.values()), listener)
    budget = budget or budget_of(compute, store)
    tally = _Tally(listener, stop, compute.max_failure_share, versions, budget)
    listener.begin(plan, todo, dataset_counts(plan, {number: footer.counts for number, footer in footers.items()}))
    reached("driver-before-dispatch")
    if todo:
        versions.look(library_versions())
        store.warn_of_weakness()
        tally.look_at_budget()
    try:
        proofs = _make(plan, todo, footers, dispatcher, tally, stop, store)
    finally:
        budget.pulse(0)
    by_shard = _last_word(plan, proofs, tally.receipts, store)
    reached("driver-dispatched")
    lost = not todo and not {key for each in footers.values() for key in each.side_objects} <= side_objects(store)
    seconds, left_out = time.monotonic() - started, tuple(dispatcher.left_out)
    return replace(tally.summary(plan, by_shard), seconds=seconds, lost=lost, left_out=left_out)


def _left(plan: Plan, store: Store) -> tuple[list[Shard], dict[int, CommitRecord]]:
    """What is to be made, and the proofs of the rest. Raises OutputMismatchError where another object is in the way."""
    todo, footers = missing_shards(plan, store), read_footers(plan, store)
    taken = set(range(plan.shards)) - {shard.number for shard in todo} - footers.keys()
    todo += _gone(plan, taken, store)
    _refuse_foreign(plan, taken - {shard.number for shard in todo}, store)
    return todo, footers


def _gone(plan: Plan, numbers: set[int], store: Store) -> list[Shard]:
    """Shards that were listed and that a `verify --repair` has removed before their footers were read."""
    shards = [plan.shard(number) for number in sorted(numbers)]
    return [shard for shard in shards if store.entry(shard.data_key) is None]


def _make(
    plan: Plan,
    todo: list[Shard],
    before: Mapping[int, CommitRecord],
    dispatcher: Dispatcher,
    tally: _Tally,
    stop: Stop,
    store: Store,
) -> Mapping[int, CommitRecord]:
    """Until the store itself shows every shard; the proofs it shows, after a stop those of `before` alone."""
    for _ in range(_ROUNDS):
        if todo and not stop.requested:
            dispatcher.run(todo, tally, stop)
        if tally.broken:
            raise _too_many_failures(plan, tally.made, store)
        if stop.requested:
            return before
        if lost := {shard.number for shard in todo} - tally.receipts.keys():
            raise PromptmillError(f"{len(lost)} shards were neither done nor reported, the first is {min(lost)}")
        proofs = proven_shards(plan, store, before)
        if not (todo := [shard for shard in plan.all_shards() if shard.number not in proofs]):
            return proofs
        tally.notice(f"{len(todo)} shards were reported done and are not there: {todo[0].data_key}. Made again")
    raise StorageError(
        f"{store.url}/{todo[0].data_key} was reported done and is not there ({len(todo)} such shards). Do all workers "
        "see the same storage, or does something remove objects?"
    )


def _last_word(
    plan: Plan, proofs: Mapping[int, CommitRecord], receipts: Mapping[int, ShardStats], store: Store
) -> dict[int, Counts]:
    """Counts of the shards that a listing shows: a worker may have written its own somewhere else."""
    told = {number: receipt.counts for number, receipt in receipts.items()}
    counts = told | {number: proof.counts for number, proof in proofs.items()}
    missing = {shard.number for shard in missing_shards(plan, store)}
    return {number: each for number, each in counts.items() if number not in missing}


def _refuse_foreign(plan: Plan, numbers: set[int], store: Store) -> None:
    """`numbers` are shards whose key is taken by an object that is no proof of them."""
    if numbers:
        key = plan.shard(min(numbers)).data_key
        item = read_data_object(store, store.entry(key))
        if item is not None and item.newer is not None:
            raise OutputMismatchError(replace(item.newer, where=f"{store.url}/{key}"))
        raise OutputMismatchError(
            Problem(
                f"{store.url}/{key}",
                "a whole object of this job",
                f"something else ({len(numbers)} such objects)",
                "`promptmill verify --repair` removes them so that they are made again",
            )
        )


def _too_many_failures(plan: Plan, made: Counts, store: Store) -> JobError:
    commonest = commonest_failure(store)
    return JobError(
        Problem(
            f"compute.max_failure_share: {store.url}/failures/",
            f"at most {plan.job.compute.max_failure_share:.0%} of samples to fail",
            f"{made.failed} of the first {made.samples}" + (f", most of them with: {commonest}" if commonest else ""),
            "What is done stays. Mend the cause and run again, then `promptmill retry` makes the failed ones; or raise "
            "compute.max_failure_share",
        )
    )
