"""What a dataset shows while it is made: each look reads what has come since the one before."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import pyarrow.parquet as pq

from promptmill.pipeline.dataset.keys import is_failure
from promptmill.pipeline.dataset.open import newest_plan
from promptmill.pipeline.dataset.records import UNREADABLE
from promptmill.pipeline.dataset.state import dataset_counts, proven_shards, read_receipts
from promptmill.pipeline.display import local_time, shown
from promptmill.pipeline.execution.heartbeat import LastSign, read_heartbeat
from promptmill.pipeline.execution.json_log import node_of_worker
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.prompts.thumbs import thumbnail
from promptmill.pipeline.report.before import SUMMARY_KEY, run_before
from promptmill.pipeline.report.cost import run_facts
from promptmill.pipeline.storage.entry import Entry, same_write
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import PromptmillError, StorageError
from promptmill.schemas.live import LiveFailure, LiveNode, LivePicture, LivePictures, LiveView
from promptmill.schemas.plan import CommitRecord, Counts, ShardStats

REPORT: Final = "report/index.html"
_PICTURES: Final = 12
_FAILURES: Final = 20
_OBJECTS_A_LOOK: Final = 3
_ROWS_AN_OBJECT: Final = 6
_TEXT: Final = 300
_BUFFER_BYTES: Final = 1 << 20


class Viewer:
    """Not for two threads at once. `price_per_hour` is that of one device."""

    def __init__(self, plan: Plan, store: Store, price_per_hour: float | None = None) -> None:
        self._plan, self._store, self._price = plan, store, price_per_hour
        self._proofs: dict[int, CommitRecord] = {}
        self._receipts: dict[str, ShardStats] = {}
        self._failures: list[LiveFailure] = []
        self._last: LiveView | None = None
        self._report: tuple[Entry | None, float | None] = (None, None)
        self.pictures = LivePictures()

    def look(self) -> LiveView:
        """Raises StorageError and JobError where the first look fails; a later one says it in `problem`."""
        try:
            self._last = self._look()
        except PromptmillError as error:
            if self._last is None:
                raise
            self._last = replace(self._last, problem=shown(error))
        return self._last

    def _look(self) -> LiveView:
        plan = self._plan = newest_plan(self._plan, self._store)
        proofs = proven_shards(plan, self._store, self._proofs)
        new = [proofs[number] for number in sorted(proofs.keys() - self._proofs.keys())]
        self._proofs = proofs
        told = read_receipts(self._store, None, self._receipts)
        self._receipts |= {plan.shard(one.shard).receipt_key: one for one in told if one.shard < plan.shards}
        self._show(new)
        counts = dataset_counts(plan, {number: proof.counts for number, proof in proofs.items()})
        return self._view(plan, counts, read_heartbeat(self._store))

    def _view(self, plan: Plan, counts: Counts, sign: LastSign | None) -> LiveView:
        receipts = [one for one in self._receipts.values() if one.shard in self._proofs]
        facts = run_facts(receipts, None, self._known_price(), self._plan.job.compute.devices_per_worker)
        running = sign is not None and sign.state == "running"
        done = sign.said.samples_done if sign is not None and running else None
        report = self._store.entry(REPORT)
        return LiveView(
            name=shown(plan.job.name),
            output=shown(self._store.url),
            **_of_run(sign),
            samples=plan.samples,
            samples_done=min(plan.samples, max(counts.samples, done or 0)),
            kept=counts.kept,
            rejected=counts.rejected,
            failed=counts.failed,
            shards=plan.shards,
            shards_done=len(self._proofs),
            complete=len(self._proofs) == plan.shards,
            cost=facts.cost,
            cost_per_thousand=1000 * facts.cost / counts.kept if facts.cost and counts.kept else None,
            report="" if report is None else f"{report.version or report.modified or report.size_bytes}",
            nodes=_nodes(receipts, time.time()),
            rejected_by_reason=_summed(one.rejected for one in receipts),
            failed_by_kind=_summed(one.failed for one in receipts),
            failures=self._failures,
        )

    def _known_price(self) -> float | None:
        prices = (self._price, self._reported_price(), self._plan.job.compute.price_per_hour)
        return next((price for price in prices if price is not None), None)

    def _reported_price(self) -> float | None:
        """Of a report with many groups the numbers are megabytes: they are read when they have changed."""
        before, price = self._report
        entry = self._store.entry(SUMMARY_KEY)
        if entry is None or before is None or not same_write(before, entry):
            price = None if entry is None else run_before(self._plan, self._store).price_per_hour
        self._report = (entry, price)
        return price

    def _show(self, new: Sequence[CommitRecord]) -> None:
        """Of the newest objects among them a few samples each."""
        if not new:
            return
        kept, rejected = list(self.pictures.kept), list(self.pictures.rejected)
        for record in self._newest(new):
            kept = [*self._pictures(record.shard.data_key, "clip_score"), *kept]
            for key in record.side_objects:
                if is_failure(key):
                    self._failures = [*self._failed(record.shard.number, key), *self._failures][:_FAILURES]
                else:
                    rejected = [*self._pictures(key, "reason"), *rejected]
        self.pictures = LivePictures(kept[:_PICTURES], rejected[:_PICTURES])

    def _newest(self, new: Sequence[CommitRecord]) -> list[CommitRecord]:
        """The last one last."""
        times = {entry.name: entry.modified or 0.0 for entry in self._store.list("data")}
        in_order = sorted(new, key=lambda record: (times.get(record.shard.data_key, 0.0), record.shard.number))
        return in_order[-_OBJECTS_A_LOOK:]

    def _pictures(self, key: str, note: str) -> list[LivePicture]:
        rows = self._rows(key, ("sample_id", "prompt", note, "image"))
        return [
            LivePicture(
                sample_id=_text(row.get("sample_id")),
                prompt=_text(row.get("prompt")),
                note=_note(note, row.get(note)),
                image=thumbnail(data) if (data := (row.get("image") or {}).get("bytes")) else None,
            )
            for row in rows
        ]

    def _failed(self, shard: int, key: str) -> list[LiveFailure]:
        rows = self._rows(key, ("error_kind", "message", "prompt"))
        return [
            LiveFailure(shard, _text(row.get("error_kind")), _text(row.get("message")), _text(row.get("prompt")))
            for row in rows
        ]

    def _rows(self, key: str, columns: Sequence[str]) -> list[dict[str, Any]]:
        """The first few; none where the object is damaged or gone: it is a look, and others will tell."""
        try:
            with self._store.open(key) as file:
                parquet = pq.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER_BYTES)
                there = [name for name in columns if name in parquet.schema_arrow.names]
                batches = parquet.iter_batches(batch_size=_ROWS_AN_OBJECT, columns=there)
                found: list[dict[str, Any]] = next(batches).to_pylist()
        except (StopIteration, StorageError, *UNREADABLE):
            return []
        return found


def _of_run(sign: LastSign | None) -> dict[str, Any]:
    if sign is None:
        nothing = dict.fromkeys(("since", "host", "error", "images_per_second", "eta_s", "workers"))
        return {"state": "none", **nothing}
    said, running = sign.said, sign.state == "running"
    since = said.began if running else said.beat
    return {
        "state": sign.state,
        "since": None if since is None else local_time(since),
        "host": None if said.host is None else shown(said.host),
        "error": None if not said.error else shown(said.error),
        "images_per_second": said.images_per_second if running else None,
        "eta_s": said.eta_s if running else None,
        "workers": said.workers if running else None,
    }


def _nodes(receipts: Iterable[ShardStats], now: float) -> list[LiveNode]:
    by_node: dict[str, list[ShardStats]] = defaultdict(list)
    for one in receipts:
        by_node[node_of_worker(one.worker)].append(one)
    return [_node(shown(name), made, now) for name, made in sorted(by_node.items())]


def _node(name: str, made: Sequence[ShardStats], now: float) -> LiveNode:
    images = sum(one.counts.samples for one in made)
    spent = sum(one.seconds.get("generate", 0.0) for one in made)
    ended = max(one.began + one.seconds.get("total", 0.0) for one in made)
    return LiveNode(
        node=name,
        workers=len({one.worker for one in made}),
        shards=len(made),
        images=images,
        seconds_per_image=spent / images if images and spent else None,
        silent_s=max(0.0, round(now - ended, 1)) if ended else None,
    )


def _summed(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return {shown(name): count for name, count in total.most_common()}


def _text(value: object) -> str:
    text = "" if value is None else shown(str(value)[: _TEXT + 1])
    return text if len(text) <= _TEXT else f"{text[:_TEXT]}…"


def _note(column: str, value: object) -> str:
    return f"clip {value:.3f}" if column == "clip_score" and isinstance(value, float) else _text(value)
