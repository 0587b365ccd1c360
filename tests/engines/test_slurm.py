"""`infra/slurm` on Slurm's own daemons, two nodes made of namespaces: a time limit that sends the job back, and the
death of the node that drives it."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.engines.lab import MARKS, Lab
from tests.engines.waiting import wait_for
from tests.infra.places import INFRA

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch")
MISSING = [name for name in DAEMONS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]

pytestmark = [
    *MARKS,
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)} (Debian: slurm-wlm, munge)"),
]

PROMPTS = 60
CONF = """\
ClusterName=lab
SlurmctldHost=ctl
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmdPidFile={folder}/spool/%n.pid
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdLogFile={folder}/%n.log
SlurmctldLogFile={folder}/ctl.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SlurmdTimeout=10
KillWait=5
UnkillableStepTimeout=60
JobRequeue=1
GresTypes=gpu
NodeName=n[1-2] CPUs=1 RealMemory=4000 Gres=gpu:1 State=UNKNOWN
PartitionName=batch Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP
"""
GRES = "NodeName=n1 Name=gpu File=/dev/null\nNodeName=n2 Name=gpu File=/dev/null\n"


class Slurm:
    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab, self.folder = lab, folder
        self.shared = folder / "shared"
        for name in ("state", "spool/n1", "spool/n2"):
            (self.shared / name).mkdir(parents=True)
        (self.shared / "slurm.conf").write_text(CONF.format(folder=self.shared))
        (self.shared / "gres.conf").write_text(GRES)
        (key := self.shared / "munge.key").write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        for name in ("ctl", "n1", "n2"):
            lab.up(name, self.shared)
        munge = ["munged", "--foreground", "--force", "--key-file", str(key), "--socket", f"{self.shared}/munge.socket"]
        own = [f"--{what}-file={self.shared}/munge.{what}" for what in ("pid", "log", "seed")]
        lab.start("ctl", *munge, *own, log=folder / "munge.out")
        wait_for((self.shared / "munge.socket").exists, (folder / "munge.out").read_text)
        lab.start("ctl", "slurmctld", "-D", "-c", log=folder / "ctl.out")
        for name in ("n1", "n2"):
            self.node(name)
        wait_for(lambda: self.states() == {"idle"}, self.said)

    def node(self, name: str) -> None:
        self.lab.start(name, "slurmd", "-D", log=self.folder / f"{name}.out")

    def said(self) -> str:
        logs = [*self.shared.glob("*.log"), *self.folder.glob("*.out")]
        return "\n".join(f"--- {path.name}\n{path.read_text()[-2500:]}" for path in logs)

    def call(self, *command: str) -> str:
        ended = self.lab.run("ctl", *command)
        assert ended.returncode == 0, f"{command}: {ended.stderr}"
        return ended.stdout

    def states(self) -> set[str]:
        return {
            line.strip() for line in self.lab.run("ctl", "sinfo", "--noheader", "--Node", "--format=%t").stdout.split()
        }

    def fact(self, job: str, name: str) -> str:
        found = re.search(rf"\b{name}=(\S+)", self.call("scontrol", "show", "job", job))
        return found[1] if found else ""

    def minutes(self, job: str, more_s: int) -> int:
        """A time limit, which Slurm has in whole minutes, with at least so many seconds left."""
        clock = self.call("squeue", "--noheader", "--jobs", job, "--format=%M").strip()
        ran_s = sum(int(part) * 60**place for place, part in enumerate(reversed(clock.split(":"))))
        return (ran_s + more_s) // 60 + 1

    def let_start(self, job: str, *more: str) -> None:
        """A requeued job, for which Slurm itself waits two minutes. Its node refuses ("already killed") what was
        allocated in the second of the requeue, or before, and then the job has failed."""
        time.sleep(2)
        self.call("scontrol", "update", f"JobId={job}", "StartTime=now", *more)

    @property
    def shards(self) -> int:
        return len(list((self.shared / "out" / "data").glob("*.parquet")))


@pytest.fixture
def slurm() -> Iterator[Slurm]:
    from tests.models.tiny import build_sd15

    with tempfile.TemporaryDirectory(prefix="pmslurm", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        shared = folder / "shared"
        shared.mkdir()
        build_sd15(shared / "model")
        shutil.copy(Path(__file__).with_name("pace.py"), shared)
        (shared / "prompts.txt").write_text("".join(f"a red circle, number {n}\n" for n in range(PROMPTS)))
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_", "SLURM"))}
        environment = {
            **kept,
            "PATH": f"{BIN}:{kept['PATH']}:/usr/sbin",
            "SLURM_CONF": f"{shared}/slurm.conf",
            "PROMPTMILL_HOME": str(ROOT),
            "PROMPTMILL_STATE_DIR": str(shared / "own"),
            "PROMPTMILL_STOP_S": "12",
            "PROMPTMILL_LOOK_EVERY_S": "1",
            "PYTHONPATH": str(shared),
            "PACE_FILE": str(shared / "pace"),
            "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
            "OMP_NUM_THREADS": "1",
        }
        with Lab(folder, environment) as lab:
            yield Slurm(lab, folder)


def submit(slurm: Slurm) -> str:
    job = {
        "name": "slurm",
        "prompts": {"source": f"{slurm.shared}/prompts.txt"},
        "model": {"path": f"{slurm.shared}/model"},
        "generation": {"num_inference_steps": 2, "batch_size": 1},
        "score": [{"python": "pace:Pace"}],
        "output": {"url": f"{slurm.shared}/out", "images_per_shard": 1},
        "compute": {"gpus_per_worker": 0, "workers": 2},
    }
    (slurm.shared / "job.yaml").write_text(yaml.safe_dump(job))
    (slurm.shared / "pace").write_text("15")
    own = ["--nodes=2", "--time=60", "--signal=B:TERM@20", f"--output={slurm.shared}/job-%j.log"]
    sbatch = ["sbatch", "--parsable", "--chdir", str(slurm.shared), *own, f"{INFRA}/slurm/promptmill.sbatch"]
    return slurm.call(*sbatch, f"{slurm.shared}/job.yaml").strip()


def goes_on_to_the_end(slurm: Slurm, job: str) -> None:
    (slurm.shared / "pace").write_text("0")
    slurm.let_start(job)
    wait_for(lambda: slurm.fact(job, "JobState") in ("COMPLETED", "FAILED", "TIMEOUT", "NODE_FAIL"), slurm.said)
    assert slurm.fact(job, "JobState") == "COMPLETED" and slurm.fact(job, "ExitCode") == "0:0", slurm.said()
    assert slurm.shards == PROMPTS
    wait_for(lambda: slurm.states() == {"idle"}, slurm.said, 60)


def test_a_time_limit_sends_the_job_back_and_a_dead_first_node_too(slurm: Slurm) -> None:
    for name in ("n1", "n2"):
        left = slurm.lab.run(name, "ray", "start", "--head", "--port=20001", "--disable-usage-stats")
        assert left.returncode == 0, left.stderr
    job = submit(slurm)
    wait_for(lambda: slurm.shards >= 2, slurm.said)
    slurm.call("scontrol", "update", f"JobId={job}", f"TimeLimit={slurm.minutes(job, 40)}")
    wait_for(lambda: slurm.fact(job, "Restarts") == "1", slurm.said)
    assert 2 <= slurm.shards < PROMPTS
    wait_for(lambda: slurm.states() == {"idle"}, slurm.said)

    before = slurm.shards
    slurm.let_start(job, "TimeLimit=60")
    wait_for(lambda: slurm.shards > before, slurm.said)
    slurm.lab.kill("n1")
    wait_for(lambda: slurm.fact(job, "Restarts") == "2", slurm.said)
    slurm.lab.up("n1", slurm.shared)
    slurm.node("n1")
    wait_for(lambda: slurm.states() == {"idle"}, slurm.said)
    goes_on_to_the_end(slurm, job)


def line(start: str, **words: str) -> list[str]:
    """The one line or span of the runbook that begins so, with these words in place of its own, as a shell's."""
    text = (INFRA / "RUNBOOK.md").read_text()
    lines = [row for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) for row in block.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    (found,) = {row.partition("#")[0].strip() for row in lines if row.startswith(start)}
    for word, value in words.items():
        assert word in found, found
        found = found.replace(word, value)
    return ["sh", "-c", found]


def starts_again(slurm: Slurm, job: str) -> None:
    """Though the last try's Ray may live on."""
    wait_for(lambda: slurm.states() <= {"idle", "drain"}, slurm.said)
    before = slurm.shards
    slurm.let_start(job)
    wait_for(lambda: slurm.shards > before, slurm.said)


def test_a_first_node_on_which_ray_does_not_start_and_the_runbook_s_lines(slurm: Slurm) -> None:
    """Its task ended at once, and the other node was held for a quarter of an hour."""
    taken = slurm.lab.start("n1", sys.executable, "-m", "http.server", "20001", log=slurm.folder / "taken.out")
    job = submit(slurm)
    wait_for(lambda: slurm.fact(job, "Restarts") == "1", slurm.said)
    taken.kill()
    slurm.lab.run("n1", "pkill", "-f", "http.server")
    starts_again(slurm, job)
    assert job in slurm.call(*line("squeue --name"))
    assert "Restarts=1" in slurm.call(*line("scontrol show job"))

    slurm.call(*line("scancel --batch", JOBID=job))
    wait_for(lambda: slurm.fact(job, "Restarts") == "2", slurm.said)
    starts_again(slurm, job)

    slurm.call(*line("scontrol update NodeName", NODE="n2", JOBID=job))
    wait_for(lambda: "drain" in slurm.states() <= {"idle", "drain"}, slurm.said)
    assert slurm.fact(job, "Restarts") == "3"
    for name in ("n1", "n2"):  # Slurm itself drains a node whose last processes are slow to go
        slurm.lab.run("ctl", "scontrol", "update", f"NodeName={name}", "State=RESUME")
    starts_again(slurm, job)

    slurm.call(*line("scontrol requeue JOBID", JOBID=job))
    wait_for(lambda: slurm.fact(job, "Restarts") == "4", slurm.said)
    wait_for(lambda: slurm.fact(job, "JobState") == "PENDING", slurm.said)
    slurm.call(*line("scancel JOBID", JOBID=job))
    wait_for(lambda: slurm.fact(job, "JobState") == "CANCELLED", slurm.said)
