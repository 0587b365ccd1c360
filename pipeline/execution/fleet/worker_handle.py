"""A worker of the fleet as its dispatcher sees it, and what happened to a shard so far."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import ray

from promptmill.pipeline.execution.fleet.actor import Vitals
from promptmill.pipeline.execution.fleet.lost_devices import Device
from promptmill.schemas.errors import SampleError
from promptmill.schemas.plan import Shard

_POLL_S = 0.2


@dataclass(eq=False)
class WorkerHandle:
    """`handle` is its Ray actor; `device` is None while it starts, or while it cannot be reached.

    `suspects` are shards whose call was lost on the way: they are elsewhere by now, but if the worker turns out to be
    dead, it may have been them.
    """

    handle: Any
    ready_call: Any
    device: Device | None = None
    in_hand: dict[Any, Shard] = field(default_factory=dict)
    vitals_call: Any = None
    vitals: Vitals = field(default_factory=Vitals)
    draining: bool = False
    hung: bool = False
    unreachable: int = 0
    suspects: list[Shard] = field(default_factory=list)

    @property
    def calls(self) -> list[Any]:
        return [call for call in (self.ready_call, self.vitals_call, *self.in_hand) if call is not None]

    def lost_with_its_node(self, error: Exception) -> bool:
        if self.draining or getattr(error, "preempted", False) or "node has died" in str(error):
            return True
        device = self.device
        return device is not None and not any(n["NodeID"] == device.node and n["Alive"] for n in ray.nodes())


@dataclass
class History:
    """Losses of nodes are not counted: they are nobody's fault. `failed` tries ended in an error or a death."""

    failed: int = 0
    deaths: int = 0
    hangs: int = 0
    errors: int = 0
    quarantined: dict[str, SampleError] = field(default_factory=dict)

    def add_error(self) -> None:
        self.failed += 1
        self.errors += 1

    def add_death(self, hung: bool = False) -> None:
        self.failed += 1
        self.deaths += 1
        self.hangs += hung


def finished(calls: list[Any]) -> list[Any]:
    """Those of them that have an answer or an error; waits a moment where none has."""
    if not calls:
        time.sleep(_POLL_S)
        return []
    done, rest = ray.wait(calls, num_returns=1, timeout=_POLL_S)
    more: list[Any] = ray.wait(rest, num_returns=len(rest), timeout=0)[0] if rest else []
    return [*done, *more]


def draining_nodes() -> set[str]:
    # Private, and what Ray Data and Ray Train use: there is no public way to ask.
    from ray._private.state import state

    return {node if isinstance(node, str) else node.hex() for node in state.get_draining_nodes()}
