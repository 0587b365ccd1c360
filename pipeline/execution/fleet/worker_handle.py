"""A worker of the fleet as its dispatcher sees it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import ray

from promptmill.pipeline.execution.fleet.actor import Vitals
from promptmill.pipeline.execution.fleet.cluster import node_of
from promptmill.pipeline.execution.fleet.lost_devices import Device
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
    def node(self) -> str:
        """Ray's id, also of a worker that did not start; empty where it was on none."""
        return self.device.node if self.device is not None else node_of(self.handle)

    @property
    def calls(self) -> list[Any]:
        return [call for call in (self.ready_call, self.vitals_call, *self.in_hand) if call is not None]

    def lost_with_its_node(self, error: Exception) -> bool:
        if self.draining or getattr(error, "preempted", False) or "node has died" in str(error):
            return True
        device = self.device
        return device is not None and not any(n["NodeID"] == device.node and n["Alive"] for n in ray.nodes())


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
