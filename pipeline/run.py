"""The whole job: claim the output, dispatch what is missing, count what is there."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

from pipeline.crashpoints import reached
from pipeline.dataset import dataset_counts, missing_shards, read_counts
from pipeline.dispatch import Dispatcher, Listener, Stop
from pipeline.plan import Plan
from pipeline.storage import Store
from schemas.errors import PromptmillError
from schemas.plan import Counts, Receipt, Shard


@dataclass(frozen=True)
class RunSummary:
    """`counts` and `shards_done` are of the whole dataset, `made` and `seconds` of this run."""

    counts: Counts
    shards: int
    shards_done: int
    made: Counts
    seconds: float
    interrupted: bool


class RunListener(Listener, Protocol):
    def begin(self, plan: Plan, todo: list[Shard], done: Counts) -> None: ...


class _Tally:
    """Hands everything on to the listener and keeps the receipts of this run."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self.receipts: dict[int, Receipt] = {}

    def shard_done(self, receipt: Receipt) -> None:
        self.receipts[receipt.shard] = receipt
        self._listener.shard_done(receipt)
        reached("driver-shard-done")

    def pulse(self, samples_made: int, workers: int, model_loads: int) -> None:
        self._listener.pulse(samples_made, workers, model_loads)

    def notice(self, text: str) -> None:
        self._listener.notice(text)


def run_job(plan: Plan, store: Store, dispatcher: Dispatcher, listener: RunListener, stop: Stop) -> RunSummary:
    """Make every shard that is not there yet; `plan` is what `write_plan` returned.

    Raises the first job, storage or cluster error; all that was committed before stays, and the same call goes on.
    """
    started = time.monotonic()
    todo = missing_shards(plan, store)
    missing = {shard.number for shard in todo}
    by_shard = read_counts(store)
    tally = _Tally(listener)
    listener.begin(plan, todo, dataset_counts(plan, by_shard))
    reached("driver-before-dispatch")
    if todo:
        dispatcher.run(todo, tally, stop)
    if not stop.requested and (lost := missing - tally.receipts.keys()):
        raise PromptmillError(f"{len(lost)} shards were neither done nor reported, the first is {min(lost)}")
    by_shard.update({number: receipt.counts for number, receipt in tally.receipts.items()})
    made = Counts()
    for receipt in tally.receipts.values():
        made = made + receipt.counts
    return RunSummary(
        counts=dataset_counts(plan, by_shard),
        shards=plan.shards,
        shards_done=len(by_shard),
        made=made,
        seconds=time.monotonic() - started,
        interrupted=stop.requested and len(by_shard) < plan.shards,
    )
