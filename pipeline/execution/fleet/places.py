"""Which nodes of the cluster work. One that fails costs only itself; what fails on all of them is the job's."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass

from promptmill.pipeline.execution.events import LeftOut
from promptmill.schemas.errors import ClusterError

IN_A_ROW = 3
"""Failures at a place without a success between them: once may be the shard, or chance."""

UNKNOWN = ""
"""The node of a worker that Ray had not placed yet."""


@dataclass
class Place:
    name: str
    address: str
    failures: int = 0
    worked_at: float | None = None
    error: Exception | None = None
    left_out: LeftOut | None = None


class NoPlaceLeftError(ClusterError):
    """Ends the command as the failures of the places would, where they all are of one kind."""

    def __init__(self, places: Collection[Place]) -> None:
        codes = {getattr(place.error, "exit_code", 1) for place in places}
        self.exit_code = codes.pop() if len(codes) == 1 else ClusterError.exit_code
        causes = "\n".join(f"  {place.left_out}" for place in places)
        super().__init__(
            f"no node is left to work on; what is done stays. Of each the cause:\n{causes}\n"
            "Mend one of them, or add a node, and run the same command again"
        )


class Places:
    """Every node that a worker was on, by Ray's id."""

    def __init__(self) -> None:
        self._places: dict[str, Place] = {}

    def meet(self, node: str, name: str, address: str) -> Place:
        """The place, named from now on; an empty `address` where Ray no longer knows the node."""
        place = self[node]
        if address:
            place.name, place.address = name or place.name, address
        return place

    def __getitem__(self, node: str) -> Place:
        return self._places.setdefault(node, Place(node[:8], "unknown address"))

    def works(self, node: str) -> None:
        self[node].failures, self[node].worked_at = 0, time.monotonic()

    def fails(self, node: str, error: Exception, cause: str, limit: int = IN_A_ROW) -> LeftOut | None:
        """Count it; what is left out from now on, once: the place that failed `limit` times in a row."""
        place = self[node]
        place.failures += 1
        if place.failures < limit or place.left_out is not None or node == UNKNOWN:
            return None
        place.error, place.left_out = error, LeftOut(place.name, place.address, cause)
        return place.left_out

    def has_worked(self, node: str, since: float = 0.0) -> bool:
        worked_at = self[node].worked_at
        return worked_at is not None and worked_at > since

    def is_left_out(self, node: str) -> bool:
        return node in self._places and self._places[node].left_out is not None

    @property
    def left_out_places(self) -> list[Place]:
        return [place for place in self._places.values() if place.left_out is not None]

    def selector(self) -> dict[str, str]:
        """Ray's label selector for a new worker."""
        nodes = ",".join(node for node, place in self._places.items() if place.left_out is not None)
        return {"ray.io/node-id": f"!in({nodes})"} if nodes else {}

    def exhausted(self, nodes: Collection[str]) -> bool:
        """Whether no place is left, `nodes` being those that are there and large enough for a worker.

        A node that worked and is gone may be replaced: it is waited for.
        """
        if not self.left_out_places or any(not self.is_left_out(node) for node in nodes):
            return False
        return not any(place.worked_at and place.left_out is None for place in self._places.values())
