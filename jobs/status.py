"""`promptmill status` and `promptmill verify`: how far a dataset is, and whether it is right."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated

import typer

from promptmill.jobs.console import say_json, say_on_stderr, table
from promptmill.jobs.options import AsJson, Url
from promptmill.pipeline.dataset.open import newest_plan, open_dataset
from promptmill.pipeline.dataset.state import dataset_counts, failure_kinds, newest_object, read_footers
from promptmill.pipeline.display import format_duration, local_time
from promptmill.pipeline.execution.heartbeat import read_heartbeat
from promptmill.pipeline.storage.patience import default_patience_s
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import StorageError
from promptmill.schemas.results import RunState, StatusResult

PATIENCE_S = 10.0
"""A look is not worth minutes: whoever wants to know asks again."""


WATCH_EVERY_S = 5.0


def status(url: str) -> StatusResult:
    """From anywhere, while it runs or not. Raises JobError where there is no dataset."""
    plan, store = open_dataset(url, patience_s=min(PATIENCE_S, default_patience_s()))
    footers = read_footers(plan, store)
    while (newer := newest_plan(plan, store)) is not plan:  # extended while it was counted
        plan, footers = newer, read_footers(newer, store)
    counts = dataset_counts(plan, {number: footer.counts for number, footer in footers.items()})
    last = newest_object(store)
    return StatusResult(
        name=plan.job.name,
        output=url,
        fingerprint=plan.fingerprint,
        samples_asked_for=plan.samples,
        **asdict(counts),
        shards=plan.shards,
        shards_done=len(footers),
        complete=len(footers) == plan.shards,
        run=_run(store),
        last_shard=None if last is None else last.name,
        last_shard_at=None if last is None or last.modified is None else local_time(last.modified),
        failures=failure_kinds(plan, store, footers) if counts.failed else {},
    )


def looks(url: str, watch: bool) -> Iterator[StatusResult]:
    """One, or with `watch` one every few seconds until all is there; a look that fails is told and tried again."""
    shown = status(url)
    yield shown
    while watch and not shown.complete:
        time.sleep(WATCH_EVERY_S)
        try:
            shown = status(url)
        except StorageError as error:
            say_on_stderr(f"{error}")
        else:
            yield shown


def in_words(result: StatusResult) -> dict[str, object]:
    """For people: the run in a line, times with their age."""
    shown: dict[str, object] = result.as_json()
    shown["run"] = "none has said anything" if result.run is None else _sentence(result.run)
    shown["last_shard"] = f"{result.last_shard} at {result.last_shard_at}" if result.last_shard else "none"
    shown["failures"] = ", ".join(f"{kind} {count:,}" for kind, count in result.failures.items()) or "none"
    del shown["last_shard_at"]
    return shown


def _run(store: Store) -> RunState | None:
    sign = read_heartbeat(store)
    if sign is None:
        return None
    said = sign.said
    since = said.began if sign.state == "running" else said.beat
    return RunState(
        since=None if since is None else local_time(since),
        state=sign.state,
        error=said.error,
        host=said.host,
        process=said.process,
        images_per_second=said.images_per_second,
        eta_s=said.eta_s,
        workers=said.workers,
        silent_s=sign.silent_s,
    )


def _sentence(run: RunState) -> str:
    text = f"{run.state} since {run.since} on {run.host}"
    if run.state == "dead":
        return f"{text}: no sign of life for {format_duration(run.silent_s)}. The same `promptmill run` goes on"
    if run.state == "failed":
        return f"{text} ({run.error})"
    if run.state == "running":
        eta = "–" if run.eta_s is None else format_duration(run.eta_s)
        return f"{text}, {run.images_per_second} images/s, ETA {eta}, workers {run.workers}"
    return text


def command(
    url: Url,
    watch: Annotated[bool, typer.Option("--watch", help="Look again every few seconds until it is complete.")] = False,
    as_json: AsJson = False,
) -> None:
    """How far a dataset is, and whether a run is at work; from anywhere."""
    for shown in looks(url, watch):
        say_json(shown.as_json()) if as_json else table(in_words(shown))
