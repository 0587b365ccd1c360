"""`promptmill runs`: the datasets below a folder or URL, how far each is, and what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.filesize import decimal

from promptmill.jobs.console import columns, say, say_json, say_on_stderr
from promptmill.jobs.options import AsJson, PricePerHour
from promptmill.pipeline.dataset.below import folders_with_claims
from promptmill.pipeline.dataset.keys import JOB_KEY, is_own
from promptmill.pipeline.dataset.open import DELETING, open_output, read_plan
from promptmill.pipeline.dataset.spent import seconds_in_hand
from promptmill.pipeline.dataset.state import dataset_counts, read_footers, read_receipts
from promptmill.pipeline.dataset.targets import claims
from promptmill.pipeline.display import letters, local_time
from promptmill.pipeline.execution.heartbeat import read_heartbeat
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.storage.entry import Entry
from promptmill.pipeline.storage.patience import default_patience_s
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import JobError, OutputMismatchError, Problem, PromptmillError
from promptmill.schemas.operations import DatasetRow, DatasetState, RunsResult

PATIENCE_S = 10.0


def runs(prefix: str, price_per_hour: float | None = None) -> RunsResult:
    """Raises JobError where there is no such folder. A dataset that cannot be read is a row that says so.

    `price_per_hour` is that of one device.
    """
    store = open_output(prefix, patience_s=min(PATIENCE_S, default_patience_s()))
    folder = store.local_path()
    if folder is not None and not folder.is_dir():
        raise JobError(Problem(store.url, "a folder, or a URL of object storage", "none", "Give one above datasets"))
    unread: list[str] = []
    urls = [f"{store.url.rstrip('/')}/{name}".rstrip("/") for name in folders_with_claims(store, unread)]
    rows = [row for url in urls if (row := dataset_row(url, price_per_hour)) is not None]
    return RunsResult(prefix, rows, unread)


def dataset_row(url: str, price_per_hour: float | None = None) -> DatasetRow | None:
    """None where the `job.json` is another program's."""
    try:
        store = open_output(url, patience_s=min(PATIENCE_S, default_patience_s()))
        content, entries = claims(store), store.find()
        if content is None and not any(is_own(entry.name) and entry.name.startswith("data/") for entry in entries):
            return None
        if content is None:
            raise OutputMismatchError(Problem(f"{url}/{JOB_KEY}", "the job file of a dataset", "a damaged one"))
        plan = None if content.get("version") == DELETING else read_plan(store)
        if plan is None:
            return _row(url, _name(content), "deleting", entries)
        return _read(url, plan, store, entries, price_per_hour)
    except PromptmillError as error:
        return DatasetRow(url, None, "unreadable", problem="; ".join(letters(error)))


def _read(url: str, plan: Plan, store: Store, entries: Sequence[Entry], price_per_hour: float | None) -> DatasetRow:
    footers = read_footers(plan, store)
    counts = dataset_counts(plan, {number: footer.counts for number, footer in footers.items()})
    hours, compute = _device_hours(store), plan.job.compute
    price = compute.price_per_hour if price_per_hour is None else price_per_hour
    return _row(
        url,
        plan.job.name,
        _state(store, complete=len(footers) == plan.shards),
        entries,
        samples_asked_for=plan.samples,
        samples=counts.samples,
        kept=counts.kept,
        rejected=counts.rejected,
        failed=counts.failed,
        shards=plan.shards,
        shards_done=len(footers),
        device_hours=hours,
        cost=None if hours is None or price is None else round(hours * price * compute.devices_per_worker, 2),
    )


def _row(url: str, name: str, state: DatasetState, entries: Sequence[Entry], **known: float | None) -> DatasetRow:
    newest = max((entry.modified for entry in entries if entry.modified is not None), default=None)
    size = sum(entry.size_bytes for entry in entries)
    changed = None if newest is None else local_time(newest)
    return DatasetRow(url, name, state, bytes=size, objects=len(entries), changed_at=changed, **known)  # type: ignore[arg-type]


def _name(content: dict[str, object]) -> str:
    job = content.get("job")
    return str(job.get("name")) if isinstance(job, dict) else "?"


def _state(store: Store, complete: bool) -> DatasetState:
    sign = read_heartbeat(store)
    said = "unfinished" if sign is None else sign.state
    if complete and said != "running":
        return "complete"
    return next((state for state in ("running", "stopped", "failed", "dead") if state == said), "unfinished")


def _device_hours(store: Store) -> float | None:
    seconds = seconds_in_hand(read_receipts(store))
    return None if seconds is None else round(seconds / 3600, 4)


def command(
    prefix: Annotated[str, typer.Argument(metavar="PREFIX", help="Folder or URL above datasets.")],
    price_per_hour: PricePerHour = None,
    as_json: AsJson = False,
) -> None:
    """List the datasets below a folder or URL: state, samples, size, device hours, cost."""
    found = runs(prefix, price_per_hour)
    if as_json:
        say_json(found.as_json())
        return
    for place in found.unread:
        say_on_stderr(f"not looked into: {place}")
    if not found.datasets:
        say(f"no dataset below {prefix}")
        return
    names = ("dataset", "name", "state", "samples", "kept", "failed", "size", "device h", "cost", "changed")
    columns(names, (_cells(row, found.prefix) for row in found.datasets))
    for row in found.datasets:
        if row.problem:
            say(f"{row.url}: {row.problem}")


def _cells(row: DatasetRow, prefix: str) -> tuple[str, ...]:
    place = row.url.removeprefix(prefix.rstrip("/")).lstrip("/") or row.url
    asked = "–" if row.samples is None else f"{row.samples:,} of {row.samples_asked_for:,}"
    numbers = (*map(_count, (row.kept, row.failed)), "–" if row.bytes is None else decimal(row.bytes))
    spent = (_amount(row.device_hours), _amount(row.cost))
    return (place, row.name or "–", row.state, asked, *numbers, *spent, (row.changed_at or "–")[:16])


def _count(number: int | None) -> str:
    return "–" if number is None else f"{number:,}"


def _amount(number: float | None) -> str:
    return "–" if number is None else f"{number:,.2f}"
