"""The same question to every node of a cluster, each answered there."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from promptmill.pipeline.execution.fleet.cluster import connect, disconnect
from promptmill.schemas.errors import PromptmillError

TIMEOUT_S = 120.0
"""A cold Python environment on a network disk takes a minute to import torch."""
_CLOCK_S = 30.0


@dataclass(frozen=True)
class NodeAnswer:
    """`answer` is None where it has none, and `error` says why. `clock_s` is how far its clock is ahead of ours."""

    name: str
    address: str
    answer: Any = None
    error: str = ""
    clock_s: float = 0.0
    gpus: float = 0.0


def ask_nodes(address: str | None, question: Callable[[], Any], timeout_s: float = TIMEOUT_S) -> list[NodeAnswer]:
    """Beside whatever runs there: no CPU and no GPU is asked for. Raises JobError and ClusterError as `connect`."""
    joined = ray.is_initialized()
    connect(address)
    try:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        asked = [(node, _ask(node["NodeID"], question)) for node in nodes]
        until = time.monotonic() + timeout_s
        answers = [_answer(node, call, until) for node, call in asked]
        return [
            answer if answer.error else replace(answer, clock_s=_clock_of(node))
            for node, answer in zip(nodes, answers, strict=True)
        ]
    finally:
        if not joined:
            disconnect()


def _ask(node: str, question: Callable[[], Any]) -> Any:
    # GPUs are hidden from a task that asks for none, unless told otherwise.
    environment = {"env_vars": {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "OMP_NUM_THREADS": "1"}}
    strategy = NodeAffinitySchedulingStrategy(node, soft=False)
    options = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": strategy, "runtime_env": environment}
    return ray.remote(_called).options(**options).remote(question)


def _called(question: Callable[[], Any]) -> Any:
    return question()


def _clock_of(node: dict[str, Any]) -> float:
    """Seconds that it is ahead, as exactly as a call is fast: by then its process is warm."""
    began = time.time()
    try:
        theirs = float(ray.get(_ask(node["NodeID"], time.time), timeout=_CLOCK_S))
    except RayError:
        return 0.0
    ended = time.time()
    return theirs - min(max(theirs, began), ended)


def _answer(node: dict[str, Any], call: Any, until: float) -> NodeAnswer:
    name, address = str(node.get("NodeManagerHostname") or ""), str(node["NodeManagerAddress"])
    gpus = float(node["Resources"].get("GPU", 0))
    try:
        answer = ray.get(call, timeout=max(0.1, until - time.monotonic()))
    except GetTimeoutError:
        return NodeAnswer(name, address, error="no answer in time: it hangs, or is cut off", gpus=gpus)
    except RayTaskError as error:
        cause = error.cause
        kind = "" if isinstance(cause, PromptmillError) else f"{type(cause).__name__}: "
        return NodeAnswer(name, address, error=f"{kind}{cause}".splitlines()[0], gpus=gpus)
    except RayError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return NodeAnswer(name, address, error=lines[-1] if lines else type(error).__name__, gpus=gpus)
    return NodeAnswer(name, address, answer, gpus=gpus)
