"""Metrics through Ray: a node of a real cluster exports what a driver counts, by the names of the table."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from promptmill.schemas.metrics import METRICS
from tests.infra.test_cluster import stop_with_descendants

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray"), pytest.mark.timeout(300)]

BIN = Path(sys.executable).parent
DRIVER = """
import sys, time, ray
from promptmill.pipeline.execution.fleet.meter import RayMeter
from promptmill.schemas.metrics import METRICS
meter = RayMeter("small")
def count():
    for metric in METRICS:
        if metric.kind == "counter":
            meter.add(metric.name, 2, **{label: "x" for label in metric.labels})
count()
for metric in METRICS:
    if metric.kind == "gauge":
        meter.set(metric.name, 3)  # once, before there is a cluster, as a run says that it has begun
ray.init(sys.argv[1], log_to_driver=False)
count()
print("told", flush=True)
while True:
    time.sleep(0.5)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def exported() -> Iterator[int]:
    """Where a node of a cluster serves metrics while a driver counts."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = {**kept, "RAY_AUTH_MODE": "disabled", "RAY_metrics_report_interval_ms": "1000"}
    with tempfile.TemporaryDirectory(prefix="pm", ignore_cleanup_errors=True) as folder:
        port, metrics = free_port(), free_port()
        address = f"127.0.0.1:{port}"
        options = ["--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}", f"--temp-dir={folder}/s"]
        options += ["--num-cpus=1", "--object-store-memory=100000000", "--include-dashboard=false"]
        started = [[str(BIN / "ray"), "start", *options, f"--metrics-export-port={metrics}", "--disable-usage-stats"]]
        started.append([sys.executable, "-c", DRIVER, address])
        processes = []
        try:
            for command in started:
                processes.append(
                    subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
                )
                deadline = time.monotonic() + 120
                while not answers(port):
                    assert time.monotonic() < deadline and processes[0].poll() is None
                    time.sleep(0.5)
            yield metrics
        finally:
            for process in reversed(processes):
                stop_with_descendants(process)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def scraped(port: int) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


@pytest.mark.skipif(shutil.which("ray", path=str(BIN)) is None, reason="needs Ray")
def test_a_node_exports_what_a_driver_counts(exported: int) -> None:
    wanted = {f"ray_{metric.name}{{" for metric in METRICS}
    deadline, text = time.monotonic() + 90, ""
    while not all(name in text for name in wanted):
        missing = sorted(name for name in wanted if name not in text)
        assert time.monotonic() < deadline, (
            f"{missing}: {[line for line in text.splitlines() if 'promptmill' in line][:9]}"
        )
        time.sleep(1)
        text = scraped(exported)
    lines = [line for line in text.splitlines() if line.startswith("ray_promptmill_samples_total{")]
    assert [float(line.rpartition(" ")[2]) for line in lines] == [4.0]
    assert 'dataset="small"' in lines[0] and 'state="x"' in lines[0]
    (active,) = (line for line in text.splitlines() if line.startswith("ray_promptmill_run_active{"))
    assert float(active.rpartition(" ")[2]) == 3.0
