"""`selections/<name>.parquet`: a view beside the data, which says of each sample whether it counts, and why not.

No image is made or moved for it. A reader that is given its name sees the samples that it keeps as the kept ones.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import replace
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from promptmill.pipeline.dataset.keys import shard_of
from promptmill.pipeline.dataset.records import UNREADABLE, to_parquet
from promptmill.pipeline.dataset.samples import FAILED, KEPT, REJECTED, Samples, read_dataset
from promptmill.pipeline.display import first_line
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.checked import checked
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.records import VIEW
from promptmill.schemas.reports import SelectionFacts
from promptmill.schemas.scores import NOT_SELECTED

FOLDER: Final = "selections"
_MADE_BY: Final = b"promptmill-selection"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def write_selection(store: Store, name: str, rows: list[dict[str, Any]], how: Mapping[str, Any]) -> str:
    """The key of the view; one of the same name is replaced."""
    table = pa.Table.from_pylist(rows, VIEW).replace_schema_metadata({_MADE_BY: json.dumps(how, sort_keys=True)})
    store.put(_key(name), to_parquet(table))
    return _key(name)


def read_selected(plan: Plan, store: Store, name: str | None, needed: Container[str] = ()) -> tuple[Plan, Samples]:
    """As `read_dataset`; with the `name` of a view, what that keeps is kept. Raises JobError where there is none."""
    plan, samples = read_dataset(plan, store, needed)
    return plan, samples if name is None else _seen_by(samples, selection_of(store, name))


def kept_by(store: Store, name: str) -> frozenset[str]:
    return frozenset(sample for sample, reason in selection_of(store, name).items() if reason is None)


def selection_facts(store: Store, name: str) -> SelectionFacts:
    """How the view was chosen, as far as it says so."""
    kept = len(kept_by(store, name))
    with store.open(_key(name)) as file:
        said = (pq.read_schema(file).metadata or {}).get(_MADE_BY)
    try:
        how = json.loads(said or b"{}")
        return checked(SelectionFacts, {"name": name, "kept": kept, **how})
    except (ValueError, TypeError, RecursionError):
        return SelectionFacts(name, kept)


def selections(store: Store) -> list[SelectionFacts]:
    """All views beside the data; one that is damaged is passed over."""
    found = []
    for name in _names(store):
        with contextlib.suppress(JobError):
            found.append(selection_facts(store, name))
    return found


def _names(store: Store) -> list[str]:
    stems = (entry.name.rpartition("/")[2].removesuffix(".parquet") for entry in store.list(FOLDER))
    return sorted(stem for stem in stems if _NAME.fullmatch(stem))


def selection_of(store: Store, name: str) -> dict[str, str | None]:
    """Of each sample of the view why it is not kept; None for those that are."""
    data = store.read_if_exists(_key(name))
    if data is None:
        known = _names(store)
        hint = "`promptmill select` makes one"
        raise JobError(
            Problem(f"--selection: {name}", f"one of {', '.join(known) or 'no selections yet'}", "none", hint)
        )
    try:
        table = pq.read_table(pa.BufferReader(data), columns=["sample_id", "reason"])
        ids, reasons = (table.column(name).cast(pa.string()).to_pylist() for name in ("sample_id", "reason"))
    except UNREADABLE as error:
        raise JobError(Problem(f"{store.url}/{_key(name)}", "a selection", first_line(error))) from None
    return dict(zip(ids, reasons, strict=True))


def _key(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise JobError(Problem("the name of a selection", "letters, digits, `.`, `_` and `-`", repr(name)))
    return f"{FOLDER}/{name}.parquet"


def _seen_by(samples: Samples, reasons: Mapping[str, str | None]) -> Samples:
    """Samples that were made after the view was are in none of its rows, and not kept."""
    table = samples.table
    before, ids = samples.texts("status"), samples.texts("sample_id")
    why = [
        None if status == FAILED else reasons.get(each, NOT_SELECTED) for status, each in zip(before, ids, strict=True)
    ]
    status = [
        old if old == FAILED else KEPT if reason is None else REJECTED for old, reason in zip(before, why, strict=True)
    ]
    for name, column in (("status", status), ("reason", why)):
        array = pa.array(column, pa.string())
        there = name in table.column_names
        table = (
            table.set_column(table.column_names.index(name), name, array) if there else table.append_column(name, array)
        )
    counts = dict(samples.counts)
    ended = Counter((shard_of(key), each) for key, each in zip(samples.texts("object"), status, strict=True))
    for shard, old in counts.items():
        counts[shard] = replace(old, kept=ended[shard, KEPT], rejected=ended[shard, REJECTED])
    return replace(samples, table=table, counts=counts)
