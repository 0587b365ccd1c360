"""A Ray cluster of several nodes on this machine, whose workers are forks of the warm process."""

# mypy: disable-error-code="import-untyped"
from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
from prometheus_client.parser import text_string_to_metric_families
from ray.cluster_utils import Cluster

from tests.faults.forks import ENVIRONMENT, Forks

# A node that dies is noticed within 3 s and not 30.
RAY_SETTINGS = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_AUTH_MODE": "disabled",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # with Ray's 15 a busy machine gives them nothing
}
STORE_BYTES = 80 << 20
WORKER = "ray::ShardActor"
LOST = "promptmill_workers_lost_total"


class Fleet:
    """A context manager. Each node has `cpus` CPUs; `gpus` are only said to be there."""

    def __init__(self, forks: Forks, nodes: int = 1, cpus: int = 2, gpus: int = 0, env: Mapping[str, str] = {}) -> None:
        self.forks = forks
        self._env = {**ENVIRONMENT, **RAY_SETTINGS, **env}
        self._per_node: dict[str, Any] = {"num_cpus": cpus, "num_gpus": gpus, "object_store_memory": STORE_BYTES}
        self._nodes = nodes
        self._before: dict[str, str | None] = {}
        self.cluster: Any = None
        self.nodes: list[Any] = []

    def __enter__(self) -> Self:
        self.folder = tempfile.mkdtemp(prefix="pm-ray-")  # short: Ray puts sockets below it
        self._env["RAY_TMPDIR"] = self.folder
        self._before = {name: os.environ.get(name) for name in self._env}
        os.environ.update(self._env)
        head = {"num_cpus": 0, "object_store_memory": STORE_BYTES, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        for _ in range(self._nodes):
            self.add_node()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cluster.shutdown()
        for name, value in self._before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        shutil.rmtree(self.folder, ignore_errors=True)

    def add_node(self) -> Any:
        node = self.cluster.add_node(**self._per_node)
        self.nodes.append(node)
        return node

    def remove_node(self, node: Any) -> None:
        """As a machine that loses its power."""
        self.nodes.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)

    def drain_node(self, node: Any, seconds: float) -> None:
        """Notice of its end, as a spot machine gets it."""
        from ray._raylet import GcsClient
        from ray.core.generated import autoscaler_pb2

        client = GcsClient(address=self.cluster.gcs_address)
        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        client.drain_node(node.node_id, reason, "the test takes it away", int((time.time() + seconds) * 1000))

    def options(self) -> tuple[str, str]:
        return ("--address", self.cluster.address)

    def env(self, **env: str) -> dict[str, str]:
        """What a driver of this fleet needs."""
        hook = {
            "RAY_RUNTIME_ENV_HOOK": "tests.faults.ray_hook.use_forks",
            "PROMPTMILL_TEST_PYTHON": self.forks.python_executable(),
        }
        metrics = {"PROMPTMILL_METRICS_FILE": str(self._metrics)}
        return {**RAY_SETTINGS, "RAY_TMPDIR": self.folder, **hook, **metrics, **env}

    @property
    def _metrics(self) -> Path:
        return Path(self.folder) / "run.prom"

    def workers_lost(self) -> int:
        """As the last driver counted them."""
        families = text_string_to_metric_families(self._metrics.read_text(encoding="utf-8"))
        (lost,) = (each for family in families for each in family.samples if each.name == LOST)
        return int(lost.value)

    def workers(self) -> list[psutil.Process]:
        """Processes that hold a ShardActor, all of them forks of ours."""
        found = []
        for process in psutil.Process(self.forks.pid).children():
            try:
                if " ".join(process.cmdline()).startswith(WORKER):
                    found.append(process)
            except psutil.Error:
                continue
        return found
