"""One night on a cluster of machines: a node that does not see the output, one that loses power, a second run, new
prompts, a budget. It ends with every sample once.

`make engines` runs it: it takes minutes, root, and a quiet machine.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.lab import Lab, why_not

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("ray"),
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not os.environ.get("PROMPTMILL_ENGINES"), reason="`make engines` runs it"),
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "-"),
]

BIN = Path(sys.executable).parent
PROMPTS = 200  # 400 images on one node outlast what Ray takes to call a node dead
MEMORY = "--object-store-memory=100000000"
JOB = """
name: night
prompts: {{source: {folder}/in/prompts}}
model: {{path: {folder}/in/model}}
generation: {{num_inference_steps: 24, batch_size: 2, images_per_prompt: 2}}
output: {{url: {folder}/out/night, images_per_shard: 2}}
compute: {{workers: 3, gpus_per_worker: 0}}
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pmnight", dir="/tmp", ignore_cleanup_errors=True) as name:
        yield Path(name)


class Night:
    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab, self.folder = lab, folder
        self.machines = {"h": lab.up("h", folder / "in", folder / "out")}
        self.address = f"{self.machines['h']}:6379"
        self._ray("h", "--head", "--port=6379", "--num-cpus=0", "--include-dashboard=false")

    def _ray(self, name: str, *options: str) -> None:
        """Until it is up: `ray start` gives a node 30 s, which a busy machine may need for itself."""
        own = ["--block", "--disable-usage-stats", f"--node-ip-address={self.machines[name]}", MEMORY]
        log = self.folder / f"{name}.log"
        for _ in range(5):
            started = self.lab.start(name, str(BIN / "ray"), "start", *own, *options, log=log)
            while started.poll() is None:
                if "Ray runtime started" in log.read_text():
                    return
                time.sleep(0.5)
        raise AssertionError(log.read_text()[-3000:])

    def node(self, name: str, *shared: Path) -> None:
        self.machines[name] = self.lab.up(name, *shared)
        self._ray(name, f"--address={self.address}", "--num-cpus=1")

    def command(self, *options: str) -> list[str]:
        job = str(self.folder / "in" / "job.yaml")
        return [str(BIN / "promptmill"), "run", job, "--address", self.address, "--extend", "--json", *options]

    def objects(self) -> int:
        return len(list((self.folder / "out" / "night" / "data").glob("*.parquet")))


def test_one_night(folder: Path) -> None:
    from tests.models.tiny import build_sd15

    (folder / "in" / "prompts").mkdir(parents=True)
    (folder / "out").mkdir()
    build_sd15(folder / "in" / "model")
    (folder / "in" / "job.yaml").write_text(JOB.format(folder=folder))
    (folder / "in" / "prompts" / "a.txt").write_text("".join(f"a red circle, number {n}\n" for n in range(PROMPTS)))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_"))}
    environment = {
        **kept,
        "PATH": f"{BIN}{os.pathsep}{kept['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
        "RAY_health_check_period_ms": "1000",
        "PROMPTMILL_STATE_DIR": str(folder / "out" / "state"),
        "OMP_NUM_THREADS": "1",
    }
    with Lab(folder, environment) as lab:
        play(Night(lab, folder), folder)


def play(night: Night, folder: Path) -> None:
    both = (folder / "in", folder / "out")
    for name, shared in (("n1", both), ("n2", both), ("n3", (folder / "in",))):  # n3 has an output of its own
        night.node(name, *shared)
    log, metrics = folder / "run.log", folder / "out" / "night.prom"
    run = night.lab.start("h", *night.command("--metrics-file", str(metrics)), log=log)
    end = time.monotonic() + 600
    while night.objects() < 3:
        assert run.poll() is None and time.monotonic() < end, log.read_text()[-3000:]
        time.sleep(0.2)
    night.lab.kill("n1")  # before the second command, which takes as long as a fast machine takes for 30 shards
    second = night.lab.run("h", *night.command("--if-running", "exit"))
    assert second.returncode == 0 and json.loads(second.stdout)["running_elsewhere"], second.stderr
    assert night.objects() < PROMPTS
    assert run.wait(600) == 0, log.read_text()[-3000:]
    answer = json.loads(log.read_text().splitlines()[-1])
    assert answer["kept"] == 2 * PROMPTS and [place["name"] for place in answer["left_out"]] == ["n3"]
    counted = dict(line.rsplit(" ", 1) for line in metrics.read_text().splitlines() if not line.startswith("#"))
    kept = float(counted['promptmill_samples_total{dataset="night",state="kept"}'])
    assert kept >= 2 * PROMPTS - 2  # a reply may go with its node
    assert float(counted['promptmill_workers_lost_total{dataset="night"}']) >= 1, log.read_text()[-3000:]

    nothing = night.lab.run("h", *night.command())
    assert nothing.returncode == 0 and json.loads(nothing.stdout)["made"]["samples"] == 0

    (folder / "in" / "prompts" / "b.txt").write_text("".join(f"a blue square, number {n}\n" for n in range(4)))
    budget = ("--set", "compute.price_per_hour=3600", "--set", "compute.max_cost=0.01")
    stopped = night.lab.run("h", *night.command(*budget))
    assert stopped.returncode == 2 and json.loads(stopped.stdout)["kept"] == 2 * PROMPTS, stopped.stderr
    again = night.lab.run("h", *night.command())
    assert again.returncode == 0 and json.loads(again.stdout)["kept"] == 2 * PROMPTS + 8, again.stderr

    verified = night.lab.run("h", str(BIN / "promptmill"), "verify", f"{folder}/out/night", "--deep", "--json")
    proof = json.loads(verified.stdout)
    assert proof["ok"] and proof["samples"] == proof["kept"] == proof["images_checked"] == 2 * PROMPTS + 8
