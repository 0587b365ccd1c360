"""Text sources and views, fetched and parsed once: what a job's checks, its plan and its copies read is one reading."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from promptmill.pipeline.prompts.bombs import whole_parquet
from promptmill.pipeline.prompts.formats import as_schema, file_suffix, read_text_format, read_unpacked
from promptmill.pipeline.prompts.image_columns import named_as_mapped
from promptmill.pipeline.prompts.kinds import carried
from promptmill.pipeline.prompts.tars import is_tar, read_tar
from promptmill.pipeline.prompts.views import open_view, selected_rows, view_key
from promptmill.pipeline.storage.digests import ChangedMeanwhileError
from promptmill.pipeline.storage.entry import Entry
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.plan import DESCRIPTION, SELECTION, SourceFile
from promptmill.schemas.prompts import Prompts
from promptmill.schemas.urls import scheme_of

_MOST_BYTES = 256 << 20
_YOUNG_S = 2.0  # two writes of one size within a tick of the disk's clock look the same, so git waits too


@dataclass(frozen=True)
class Text:
    """`etag` is a hash of the unpacked bytes, of a tar of all that its rows say, hashes of images among it."""

    etag: str
    table: pa.Table
    notices: tuple[str, ...]


class _Kept:
    """The latest readings, as many as fit."""

    def __init__(self) -> None:
        self._texts: OrderedDict[tuple[str, ...], Text] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[str, ...]) -> Text | None:
        with self._lock:
            return self._texts.get(key)

    def put(self, key: tuple[str, ...], text: Text) -> None:
        with self._lock:
            self._texts[key] = text
            while sum(each.table.nbytes for each in self._texts.values()) > _MOST_BYTES:
                self._texts.popitem(last=False)


_kept = _Kept()


def read_text(
    store: Store,
    name: str,
    prompts: Prompts,
    entry: Entry | None = None,
    planned: SourceFile | None = None,
) -> Text:
    """The object as it is now; `entry` is what a listing just said of it, where `name` is that of a `SourceFile`.

    Raises InputError where it is no such text, ChangedMeanwhileError where it is not the one that was `planned`.
    """
    shown = name if planned is None else planned.name
    name = view_key(name)
    if entry is None or not entry.version:
        entry = store.entry(name)
    key = _key(store, entry, prompts)
    text = None if key is None else _kept.get(key)
    if text is None:
        text = _read(store, name, shown, prompts, planned)
        if key is not None:
            _kept.put(key, text)
    if planned is not None and text.etag != planned.etag:
        raise ChangedMeanwhileError
    return text


def _read(store: Store, name: str, shown: str, prompts: Prompts, planned: SourceFile | None) -> Text:
    if is_tar(shown):
        table, notices, etag = read_tar(store, name, shown, prompts)
        return Text(etag, table, tuple(notices))
    data = read_unpacked(store, name)
    if planned is not None and hash_of(data) != planned.etag:
        raise ChangedMeanwhileError
    table, notices = _parsed(store, data, shown, prompts)
    return Text(hash_of(data), table, tuple(notices))


def _parsed(store: Store, data: bytes, shown: str, prompts: Prompts) -> tuple[pa.Table, list[str]]:
    if file_suffix(shown) == SELECTION:
        asked_for = [*prompts.columns.images.values(), *prompts.carry]
        return selected_rows(open_view(store, data, shown), asked_for), []
    if file_suffix(shown) == DESCRIPTION:
        with whole_parquet(shown):
            rows = pq.read_table(pa.BufferReader(data))
            rows = as_schema(rows, pa.schema([each.with_type(carried(each.type)) for each in rows.schema]))
        return named_as_mapped(rows, prompts)
    table, notices = read_text_format(data, file_suffix(shown), shown, prompts)
    table, taken = named_as_mapped(table, prompts)
    return table, [*notices, *taken]


def _key(store: Store, entry: Entry | None, prompts: Prompts) -> tuple[str, ...] | None:
    """None where the store cannot say whether the object is still the same."""
    if entry is None:
        return None
    on_disk = store.local_path() is not None and entry.modified is not None
    known = entry.version if on_disk else store.content_version(entry)
    if not known or (on_disk and time.time() - (entry.modified or 0.0) < _YOUNG_S):
        return None
    return scheme_of(store.url), store.path(entry.name), known, prompts.model_dump_json()


def hash_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]
