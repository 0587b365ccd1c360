"""Fourth step: what the cells found, made one decision for each sample, and written as `curation/decisions.parquet`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from promptmill.pipeline.crashpoints import reached
from promptmill.pipeline.curation.bounds import NEVER, Bounds
from promptmill.pipeline.curation.embed import SAYS
from promptmill.pipeline.curation.per_class import surplus
from promptmill.pipeline.curation.settings import FOLDER, Task
from promptmill.pipeline.curation.twins import read_verdicts
from promptmill.pipeline.dataset.records import to_parquet
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.plan import Shard
from promptmill.schemas.scores import EXACT, LEAK, MEMORISED, NEAR, OVER, UNREADABLE

KEY: Final = f"{FOLDER}/decisions.parquet"
_RANK: Final = {reason: rank for rank, reason in enumerate((UNREADABLE, LEAK, MEMORISED, EXACT, NEAR))}
"""Of several reasons the first counts; a sample that is gone for one of the first three is nobody's twin."""

_DECISIONS: Final = pa.schema(
    [("shard", pa.int32()), ("row", pa.int32()), ("reason", pa.string()), ("similarity", pa.float64())]
)


@dataclass
class _Verdict:
    reason: str
    twin: str
    twin_place: int
    similarity: float

    @property
    def rank(self) -> tuple[int, float]:
        return _RANK[self.reason], -self.similarity


def decide(task: Task, cells: Sequence[str], broken: Iterable[int], bounds: Bounds, gone: Mapping[int, str]) -> None:
    """Everything is sorted, so that neither the order of cells nor who worked on them changes a byte.

    `gone` are the images that were in no cell, with the reason.
    """
    store = task.output
    found = {place: _Verdict(UNREADABLE, "", -1, 1.0) for place in broken}
    found |= {place: _Verdict(reason, "", -1, 0.0) for place, reason in gone.items()}
    across: list[tuple[int, _Verdict]] = []
    for table in store.map(lambda key: read_verdicts(store, key), cells):
        for row in table.to_pylist():
            own = _Verdict(row["reason"], row["twin"], row["twin_place"], row["similarity"])
            if row["across"]:
                across.append((row["place"], own))
            elif row["place"] not in found or own.rank < found[row["place"]].rank:
                found[row["place"]] = own
    for place, own in sorted(across, key=lambda each: (each[0], each[1].twin_place)):
        if place not in found and own.twin_place not in found:
            found[place] = own
    last = {place: _last(own, found) for place, own in found.items()}
    last |= {place: _Verdict(OVER, "", -1, 0.0) for place in surplus(task, found)}
    rows = [_row(place, last[place]) for place in sorted(last)]
    table = pa.Table.from_pylist(rows, _DECISIONS).replace_schema_metadata({SAYS: _said(bounds)})
    store.create(KEY, to_parquet(table))
    reached("curate-after-decisions")


def _last(own: _Verdict, found: Mapping[int, _Verdict]) -> _Verdict:
    """With the twin that stays, or the known image that it is like: the twin of a copy may be one itself."""
    seen: set[int] = set()
    while own.twin_place in found and own.twin_place not in seen:
        seen.add(own.twin_place)
        next_ = found[own.twin_place]
        reason = own.reason if _RANK[next_.reason] > _RANK[MEMORISED] else next_.reason
        own = _Verdict(reason, next_.twin, next_.twin_place, own.similarity)
    return own


def _row(place: int, own: _Verdict) -> dict[str, Any]:
    reason = f"{own.reason}:{own.twin}" if own.twin else own.reason
    return {"shard": place >> 32, "row": place & 0xFFFFFFFF, "reason": reason, "similarity": own.similarity}


def _said(bounds: Bounds) -> bytes:
    return json.dumps(
        {
            "cosine": None if bounds.cosine == NEVER else bounds.cosine,
            "difference": None if bounds.difference < 0 else bounds.difference,
            "calibration": None if bounds.calibration is None else asdict(bounds.calibration),
        },
        sort_keys=True,
    ).encode()


def decisions_of(store: Store, shard: Shard) -> dict[int, str]:
    """By row of the shard's data object why it goes."""
    with store.open(KEY) as file:
        table = pq.read_table(file, columns=["row", "reason"], filters=[("shard", "=", shard.number)])
    return dict(zip(table.column("row").to_pylist(), table.column("reason").to_pylist(), strict=True))


def bounds_said(store: Store) -> dict[str, Any]:
    """`cosine`, `difference` and `calibration` as they were when it was decided."""
    with store.open(KEY) as file:
        said: dict[str, Any] = json.loads((pq.read_schema(file).metadata or {})[SAYS])
    return said
