"""What goes wrong, for which requests, and how often it did."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self, TypedDict

from tests.servers.wire import Request

Kind = Literal[
    "latency",
    "bandwidth",
    "status",
    "silence",
    "reset",
    "reset_mid_upload",
    "reset_after_request",
    "truncate_reply",
    "refuse",
]
DELAYS: frozenset[Kind] = frozenset({"latency", "bandwidth"})  # these combine with one fault that ends the request


class Filter(TypedDict, total=False):
    """Which requests: see `Fault`."""

    method: str
    path: str
    probability: float


class Matching(Filter, total=False):
    """Which requests, and how many of them: see `Fault`."""

    times: int | None


WRITES: Filter = {"method": "PUT|POST"}


@dataclass(eq=False)
class Fault:
    """One thing that goes wrong, for the requests it matches; `injected` counts how often it did.

    `method` and `path` are regular expressions, the first for the whole method, the second searched in the decoded
    `/bucket/key?query`. `times` is how often at most (None: for ever), `probability` is per matching request.
    """

    kind: Kind
    method: str = ""
    path: str = ""
    times: int | None = None
    probability: float = 1.0
    amount: float = 0.0
    reply: bytes = b""
    served: bool = False
    needs_body: bool = False
    injected: int = 0
    _over: bool = field(default=False, repr=False)

    def remove(self) -> None:
        """No further request is hit; requests already held in silence stay so until `FaultProxy.clear`."""
        self._over = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def hits(self, request: Request, chance: random.Random) -> bool:
        """Whether it strikes this request; it is then counted."""
        if self._over or (self.times is not None and self.injected >= self.times):
            return False
        if self.method and not re.fullmatch(self.method, request.method):
            return False
        if self.path and not re.search(self.path, request.path):
            return False
        if self.needs_body and request.length == 0:
            return False
        if self.probability < 1.0 and chance.random() >= self.probability:
            return False
        self.injected += 1
        return True
