"""One night on a cluster of machines: a timer on a machine that is no node, workers that come when the run is there, a
node without credentials, one that is drained, one that loses power and then the head itself, a second run, new prompts,
a budget, and the alarm that somebody should get. It ends with every sample once.

`make engines` runs it: it takes minutes, root, and a quiet machine.
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
from tests.infra.places import INFRA

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
WATCHING = ("prometheus", "promtool", "prometheus-node-exporter", "prometheus-alertmanager", "amtool", "cron")
MISSING = [name for name in WATCHING if shutil.which(name) is None]

pytestmark = [
    *MARKS,
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)} (Debian's packages of these names)"),
]

PROMPTS = 100
MEMORY = "--object-store-memory=100000000"
JOB: dict[str, Any] = {
    "name": "night",
    "generation": {"num_inference_steps": 2, "batch_size": 2, "images_per_prompt": 2},
    "score": [{"python": "pace:Pace"}],
    "compute": {"workers": 4, "gpus_per_worker": 0},
}
CRONTAB = """\
PATH={path}
RAY_AUTH_MODE=token
RAY_AUTH_TOKEN={token}
* * * * * {submit} >>{log} 2>&1; echo "the timer's command ended with $?" >>{log}
"""
TOKEN = "0123456789abcdef" * 4


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pmnight", dir="/tmp", ignore_cleanup_errors=True) as name:
        yield Path(name)


class Night:
    """Machines: `s` has the storage, `h` is the head, `n1`… are nodes, `l` submits and has the timer, `p` watches."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab, self.folder, self.shared = lab, folder, (folder / "in", folder / "out")
        self.log = folder / "out" / "timer.log"
        self.log.touch()
        self.machines = {name: lab.up(name, *self.shared) for name in "shlp"}
        store = folder / "out" / "store.json"
        server = ("-m", "tests.servers.s3", "--", sys.executable, "-m", "tests.engines.shared_store")
        python = ("env", f"PYTHONPATH={ROOT}", sys.executable)
        arguments = (str(store), self.machines["s"], "{bucket}")
        lab.start("s", *python, *server, *arguments, log=folder / "s.log")
        wait_for(store.exists, (folder / "s.log").read_text)
        told = json.loads(store.read_text())
        lab.environment |= told["environment"]
        self.url = f"s3://{told['bucket']}/night"

    @property
    def shards(self) -> int:
        return int(json.loads((self.folder / "out" / "store.json").read_text())["shards"])

    def counted(self, name: str) -> float:
        text = (self.folder / "out" / "night.prom").read_text()
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(f"{name}{{"))

    @property
    def said(self) -> str:
        return self.log.read_text()

    def ray(self, name: str, *options: str, without: tuple[str, ...] = ()) -> None:
        """As a unit with Restart=always does it, until the file `NAME.off` is there."""
        own = f"--block --disable-usage-stats --node-ip-address={self.machines[name]} {MEMORY} {' '.join(options)}"
        off = self.folder / "out" / f"{name}.off"
        loop = f"while [ ! -e {off} ]; do {BIN}/ray start {own}; sleep 1; done"
        unset = [part for variable in without for part in ("-u", variable)]
        self.lab.start(name, "env", *unset, "sh", "-c", loop, log=self.folder / f"{name}.log")

    def head(self) -> None:
        log = self.folder / "h.log"
        before = log.read_text().count("runtime started") if log.exists() else 0
        address = self.machines["h"]
        self.ray("h", "--head", "--port=6379", f"--dashboard-host={address}", "--num-cpus=0")
        wait_for(lambda: log.exists() and log.read_text().count("runtime started") > before, log.read_text)

    def node(self, name: str, without: tuple[str, ...] = ()) -> None:
        self.machines[name] = self.lab.up(name, *self.shared)
        self.ray(name, f"--address={self.machines['h']}:6379", "--num-cpus=1", without=without)

    def submit(self, *options: str) -> list[str]:
        job, address = self.folder / "in" / "job.yaml", f"http://{self.machines['h']}:8265"
        return [f"{BIN}/promptmill", "submit", str(job), "--address", address, "--extend", "--json", *options]

    def by_hand(self, *options: str) -> tuple[int, dict[str, Any], str]:
        ended = self.lab.run("l", *self.submit(*options))
        lines = ended.stdout.splitlines()
        return ended.returncode, json.loads(lines[-1]) if lines else {}, ended.stderr

    def start_timer(self) -> None:
        """Debian's cron, with folders of its own in place of this machine's."""
        crontabs = self.folder / "out" / "crontabs"
        crontabs.mkdir()
        submit = " ".join(self.submit("--if-running", "exit"))
        path = f"{BIN}:{os.environ['PATH']}"
        text = CRONTAB.format(path=path, token=TOKEN, submit=submit, log=self.log)
        (crontabs / "root").write_text(text)
        (crontabs / "root").chmod(0o600)
        hide = "mount -t tmpfs tmpfs /var/spool/cron && mkdir /var/spool/cron/crontabs"
        hide += f" && cp -p {crontabs}/root /var/spool/cron/crontabs/ && mount -t tmpfs tmpfs /run"
        hide += " && for d in /etc/cron.*/; do mount -t tmpfs tmpfs $d; done"
        hide += " && { [ ! -e /etc/crontab ] || mount --bind /dev/null /etc/crontab; } && exec cron -f"
        self.lab.start("l", "sh", "-c", hide, log=self.folder / "cron.log")

    def stop_timer(self) -> None:
        self.lab.run("l", "rm", "/var/spool/cron/crontabs/root")

    def watch(self) -> None:
        """Prometheus with the shipped rules and configuration, but for addresses and a shorter interval."""
        config = yaml.safe_load((INFRA / "monitoring" / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "2s", "evaluation_interval": "2s"}
        config["rule_files"] = [str(INFRA / "monitoring" / "rules.yml")]
        config["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": ["127.0.0.1:9093"]}]}]}
        (self.folder / "in" / "prometheus.yml").write_text(yaml.safe_dump(config))
        receiver: dict[str, Any] = {
            "route": {"receiver": "nobody", "group_wait": "1s"},
            "receivers": [{"name": "nobody"}],
        }
        (self.folder / "in" / "alertmanager.yml").write_text(yaml.safe_dump(receiver))
        log, inside = self.folder / "p.log", self.folder / "in"
        collect = ["--collector.disable-defaults", "--collector.textfile"]
        collect.append(f"--collector.textfile.directory={self.folder}/out")
        self.lab.start("p", "prometheus-node-exporter", *collect, log=log)
        kept = ["--storage.path=/tmp/alerts", "--cluster.listen-address="]
        self.lab.start("p", "prometheus-alertmanager", f"--config.file={inside}/alertmanager.yml", *kept, log=log)
        kept = ["--storage.tsdb.path=/tmp/tsdb", "--log.level=warn"]
        self.lab.start("p", "prometheus", f"--config.file={inside}/prometheus.yml", *kept, log=log)

    def alarms(self) -> set[str]:
        """Those that have reached the Alertmanager and have not been taken back."""
        ended = self.lab.run("p", "amtool", "alert", "query", "-o", "json", "--alertmanager.url=http://127.0.0.1:9093")
        return {alert["labels"]["alertname"] for alert in json.loads(ended.stdout or "[]")}

    def alarms_of_the_night(self) -> set[str]:
        query = 'max_over_time(ALERTS{alertstate="firing"}[1h])'
        ended = self.lab.run("p", "promtool", "query", "instant", "http://127.0.0.1:9090", query)
        return set(re.findall(r'alertname="(\w+)"', ended.stdout))


def test_one_night(folder: Path) -> None:
    from tests.models.tiny import build_sd15

    for name in ("in/prompts", "out"):
        (folder / name).mkdir(parents=True)
    build_sd15(folder / "in" / "model")
    shutil.copy(Path(__file__).with_name("pace.py"), folder / "in")
    (folder / "out" / "pace").write_text("4")
    (folder / "in" / "prompts" / "a.txt").write_text("".join(f"a red circle, number {n}\n" for n in range(PROMPTS)))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_"))}
    environment = {
        **kept,
        "PATH": f"{BIN}{os.pathsep}{kept['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_health_check_period_ms": "1000",
        "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
        "PROMPTMILL_STATE_DIR": str(folder / "out" / "state"),
        "PROMPTMILL_METRICS_FILE": str(folder / "out" / "night.prom"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(folder / "in"),
        "PACE_FILE": str(folder / "out" / "pace"),
    }
    with Lab(folder, environment) as lab:
        night = Night(lab, folder)
        job_file(night)
        night.watch()
        night.head()
        the_timer_fires_and_workers_come(night)
        nodes_go(night)
        the_head_comes_back(night)
        prompts_and_budget(night)
        every_sample_once(night)


def job_file(night: Night, **compute: float) -> None:
    own: dict[str, Any] = {
        "prompts": {"source": f"{night.folder}/in/prompts"},
        "model": {"path": f"{night.folder}/in/model"},
    }
    own["output"] = {"url": night.url, "images_per_shard": 2}
    text = yaml.safe_dump({**JOB, **own, "compute": {**JOB["compute"], **compute}})
    (night.folder / "in" / "job.yaml").write_text(text)


def the_timer_fires_and_workers_come(night: Night) -> None:
    """From no node at all to four, of which one has no credentials."""
    night.start_timer()
    wait_for(lambda: "submitted night-" in night.said, lambda: night.said)
    night.stop_timer()
    for name in ("n1", "n2", "n4"):
        night.node(name)
    night.node("n3", without=("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))
    wait_for(lambda: night.shards >= 3, lambda: night.said)
    code, answer, log = night.by_hand("--if-running", "exit")
    assert code == 0 and answer["run"]["running_elsewhere"], log
    wait_for(lambda: re.search("n3.*(credentials|Credentials)", night.said), lambda: night.said)


def nodes_go(night: Night) -> None:
    """One is drained and one loses power. Both are missed by nobody."""
    (night.folder / "out" / "n2.off").touch()
    ids = "import ray; ray.init('auto', log_to_driver=False)\n"
    ids += "print(*(n['NodeID'] for n in ray.nodes() if n['NodeManagerHostname'] == 'n2'))"
    node = night.lab.run("h", sys.executable, "-c", ids).stdout.split()[-1]
    drain = [
        "--reason",
        "DRAIN_NODE_REASON_PREEMPTION",
        "--reason-message",
        "spot",
        "--deadline-remaining-seconds",
        "60",
    ]
    drained = night.lab.run(
        "h", f"{BIN}/ray", "drain-node", "--address", f"{night.machines['h']}:6379", "--node-id", node, *drain
    )
    assert drained.returncode == 0, drained.stdout + drained.stderr
    night.lab.kill("n1")
    wait_for(lambda: "lost a worker on n1 (" in night.said, lambda: night.said)
    wait_for(lambda: night.counted("promptmill_workers_lost_total") >= 1, lambda: night.said)
    before = night.shards
    wait_for(lambda: night.shards >= before + 3, lambda: night.said)


def the_head_comes_back(night: Night) -> None:
    """Its driver is gone with it; the nodes find the new one by themselves."""
    assert night.shards < PROMPTS
    night.lab.kill("h")
    night.lab.up("h", *night.shared)
    night.head()
    wait_for(lambda: "the timer's command ended with" in night.said, lambda: night.said)
    assert "the timer's command ended with 5" in night.said, night.said
    (night.folder / "out" / "pace").write_text("0")
    code, answer, log = night.by_hand("--if-running", "wait")
    assert code == 0 and answer["run"]["kept"] == 2 * PROMPTS, log


def prompts_and_budget(night: Night) -> None:
    code, answer, log = night.by_hand()
    assert code == 0 and answer["run"]["made"]["samples"] == 0, log
    assert night.alarms_of_the_night() == set()
    (night.folder / "in" / "prompts" / "b.txt").write_text("".join(f"a blue square, number {n}\n" for n in range(4)))
    job_file(night, price_per_hour=3600, max_cost=0.01)
    code, answer, log = night.by_hand()
    assert code == 2 and answer["run"]["kept"] == 2 * PROMPTS, log
    wait_for(
        lambda: night.alarms() == {"PromptmillOverBudget"},
        lambda: f"{night.alarms()} {night.alarms_of_the_night()}",
        60,
    )
    job_file(night)
    code, answer, log = night.by_hand()
    assert code == 0 and answer["run"]["kept"] == 2 * PROMPTS + 8, log
    wait_for(lambda: night.alarms() == set(), lambda: f"{night.alarms()}", 60)
    assert night.alarms_of_the_night() == {"PromptmillOverBudget"}


def every_sample_once(night: Night) -> None:
    verified = night.lab.run("h", f"{BIN}/promptmill", "verify", night.url, "--deep", "--json")
    proof = json.loads(verified.stdout)
    assert proof["ok"] and proof["samples"] == proof["kept"] == proof["images_checked"] == 2 * PROMPTS + 8
