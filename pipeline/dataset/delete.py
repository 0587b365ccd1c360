"""Taking a dataset away, so that what an interruption leaves never looks whole, and the same call goes on.

`job.json` says first that the dataset is being deleted: from then on no command reads it any more, those of earlier
versions neither. Then whatever no proof is goes, then the proofs (the data objects), and `job.json` last.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from promptmill.pipeline.crashpoints import reached
from promptmill.pipeline.dataset.keys import JOB_KEY, OWN_FOLDERS, is_own
from promptmill.pipeline.dataset.open import DELETING, require_plan
from promptmill.pipeline.dataset.targets import claims
from promptmill.pipeline.display import local_time
from promptmill.pipeline.storage.entry import Entry
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import StorageError
from promptmill.schemas.json_text import parse_object

_ROUNDS = 3
_AT_ONCE = 512


@dataclass(frozen=True)
class Doomed:
    """What would go: `own` are our objects; `strangers` lie beside them and stay. `begun` is whether an earlier
    deletion was interrupted."""

    name: str
    own: Sequence[Entry]
    strangers: Sequence[str]
    begun: bool

    @property
    def size_bytes(self) -> int:
        return sum(entry.size_bytes for entry in self.own)


def look_before(store: Store) -> Doomed:
    """Raises JobError where there is no dataset of ours, and for one that this version cannot read."""
    content = claims(store) or {}
    begun = content.get("version") == DELETING
    if not begun:
        require_plan(store)
    job = content.get("job")
    name = job.get("name") if isinstance(job, dict) else None
    return Doomed(str(name), *_listed(store), begun)


def mark(store: Store) -> bytes:
    """Say in `job.json` that the dataset is being deleted; what stood there before."""
    before = store.read(JOB_KEY)
    content = {**parse_object(before), "version": DELETING}
    content.setdefault("deleting", {"since": local_time(time.time()), "host": socket.gethostname()})
    store.put(JOB_KEY, json.dumps(content, indent=2).encode("utf-8", "backslashreplace"))
    reached("delete-marked")
    return before


def unmark(store: Store, before: bytes) -> None:
    store.put(JOB_KEY, before)


def delete_marked(store: Store, on_progress: Callable[[int], object] = lambda _: None) -> int:
    """Delete what is ours, `job.json` last; how many objects. Raises StorageError, after which the same call goes on.

    Looked for again until nothing comes any more: a shard may have been on its way.
    """
    deleted = 0
    for _ in range(_ROUNDS):
        own = [entry for entry in _listed(store)[0] if entry.name != JOB_KEY]
        if not own:
            store.delete(JOB_KEY)
            store.drop_empty_folders(OWN_FOLDERS)
            return deleted + 1
        proofs = [entry for entry in own if entry.name.startswith("data/")]
        for group in ([entry for entry in own if entry not in set(proofs)], proofs):
            for start in range(0, len(group), _AT_ONCE):
                some = group[start : start + _AT_ONCE]
                list(store.map(lambda entry: _delete(store, entry.name), some))
                deleted += len(some)
                on_progress(deleted)
    raise StorageError(f"{store.url}: something goes on writing there. When it has ended, the same command goes on")


def _delete(store: Store, key: str) -> None:
    store.delete(key)
    reached("deleted")


def _listed(store: Store) -> tuple[list[Entry], list[str]]:
    entries = store.find()
    return [entry for entry in entries if is_own(entry.name)], [e.name for e in entries if not is_own(e.name)]
