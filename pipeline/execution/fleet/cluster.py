"""The Ray cluster: joining it, and how many workers of what size it can hold."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import psutil
import ray

from promptmill.pipeline.execution.fleet.address import check_address, chosen_address, no_cluster
from promptmill.pipeline.execution.surroundings import socket_folder
from promptmill.pipeline.models.catalog.resolve import memory_needed_bytes
from promptmill.pipeline.planning.plan import Plan
from promptmill.schemas.errors import ClusterError

_OBJECT_STORE_BYTES = 128 << 20  # counts and plans travel through it, never pixels
_TYPE = "accelerator_type:"
_TOKENS = "ray._private.authentication"
"""Warns in each local run that it is closed to strangers, as it is meant to be, and how to open it."""
_MEMORY_SHARE = 0.8  # of what is free; the rest is for Ray's object store, encoded images and the driver


@dataclass(frozen=True)
class Demand:
    """What one worker asks of the cluster."""

    cpus: float
    gpus: float
    gpu_type: str | None = None
    memory_bytes: int = 0

    def __str__(self) -> str:
        kind = f" of type {self.gpu_type}" if self.gpu_type else ""
        memory = f" and {_gib(self.memory_bytes)} of memory" if self.memory_bytes else ""
        return f"{self.cpus:g} CPU" + (f" and {self.gpus:g} GPU{kind}" if self.gpus else "") + memory

    @property
    def options(self) -> dict[str, Any]:
        """As Ray has them for an actor."""
        found: dict[str, Any] = {"num_cpus": self.cpus, "num_gpus": self.gpus}
        if self.gpu_type:
            found["accelerator_type"] = self.gpu_type
        if self.memory_bytes:
            found["memory"] = self.memory_bytes
        return found


def connect(address: str | None) -> bool:
    """Join the cluster at `address` or `RAY_ADDRESS`, else start one on this machine. True where it was started here.

    Raises JobError and ClusterError as `check_address`.
    """
    check_address(address)
    address = chosen_address(address)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # of calls of workers that were let go: traces of Ray
    logging.getLogger(_TOKENS).setLevel(logging.ERROR)
    options = _options_of_own() if address == "local" else {}
    with _own_signal_handlers():
        try:
            ray.init(
                address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False, **options
            )
        except Exception as error:  # Ray raises bare Exceptions too, as for a node that does not start in time
            ray.shutdown()
            raise no_cluster(address, error) from error
    return address == "local"


def _options_of_own() -> dict[str, Any]:
    options: dict[str, Any] = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
    if (folder := socket_folder()) is not None:
        options["_temp_dir"] = folder
    return options


@contextlib.contextmanager
def _own_signal_handlers() -> Iterator[None]:
    """Ray answers SIGTERM by leaving at once; ours finishes the shards in hand first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, utils = signal.getsignal(signal.SIGTERM), importlib.import_module("ray._private.utils")
    takes_over = getattr(utils, "set_sigterm_handler", None)
    setattr(utils, "set_sigterm_handler", lambda _: None)  # noqa: B010 - else a signal meanwhile is Ray's
    try:
        yield
    finally:
        setattr(utils, "set_sigterm_handler", takes_over)  # noqa: B010
        signal.signal(signal.SIGTERM, before)


def disconnect() -> None:
    """Leave the cluster; one that was started here ends with it."""
    ray.shutdown()


def worker_demand(plan: Plan) -> Demand:
    compute = plan.job.compute
    if compute.gpus_per_worker == "auto":
        gpus = 1.0 if compute.gpu_type or ray.cluster_resources().get("GPU", 0) >= 1 else 0.0
    else:
        gpus = float(compute.gpus_per_worker)
    memory = int((compute.memory_gib or 0) * 2**30)
    kind = None if compute.gpu_type is None else _as_ray_names_it(compute.gpu_type, ray.cluster_resources())
    return Demand(cpus=1 if gpus else compute.threads_per_worker, gpus=gpus, gpu_type=kind, memory_bytes=memory)


def _as_ray_names_it(gpu_type: str, resources: Mapping[str, float]) -> str:
    """Letters may be small; a kind that the cluster has not got yet is taken as it is written."""
    known = [name.removeprefix(_TYPE) for name in resources if name.startswith(_TYPE)]
    return next((name for name in known if name.lower() == gpu_type.lower()), gpu_type)


def fleet_size(plan: Plan, demand: Demand, shards: int, started_here: bool) -> int:
    """Workers to ask for: as the job says, else what the cluster holds now; never more than there are shards.

    Raises ClusterError where not even one worker fits a cluster that cannot grow.
    """
    asked = plan.job.compute.workers
    fit = sum(fitting_nodes(demand).values())
    if started_here:
        fit = min(fit, _fitting_memory(plan)) if not demand.gpus else fit
    if fit == 0 and started_here:
        raise ClusterError(
            f"one worker asks for {demand} and about {_gib(_needed(plan))} of memory; this machine has "
            f"{_amounts(ray.cluster_resources())} and "
            f"{_gib(psutil.virtual_memory().available)} of memory free. Lower compute.threads_per_worker or "
            f"compute.gpus_per_worker, choose a smaller model or batch, or give --address of a larger cluster"
        )
    return max(1, min(shards, max(1, fit) if asked == "auto" else asked))


def fitting_nodes(demand: Demand) -> dict[str, int]:
    """How many workers each node that lives could hold, were it free; those that can hold none are left out."""
    nodes = {node["NodeID"]: _fitting(node["Resources"], demand) for node in ray.nodes() if node["Alive"]}
    return {node: workers for node, workers in nodes.items() if workers}


def node_name(node: str) -> tuple[str, str]:
    """Host name and address; both empty where Ray does not know the node."""
    for known in ray.nodes():
        if known["NodeID"] == node:
            return str(known.get("NodeManagerHostname") or ""), str(known["NodeManagerAddress"])
    return "", ""


def node_of(actor: Any) -> str:
    """The node that an actor is or was on; empty where it has none yet."""
    # Private, as there is no public way that does without the dashboard.
    from ray._private.state import actors

    return str(actors(actor._actor_id.hex()).get("Address", {}).get("NodeID", ""))


def capacity() -> str:
    """What the cluster has, and what of it is free, in words."""
    nodes = sum(bool(node["Alive"]) for node in ray.nodes())
    have = _amounts(ray.cluster_resources())
    return f"the cluster has {nodes} node(s) with {have}, of which {_amounts(ray.available_resources())} free"


def no_worker_came(waited_s: float, demand: Demand) -> ClusterError:
    return ClusterError(
        f"waited {waited_s:g} s (compute.wait_for_workers_s) for a first worker of {demand}; {capacity()}. "
        f"Add such a node, or lower compute.gpus_per_worker or compute.threads_per_worker"
    )


def _amounts(resources: Mapping[str, float]) -> str:
    kinds = [name.removeprefix(_TYPE) for name in sorted(resources) if name.startswith(_TYPE)]
    named = f" ({', '.join(kinds)})" if kinds else ""
    return ", ".join(f"{name} {resources.get(name, 0):g}" for name in ("CPU", "GPU")) + named


def _fitting(resources: Mapping[str, float], demand: Demand) -> int:
    if demand.gpu_type and f"{_TYPE}{demand.gpu_type}" not in resources:
        return 0
    asked = {"CPU": demand.cpus, "GPU": demand.gpus, "memory": demand.memory_bytes}
    fits = [_times(resources.get(name, 0), each) for name, each in asked.items() if each]
    return min(fits, default=1 << 20)


def _times(there: float, each: float) -> int:
    """Several workers share a GPU and none is on two: 0.4 fits twice into each."""
    if each >= 1:
        return int(there // each)
    return int(there) * int(1 / each + 1e-9)


def _needed(plan: Plan) -> int:
    return max(memory_needed_bytes(model, plan.pixels(model)) for model in plan.models)


def _fitting_memory(plan: Plan) -> int:
    return int(psutil.virtual_memory().available * _MEMORY_SHARE / _needed(plan))


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"
