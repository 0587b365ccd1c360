"""What a run tells whoever watches it, and how it is asked to stop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

from promptmill.schemas.events import Pulse
from promptmill.schemas.plan import ShardStats


class Listener(Protocol):
    """Called on the dispatching thread only."""

    def shard_done(self, receipt: ShardStats) -> None: ...

    def pulse(self, pulse: Pulse) -> None: ...

    def notice(self, text: str) -> None:
        """Something a person should know: a wait, a lost worker, a shard that is tried again."""


class Notice(str):
    """A notice that knows which `shard`, `worker` or `node` it is about, for logs that machines read."""

    about: dict[str, Any]

    def __new__(cls, text: str, **about: Any) -> Self:
        notice = super().__new__(cls, text)
        notice.about = about
        return notice


@dataclass(frozen=True)
class LeftOut:
    """What a run does without, since it failed there while it worked elsewhere: a node, or a device of one."""

    name: str
    address: str
    cause: str

    def __str__(self) -> str:
        return f"{self.name} ({self.address}): {self.cause}"


StopReason = Literal["asked", "budget", "failures"]


class Stop:
    """Set from a signal handler too: shards in hand are finished, no new one is taken. `reason` is the first one."""

    def __init__(self) -> None:
        self.reason: StopReason | None = None

    def request(self, reason: StopReason = "asked") -> None:
        self.reason = self.reason or reason

    @property
    def requested(self) -> bool:
        return self.reason is not None
