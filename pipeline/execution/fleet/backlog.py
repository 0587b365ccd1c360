"""Shards that nobody has in hand, and what happened to them so far."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from promptmill.pipeline.execution.fleet.places import Places
from promptmill.schemas.errors import SampleError
from promptmill.schemas.plan import Shard


@dataclass
class History:
    """Losses of nodes are not counted: they are nobody's fault.

    `failed` tries ended in an error or a death; `errors` and `died_at` are by node. `searched` is whether no sample
    was found that breaks its worker by itself.
    """

    failed: int = 0
    deaths: int = 0
    hangs: int = 0
    searched: bool = False
    errors: Counter[str] = field(default_factory=Counter)
    died_at: dict[str, float] = field(default_factory=dict)
    quarantined: dict[str, SampleError] = field(default_factory=dict)

    def erred(self, node: str) -> None:
        self.failed += 1
        self.errors[node] += 1

    def died(self, node: str, hung: bool) -> None:
        self.failed += 1
        self.deaths += 1
        self.hangs += hung
        self.died_at[node] = time.monotonic()

    def give_up(self, poison_sample: str) -> str:
        """The sample ends as a failure; what is left of the shard gets a budget of its own. The kind of failure."""
        kind = "hang" if self.hangs else "crash"
        text = "no denoising step for compute.step_timeout_s" if kind == "hang" else "the worker process died"
        self.quarantined[poison_sample] = SampleError(kind, f"{text}, every time this sample was made alone")
        self.deaths, self.hangs = 1, 0
        return kind

    @property
    def suspect(self) -> bool:
        """Whether one of its samples may be what breaks workers, and not what they work on."""
        return self.deaths > 0 and not self.searched

    @property
    def failed_on(self) -> set[str]:
        return {*self.errors, *self.died_at}

    def attempts(self, places: Places) -> int:
        """What failed on a node that is left out now was that node's fault."""
        return sum(count for node, count in self.errors.items() if not places.is_left_out(node))


class Backlog:
    def __init__(self, shards: Iterable[Shard] = ()) -> None:
        self._waiting = deque(shards)
        self._history: dict[int, History] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def of(self, shard: Shard) -> History:
        return self._history.setdefault(shard.number, History())

    def first(self, shard: Shard) -> None:
        self._waiting.appendleft(shard)

    def last(self, shard: Shard) -> None:
        self._waiting.append(shard)

    def done(self, shard: Shard) -> History:
        return self._history.pop(shard.number, History())

    def take(self, node: str, nodes: Collection[str], in_hand: Collection[Shard]) -> Shard | None:
        """The next shard for a worker on `node` that has these in hand; `nodes` are all with a worker.

        One that failed goes to another node first. One that may kill its worker runs alone, so that it is known who
        did it.
        """
        for shard in self._waiting:
            history = self._history.get(shard.number, History())
            if node in history.failed_on and not history.failed_on.issuperset(nodes):
                continue
            if in_hand and (history.deaths or any(self.of(other).deaths for other in in_hand)):
                return None
            self._waiting.remove(shard)
            return shard
        return None
