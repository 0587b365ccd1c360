"""Removing what is damaged or left over, beside whatever else works on the dataset.

What is to go is looked at again directly before, goes only as it was looked at, and is looked for directly after: a
proof that came in between gets back what it names. Left-overs stay while they are young, since a shard that is being
committed has its side objects already; a writer puts them right before its proof and looks for them right after.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from promptmill.pipeline.dataset.keys import data_key_of
from promptmill.pipeline.dataset.open import newest_plan
from promptmill.pipeline.dataset.state import gone_sidecars, read_data_object
from promptmill.pipeline.dataset.verify import Suspect, Verification, may_remove
from promptmill.pipeline.storage.entry import Entry
from promptmill.pipeline.storage.local import TAKEN
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import MissingObjectError

GRACE_S = 3600.0
"""Longer than a commit can take: three calls that wait 300 s each for the storage, and their uploads."""


@dataclass
class Repair:
    """`spared` are left-overs that are too young, or of an age that the store does not say."""

    removed: list[str] = field(default_factory=list)
    spared: list[str] = field(default_factory=list)


def repair(result: Verification, store: Store, grace_s: float = GRACE_S) -> Repair:
    """Remove damaged data objects, so that `run` makes those shards again, and orphans older than `grace_s`.

    Safe beside everything else that works on the dataset.
    """
    done = Repair()
    result.plan = newest_plan(result.plan, store)
    for suspect in result.damaged:
        if may_remove(result.plan, suspect.item) and _remove_damaged(suspect, store):
            done.removed.append(suspect.item.entry.name)
    now = store.now() if result.orphans else None
    for orphan in result.orphans:
        entry = store.entry(orphan.name)
        if entry is None:
            continue
        # What another repair has taken away it may have to put back, whatever is said of writers.
        least_s = max(grace_s, GRACE_S) if TAKEN in entry.name else grace_s
        if entry.modified is None or now is None or now - entry.modified < least_s:
            done.spared.append(entry.name)
        elif _remove_orphan(entry, store):
            done.removed.append(entry.name)
    return done


def _remove_damaged(suspect: Suspect, store: Store) -> bool:
    item = suspect.item
    if not suspect.gone or item.footer is None:
        return store.remove(item.entry)
    content = store.read_if_exists(item.entry.name)
    if content is None or not gone_sidecars(store, item.footer) or not store.remove(item.entry):
        return False
    if gone_sidecars(store, item.footer):
        return True
    store.create(item.entry.name, content)  # whoever wrote it has put its side objects back meanwhile
    return False


def _remove_orphan(entry: Entry, store: Store) -> bool:
    try:
        content = store.read(entry.name)
    except MissingObjectError:
        return False
    if _named(entry.name, store) or not store.remove(entry):
        return False
    if not _named(entry.name, store):
        return True
    store.create(entry.name, content)
    return False


def _named(side_object: str, store: Store) -> bool:
    """Whether a proof that is there now names it."""
    data_key = data_key_of(side_object)
    item = read_data_object(store, store.entry(data_key)) if data_key else None
    return item is not None and item.footer is not None and side_object in item.footer.side_objects
