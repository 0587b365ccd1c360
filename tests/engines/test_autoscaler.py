"""Ray's own autoscaler: a run on a cluster without a node asks for four, gets them, and leaves none behind.

Nodes are processes of the head's machine (Ray's fake provider); head, autoscaler, demand and idleness are real.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.engines.lab import MARKS, Lab
from tests.engines.waiting import wait_for

BIN = Path(sys.executable).parent
pytestmark = [*MARKS]

PROMPTS = 32
NODES = 4
HEAD = "f" * 51 + "00000"
IDS = "import ray; ray.init('auto', log_to_driver=False); print(sum(node['Alive'] for node in ray.nodes()))"
UNUSED: dict[str, Any] = {
    **{f"{kind}_commands": [] for kind in ("initialization", "setup", "head_setup", "worker_setup")},
    **{"head_start_ray_commands": [], "worker_start_ray_commands": [], "file_mounts_sync_continuously": False},
    **{"auth": {}, "head_node": {}, "worker_nodes": {}, "file_mounts": {}, "cluster_synced_files": []},
    **{"rsync_exclude": [], "rsync_filter": []},
}
"""What Ray's configuration of a cluster must have, and what the fake provider does not look at."""


def autoscaling(folder: Path) -> Path:
    kinds = {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "spot": {
            "resources": {"CPU": 1, "object_store_memory": 80 << 20},
            "node_config": {},
            "min_workers": 0,
            "max_workers": NODES,
        },
    }
    provider = {
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "launch_multiple": True,
        "head_node_id": HEAD,
    }
    config = {
        "cluster_name": "fake",
        "max_workers": NODES,
        "idle_timeout_minutes": 0.1,
        "upscaling_speed": 1.0,
        "provider": provider,
        "available_node_types": kinds,
        "head_node_type": "ray.head.default",
    }
    path = folder / "autoscaling.json"
    path.write_text(json.dumps({**UNUSED, **config}))
    return path


def job_file(folder: Path) -> Path:
    content = {
        "name": "grows",
        "prompts": {"source": str(folder / "prompts.txt")},
        "model": {"path": str(folder / "model")},
        "generation": {"num_inference_steps": 2, "batch_size": 2},
        "score": [{"python": "pace:Pace"}],
        "output": {"url": str(folder / "out"), "images_per_shard": 2},
        "compute": {"workers": NODES, "gpus_per_worker": 0, "wait_for_workers_s": 120},
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pmgrow", dir="/tmp", ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.fixture
def head(folder: Path) -> Iterator[tuple[Lab, str]]:
    """A machine with a head that may start nodes, and has none; and the head's address."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = {
        **kept,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(folder),
        "PACE_FILE": str(folder / "pace"),
        "RAY_AUTH_MODE": "disabled",
        "RAY_worker_niceness": "0",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    }
    with Lab(folder, environment) as lab:
        address = lab.up("h", folder)
        start = ["--head", "--block", "--port=6379", "--num-cpus=0", "--object-store-memory=100000000"]
        start += [f"--node-ip-address={address}", "--disable-usage-stats"]
        log = folder / "h.log"
        lab.start("h", f"{BIN}/ray", "start", *start, f"--autoscaling-config={autoscaling(folder)}", log=log)
        wait_for(lambda: "runtime started" in log.read_text(), log.read_text)
        yield lab, f"{address}:6379"


def nodes(lab: Lab) -> int:
    ended = lab.run("h", sys.executable, "-c", IDS)
    assert ended.returncode == 0, ended.stderr
    return int(ended.stdout.split()[-1])


def test_from_no_node_to_four_and_back(folder: Path, head: tuple[Lab, str]) -> None:
    from tests.models.tiny import build_sd15

    lab, address = head
    build_sd15(folder / "model")
    shutil.copy(Path(__file__).with_name("pace.py"), folder)
    (folder / "prompts.txt").write_text("".join(f"a red circle, number {n}\n" for n in range(PROMPTS)))
    (folder / "pace").write_text("60")
    assert nodes(lab) == 1
    log = folder / "run.log"
    command = (f"{BIN}/promptmill", "run", str(job_file(folder)), "--address", address, "--json")
    run = lab.start("h", *command, log=log)
    wait_for(lambda: run.poll() is not None or workers(folder) == NODES, log.read_text, 180)
    assert run.poll() is None and nodes(lab) == 1 + NODES, log.read_text()
    (folder / "pace").write_text("0")
    assert run.wait(120) == 0, log.read_text()
    said = log.read_text()
    assert re.search(r"waiting for workers: \d of 4 are up, each of 1 CPU; the cluster has \d node", said), said
    assert "lost a worker" not in said
    verified = json.loads(lab.run("h", f"{BIN}/promptmill", "verify", str(folder / "out"), "--deep", "--json").stdout)
    assert verified["ok"] and verified["samples"] == verified["kept"] == verified["images_checked"] == PROMPTS
    wait_for(lambda: nodes(lab) == 1, lambda: f"{nodes(lab)} nodes are still up", 90)


def workers(folder: Path) -> int:
    """As the run itself says it to whoever looks from elsewhere."""
    heartbeat = folder / "out" / "heartbeat.json"
    return int(json.loads(heartbeat.read_text())["workers"]) if heartbeat.exists() else 0
