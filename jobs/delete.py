"""`promptmill delete`: a dataset that nobody wants any more."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer
from rich.filesize import decimal

from promptmill.jobs.console import say, say_json, say_on_stderr
from promptmill.jobs.options import AsJson, Url
from promptmill.pipeline.dataset.delete import Doomed, delete_marked, look_before, mark, unmark
from promptmill.pipeline.dataset.open import open_output
from promptmill.pipeline.execution.lease import running_elsewhere
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.operations import DeleteResult

_STRANGERS_SHOWN = 10
_LINE_EVERY_S = 10.0


def delete(url: str, yes: bool, as_json: bool = False) -> DeleteResult:
    """Raises JobError for what is no dataset of ours, while a run is at work on it, and without a yes."""
    store = open_output(url)
    doomed = look_before(store)
    _refuse_leased(store)
    if not yes and not _agreed(doomed, store, as_json):
        say("Nothing was deleted.")
        raise typer.Exit(1)
    before = mark(store)
    try:
        _refuse_leased(store)  # a run may have begun before it could read the mark
    except JobError:
        unmark(store, before)
        raise
    deleted = delete_marked(store, _Told())
    return DeleteResult(doomed.name, url, deleted, doomed.size_bytes, list(doomed.strangers))


def _refuse_leased(store: Store) -> None:
    if (other := running_elsewhere(store)) is not None:
        hint = "End that run first; one that died counts as at work for a minute and a half after its last word"
        raise JobError(Problem(store.url, "a dataset on which no run is at work", f"one at work {other}", hint))


def _agreed(doomed: Doomed, store: Store, as_json: bool) -> bool:
    if as_json or not sys.stdin.isatty():
        got = "--json" if as_json else "a standard input that is no terminal"
        raise JobError(Problem(f"delete {store.url}", "somebody to ask, or --yes", got, "Nothing was deleted"))
    if doomed.begun:
        say("Its deletion was begun before and interrupted.")
    for name in doomed.strangers[:_STRANGERS_SHOWN]:
        say(f"not Promptmill's, and left: {name}")
    say(f"{doomed.name} at {store.url}: {len(doomed.own):,} objects, {decimal(doomed.size_bytes)}")
    return typer.confirm("Delete it for good?")


class _Told:
    """A line every ten seconds."""

    def __init__(self) -> None:
        self._next = time.monotonic() + _LINE_EVERY_S

    def __call__(self, deleted: int) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _LINE_EVERY_S
            say_on_stderr(f"{deleted:,} objects deleted")


def command(
    url: Url,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete a dataset for good; what is not Promptmill's stays. Interrupted, the same command goes on."""
    result = delete(url, yes, as_json)
    if as_json:
        say_json(result.as_json())
        return
    left = (
        f" {len(result.left):,} that are not Promptmill's were left: {', '.join(result.left[:5])}."
        if result.left
        else ""
    )
    say(f"deleted {result.name} at {url}: {result.objects:,} objects, {decimal(result.bytes)}.{left}")
