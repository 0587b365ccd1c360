"""What a run tells while it goes on: to whoever listens, and in the output to whoever looks from elsewhere.

Their JSON Schemas are published in `events.schema.json`. Fields are added, never changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from promptmill.schemas.live import LivePictures, LiveView
from promptmill.schemas.plan import ShardStats


@dataclass(frozen=True)
class Pulse:
    """Totals since the run began, samples of unfinished shards included. `workers` are those that are ready.

    `wanted` are workers that the run could use now, `queued` shards that nobody has in hand, `lost` workers that died.
    """

    samples_made: int
    workers: int
    model_loads: int
    wanted: int = 0
    queued: int = 0
    in_hand: int = 0
    lost: int = 0
    storage_waits: int = 0
    storage_wait_s: float = 0.0


@dataclass(frozen=True)
class Heartbeat:
    """`heartbeat.json`: how far the run is. Times are seconds since 1970 by the clock of the run's machine.

    `error` is the name of what ended it, empty where nothing did. None is what an object does not say as it should.
    """

    state: Literal["running", "stopped", "failed"]
    beat: float
    error: str | None = None
    host: str | None = None
    process: int | None = None
    began: float | None = None
    samples: int | None = None
    samples_done: int | None = None
    images_per_second: float | None = None
    eta_s: float | None = None
    workers: int | None = None
    last_shard: int | None = None


EVENTS = {
    "shard_done": ShardStats,
    "pulse": Pulse,
    "heartbeat": Heartbeat,
    "view": LiveView,
    "pictures": LivePictures,
}
"""By name; a `ShardStats` is also what lies below `receipts/`, and the last two are server-sent events of `watch`."""
