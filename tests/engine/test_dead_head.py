"""A head that dies under its driver: our own watch ends the run, with our words, our code and the JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engines.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray"), pytest.mark.timeout(300)]
COMMAND = Path(sys.executable).with_name("promptmill")


def test_a_dead_head_ends_the_run_with_our_words(job: Callable[..., Path], tmp_path: Path) -> None:
    """Ray's core ended the process after 60 s with exit code 1, a line of its own and no JSON."""
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 80 << 20}
    cluster = Cluster(
        initialize_head=True,
        shutdown_at_exit=False,
        head_node_args={**small, "num_cpus": 0, "include_dashboard": False},
    )
    made = job(
        generation={"num_inference_steps": 200},
        sweep={"guidance_scale": [float(number) for number in range(1, 40)]},
    )
    log = tmp_path / "log"
    command = [COMMAND, "run", made, "--address", cluster.address, "--json"]
    environment = {**os.environ, "RAY_gcs_rpc_server_reconnect_timeout_s": "20"}
    try:
        cluster.add_node(**small)
        with log.open("w") as err:
            running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err, text=True, env=environment)
        data = tmp_path / "out" / "data"
        wait_for(lambda: (data.is_dir() and any(data.iterdir())) or running.poll() is not None, log.read_text, 120)
        assert running.poll() is None, log.read_text()
        cluster.head_node.kill_gcs_server()
        out, _ = running.communicate(timeout=120)
    finally:
        cluster.shutdown()
    assert running.returncode == 5, log.read_text()
    assert json.loads(out)["error"] == "HeadLostError"
    assert "the head of the Ray cluster at" in log.read_text()
