"""One behaviour for every way of running: in this process, and on a real Ray cluster."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.engine.conftest import Answer, records

Cli = Callable[..., Answer]
MakeJob = Callable[..., Path]
COMMAND = Path(sys.executable).with_name("promptmill")

pytestmark = pytest.mark.xdist_group("ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Address of a Ray head of two CPUs, of this module's own."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    try:
        yield cluster.address
    finally:
        with contextlib.suppress(Exception):
            cluster.shutdown()


@pytest.fixture(params=["in-process", pytest.param("ray", marks=pytest.mark.slow)])
def how(request: pytest.FixtureRequest) -> list[str]:
    if request.param == "in-process":
        return ["--in-process"]
    return ["--address", request.getfixturevalue("cluster")]


def test_run_resume_and_count(cli: Cli, job: MakeJob, tmp_path: Path, how: list[str]) -> None:
    made = job(select={"keep": 1}, sweep={"guidance_scale": [1.0, 5.0]})
    answer = cli("run", made, *how, "--json")
    assert answer.code == 0, answer
    assert (answer.json["samples"], answer.json["kept"], answer.json["shards_done"]) == (16, 8, 4)
    first = {path.name: path.read_bytes() for path in (tmp_path / "out" / "data").iterdir()}
    (tmp_path / "out" / "data" / "part-000002.parquet").unlink()
    answer = cli("run", made, *how, "--json")
    assert (answer.code, answer.json["made"]["samples"]) == (0, 4)
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "out" / "data").iterdir()}
    assert cli("verify", tmp_path / "out", "--deep").code == 0
    again = cli("run", made, *how, "--json")
    assert (again.code, again.json["made"]["samples"]) == (0, 0)


def test_relative_paths_in_a_folder_with_names_like_ours(models: Path, tmp_path: Path, how: list[str]) -> None:
    """As a user starts it: everything relative, text that is staged below the output, a `schemas/` of their own."""
    for part in ("sd", "clip"):
        shutil.copytree(models / part, tmp_path / part)
    (tmp_path / "schemas").mkdir()
    for name in ("schemas/__init__.py", "pipeline.py"):
        (tmp_path / name).write_text("raise RuntimeError('not ours')")
    (tmp_path / "prompts.txt").write_text("a red circle\na blue ring\n")
    (tmp_path / "job.yaml").write_text(
        "name: relative\nprompts: {source: prompts.txt}\nmodel: {path: ./sd}\n"
        "generation: {num_inference_steps: 1}\nscore: [{clip: 'local-dir:clip'}]\noutput: {url: out/mine}\n"
    )
    command = [COMMAND, "run", "job.yaml", "--json", *how]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["kept"] == 2
    assert {path.name for path in (tmp_path / "out" / "mine").iterdir()} >= {"data", "job.json", "report"}


def test_model_that_does_not_load(cli: Cli, job: MakeJob, tmp_path: Path, models: Path, how: list[str]) -> None:
    """Files that look right and do not fit together: known only when they are loaded."""
    broken = shutil.copytree(models / "sd", tmp_path / "broken")
    config = broken / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "in_channels": 7}))
    answer = cli("run", job(model={"path": str(broken)}), *how)
    assert answer.code == 2, answer
    assert "unet" in answer.err or "broken" in answer.err
    assert "Traceback" not in answer.err


def test_progress_lines_and_last_words(cli: Cli, job: MakeJob, tmp_path: Path, how: list[str]) -> None:
    answer = cli("run", job(), *how)
    assert answer.code == 0
    assert "8/8 images" in answer.err
    assert "workers" in answer.err
    assert "report/index.html" in answer.out
    assert "images/s" in answer.out


def start(arguments: list[object], folder: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(COMMAND), *map(str, arguments)],
        cwd=folder,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(condition: Callable[[], bool], timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_finishes_the_shards_in_hand(
    cli: Cli, job: MakeJob, tmp_path: Path, how: list[str], number: signal.Signals
) -> None:
    made = job(  # 24 shards, of which Ray has up to four in hand
        generation={"num_inference_steps": 50, "images_per_prompt": 8},
        sweep={"guidance_scale": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]},
        output={"images_per_shard": 8},
    )
    process = start(["run", made, *how, "--json"], tmp_path)
    data = tmp_path / "out" / "data"
    wait_for(lambda: data.is_dir() and any(data.iterdir()))
    os.kill(process.pid, number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    stopped = json.loads(out)
    assert stopped["interrupted"]
    assert 0 < stopped["shards_done"] < stopped["shards"]
    assert "once more" in err
    shown = cli("status", tmp_path / "out", "--json").json
    assert shown["shards_done"] == stopped["shards_done"]
    assert not (tmp_path / "out" / ".tmp").exists() or not any((tmp_path / "out" / ".tmp").iterdir())


@pytest.mark.slow
def test_two_signals_stop_now(cli: Cli, job: MakeJob, tmp_path: Path) -> None:
    made = job(generation={"num_inference_steps": 900, "images_per_prompt": 40, "batch_size": 40})
    process = start(["run", made, "--in-process"], tmp_path)
    wait_for((tmp_path / "out" / "job.json").exists)
    time.sleep(1)
    os.kill(process.pid, signal.SIGINT)
    assert process.stderr is not None
    said = ""
    for line in process.stderr:  # two signals reach a process that is in the middle of an import as one
        said += line
        if "once more to stop now" in line:
            os.kill(process.pid, signal.SIGINT)
            break
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "again to continue" in said + err


@pytest.mark.slow
def test_cluster_too_small_for_one_worker(cli: Cli, job: MakeJob) -> None:
    answer = cli("run", job(compute={"threads_per_worker": 1000}))
    assert answer.code == 5
    assert "1000 CPU" in answer.err
    assert "CPU" in answer.err.split("this machine has")[1]


def test_no_cluster_at_that_address(cli: Cli, job: MakeJob) -> None:
    answer = cli("run", job(), "--address", "127.0.0.1:1")
    assert answer.code == 5
    assert "127.0.0.1:1" in answer.err


def test_worker_rows_do_not_depend_on_the_number_of_workers(
    cli: Cli, job: MakeJob, tmp_path: Path, how: list[str]
) -> None:
    for workers in (1, 2):
        out = str(tmp_path / f"out-{workers}")
        made = job(compute={"workers": workers}, output={"url": out})
        assert cli("run", made, *how).code == 0
    one, two = (records(tmp_path / f"out-{workers}") for workers in (1, 2))
    assert one == two
