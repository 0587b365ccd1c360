"""The entry command against real Ray: a cluster made by `ray start`, and one made by the Slurm script."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.infra.places import INFRA, ROOT, SCRIPTS

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray"), pytest.mark.timeout(600)]

BIN = Path(sys.executable).parent
RAY_ARGUMENTS = ("--num-cpus=1", "--num-gpus=0", "--object-store-memory=100000000", "--include-dashboard=false")


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """Short: Ray keeps sockets under it, whose paths may have 107 characters."""
    with tempfile.TemporaryDirectory(prefix="pm", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture
def environment(ray_folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {
        **kept,
        "PATH": f"{BIN}{os.pathsep}{kept['PATH']}",
        "RAY_TMPDIR": str(ray_folder),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PROMPTMILL_CLUSTER_WAIT_S": "240",
    }


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of two images from a model of random weights; the output lies beside the job file."""
    from tests.models.tiny import build_sd15

    folder = tmp_path_factory.mktemp("job")
    (folder / "prompts.txt").write_text("a red circle\na blue square\na green star\na yellow triangle\n")
    path = folder / "job.yaml"
    path.write_text(
        f"name: entrypoint\n"
        f"prompts: {{source: {folder}/prompts.txt}}\n"
        f"model: {{path: {build_sd15(folder / 'model')}}}\n"
        f"generation: {{num_inference_steps: 2, batch_size: 2}}\n"
        f"output: {{url: {folder}/out, images_per_shard: 2}}\n"
        f"compute: {{workers: 1}}\n"
    )
    return path


@pytest.fixture
def cluster(ray_folder: Path, environment: dict[str, str]) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    head = subprocess.Popen(
        ["ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}", *RAY_ARGUMENTS]
        + [f"--temp-dir={ray_folder}/session"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield f"127.0.0.1:{port}"
    finally:
        stop_with_descendants(head)


def stop_with_descendants(process: subprocess.Popen[bytes]) -> None:
    """Never `ray stop`: it stops every Ray on the machine."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    process.terminate()
    _, alive = psutil.wait_procs(family, timeout=10)
    for child in alive:
        child.kill()
    psutil.wait_procs(alive, timeout=5)
    process.kill()
    process.wait(timeout=10)


def counts(job: Path, output: Path, environment: dict[str, str]) -> dict[str, object]:
    verified = subprocess.run(
        ["promptmill", "verify", str(output), "--json"],
        env=environment,
        cwd=job.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    shown: dict[str, object] = json.loads(verified.stdout)
    return shown


def test_entrypoint_runs_a_job_on_a_cluster_that_asks_for_a_token(
    job: Path, cluster: str, environment: dict[str, str]
) -> None:
    """The cluster is still starting when the entry command begins, as on a scheduler."""
    output = job.parent / "on-cluster"
    command = ["bash", str(INFRA / "entrypoint.sh"), str(job), "--set", f"output.url={output}", "--json"]
    ended = subprocess.run(
        command,
        env={**environment, "RAY_ADDRESS": cluster},
        cwd=job.parent,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["kept"] == 4
    assert counts(job, output, environment)["ok"] is True

    stranger = {**environment, "RAY_ADDRESS": cluster, "RAY_AUTH_TOKEN": "wrong", "PROMPTMILL_CLUSTER_WAIT_S": "0"}
    refused = subprocess.run(command, env=stranger, capture_output=True, text=True, timeout=120, check=False)
    assert refused.returncode == 5
    assert "RAY_AUTH_TOKEN" in refused.stderr


def can_isolate() -> bool:
    unshare = shutil.which("unshare")
    if unshare is None:
        return False
    tried = subprocess.run([*isolated("true")], capture_output=True, check=False)
    return tried.returncode == 0


def isolated(*command: str) -> list[str]:
    """`ray symmetric-run` ends with `ray stop`: it may see no process but its own."""
    script = 'ip link set lo up 2>/dev/null || python -c "$LOOPBACK_UP"; exec "$@"'
    namespaces = ["unshare", "--user", "--map-root-user", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return [*namespaces, "bash", "-c", script, "bash", *command]


LOOPBACK_UP = """
import fcntl, socket, struct
with socket.socket() as s:
    fcntl.ioctl(s, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS: IFF_UP | IFF_RUNNING
"""


def test_slurm_script_runs_a_job_on_one_node(job: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    """Slurm is a stand-in; `ray symmetric-run` and everything under it are real."""
    if not can_isolate():
        pytest.skip("no namespaces here, and `ray symmetric-run` would stop other people's Ray")
    stubs = tmp_path / "home" / ".venv" / "bin"
    stubs.mkdir(parents=True)
    (tmp_path / "home" / "infra").symlink_to(INFRA)
    # What Slurm does here: run the command that follows srun's own options, on this node.
    (stubs / "srun").write_text('#!/usr/bin/env bash\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"\n')
    (stubs / "scontrol").write_text("#!/usr/bin/env bash\necho 127.0.0.1\n")
    for path in stubs.iterdir():
        path.chmod(0o755)
    output = job.parent / "on-slurm"
    slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "n", "SLURM_SUBMIT_DIR": str(ROOT)}
    del environment["RAY_AUTH_TOKEN"]
    ended = subprocess.run(
        isolated("bash", str(SCRIPTS[2]), str(job), "--set", f"output.url={output}"),
        env={**environment, **slurm, "PROMPTMILL_HOME": str(tmp_path / "home"), "LOOPBACK_UP": LOOPBACK_UP},
        cwd=job.parent,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert counts(job, output, environment)["kept"] == 4
