"""One function for many things, on the workers of a cluster: for work that every process can do and that is done twice
without harm."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import ray

from promptmill.pipeline.execution.fleet.answers import answer_of

S = TypeVar("S")
T = TypeVar("T")
_RETRIES = 10
_AHEAD = 4
_PART = "a part of the work"
_THREADS = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")}


class RaySpread:
    """Of the cluster that this process has joined. `workers` limits how many things are in hand, None for what fits."""

    def __init__(self, workers: int | None = None) -> None:
        self._in_hand = workers or 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
        self._gpus = ray.cluster_resources().get("GPU", 0) >= 1

    def __call__(self, function: Callable[[S], T], things: Sequence[S], model: bool = False) -> Iterator[T]:
        """In order. A task whose process or node dies is started again; what `function` raises is raised here."""
        options: dict[str, Any] = {"num_cpus": 1, "max_retries": _RETRIES, "runtime_env": {"env_vars": _THREADS}}
        options["num_gpus"] = 1 if model and self._gpus else 0
        task: Any = ray.remote(_apply).options(**options)
        shared = ray.put(function)
        waiting: list[Any] = []
        running: list[Any] = []
        for thing in things:
            if len(running) >= self._in_hand:
                _, running = ray.wait(running)
            # One that takes long holds nobody up, unless answers of the others would pile up behind it.
            while waiting and (waiting[0] not in running or len(waiting) >= _AHEAD * self._in_hand):
                yield answer_of(waiting.pop(0), _PART)
            waiting.append(task.remote(shared, thing))
            running.append(waiting[-1])
        while waiting:
            yield answer_of(waiting.pop(0), _PART)


def _apply(function: Callable[[S], T], thing: S) -> T:
    return function(thing)
