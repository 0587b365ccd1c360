"""One node works and others do not, each in a way of its own: the run does without them and says so."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import Answer
from tests.engines.waiting import wait_for
from tests.pretended import pretending
from tests.servers.disk import CannotMount, where_it_is_full, where_it_is_read_only
from tests.servers.s3 import S3Server

Cli = Callable[..., Answer]
MakeJob = Callable[..., Path]
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]

BY_DEFECT = {
    "no package": ("promptmill/__init__.py", "raise ModuleNotFoundError(\"No module named 'promptmill'\")"),
}
"""A file that comes first on the path of that node."""

SMALL = {"num_cpus": 1, "object_store_memory": 80 << 20}
ENOUGH = {"guidance_scale": [float(number) for number in range(1, 13)]}
"""24 shards: with two, the node that works was through with both before the third had been tried."""
CAUSES = {"no package": "No module named 'promptmill'", "no key": "Check that"}


@dataclass
class Nodes:
    """`bad` are those with a defect of their own."""

    cluster: Any
    bad: list[Any]

    @property
    def options(self) -> list[str]:
        return ["--address", self.cluster.address]


@pytest.fixture(scope="module")
def s3(s3_server: S3Server) -> Iterator[S3Server]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.env().items():
            patch.setenv(name, value)
        yield s3_server


@pytest.fixture(scope="module")
def nodes(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """One that works and one for each defect."""
    from ray.cluster_utils import Cluster

    folder = tmp_path_factory.mktemp("defects")
    for defect, (name, content) in BY_DEFECT.items():
        (folder / defect / name).parent.mkdir(parents=True)
        (folder / defect / name).write_text(content)
    cluster = Cluster(
        initialize_head=True,
        shutdown_at_exit=False,
        head_node_args={**SMALL, "num_cpus": 0, "include_dashboard": False},
    )
    try:
        cluster.add_node(**SMALL)
        keys = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing"}
        defects = [*({"PYTHONPATH": str(folder / defect)} for defect in BY_DEFECT), keys]
        yield Nodes(cluster, [cluster.add_node(**SMALL, env_vars=each) for each in defects])
    finally:
        with contextlib.suppress(Exception):
            cluster.shutdown()


def test_nodes_that_fail_are_left_out(cli: Cli, job: MakeJob, s3: S3Server, nodes: Nodes) -> None:
    url = f"s3://{s3.make_bucket()}/out"
    made = job(output={"url": url}, compute={"workers": 3}, sweep=ENOUGH)
    answer = cli("run", made, *nodes.options, "--json")
    assert answer.code == 0, answer
    assert answer.json["kept"] == answer.json["samples"] == 96
    found = [place["cause"] for place in answer.json["left_out"]]
    for defect, cause in CAUSES.items():
        assert [text for text in found if cause in text], (defect, found)
        assert cause in answer.err
    assert all(place["name"] and place["address"] for place in answer.json["left_out"])
    assert cli("verify", url).code == 0


def test_disks_that_fail_on_one_node(cli: Cli, job: MakeJob, tmp_path: Path, nodes: Nodes) -> None:
    """The same folder on all of them: writable here, read-only there, and full on a third."""
    out = tmp_path / "out"
    out.mkdir()
    for bad in nodes.bad:
        nodes.cluster.remove_node(bad)
    nodes.bad.clear()
    try:
        for disk in (where_it_is_read_only, where_it_is_full):
            nodes.bad.append(disk(out, lambda: nodes.cluster.add_node(**SMALL)))
    except CannotMount as error:
        pytest.skip(f"cannot mount: {error}")
    answer = cli("run", job(compute={"workers": 3}, sweep=ENOUGH), *nodes.options, "--json")
    assert answer.code == 0, answer
    assert answer.json["kept"] == answer.json["samples"] == 96
    causes = sorted(place["cause"] for place in answer.json["left_out"])
    assert len(causes) == 2, answer
    assert any("Read-only" in cause for cause in causes) and any("No space left" in cause for cause in causes), causes
    assert all(place["name"] and place["address"][0].isdigit() for place in answer.json["left_out"])
    assert cli("verify", out).code == 0


GATE = """\
import os, time

END = time.monotonic() + 120

class Gate:
    scores, version = ("gate",), "1"

    def score(self, pictures):
        while not os.path.exists(os.environ["GATE"]) and time.monotonic() < END:
            time.sleep(0.1)
        return {"gate": [1.0] * len(pictures)}
"""
"""A score that keeps who works from making all shards before the others have been tried twice."""


def test_a_driver_that_is_broken(cli: Cli, job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch took the CPU there and said nothing: shards that others make in seconds took hours, in other bytes.

    One node has a GPU that works and one that does not, the other none that works; each costs only itself.
    """
    from ray.cluster_utils import Cluster

    (tmp_path / "gate.py").write_text(GATE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    environment = {**pretending(tmp_path, "98", "99"), "GATE": str(tmp_path / "open")}
    compute = {"workers": 3, "gpus_per_worker": 1}
    made = job(compute=compute, sweep=ENOUGH, score=[{"python": "gate:Gate"}])
    head = {**SMALL, "num_cpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, shutdown_at_exit=False, head_node_args=head)
    try:
        for shown in ("0,98", "99"):
            visible = {**environment, "CUDA_VISIBLE_DEVICES": shown}
            cluster.add_node(**SMALL | {"num_cpus": 2, "num_gpus": len(shown.split(","))}, env_vars=visible)
        code, answer, log = run_until_left_out(made, cluster.address, 2, tmp_path)
    finally:
        cluster.shutdown()
    assert code == 0, log
    assert answer["kept"] == answer["samples"] == 96
    assert sorted(place["name"].split(" of ")[0] for place in answer["left_out"]) == ["GPU 98", "GPU 99"]
    for place in answer["left_out"]:
        assert "torch cannot use it: " in place["cause"] and "NVIDIA" in place["cause"], place
        assert place["address"][0].isdigit() and f"left out from now on: {place['name']}" in log
    assert "Unhandled error" not in log, "Ray's own trace of the second shard in hand"
    assert cli("verify", tmp_path / "out").code == 0


def run_until_left_out(made: Path, address: str, count: int, folder: Path) -> tuple[int, dict[str, Any], str]:
    """Exit code, answer and log of a run whose gate opens once so many places are left out."""
    log = folder / "log"
    command = [str(Path(sys.executable).with_name("promptmill")), "run", str(made), "--address", address, "--json"]
    with log.open("w") as err, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err, text=True) as running:
        wait_for(
            lambda: running.poll() is not None or log.read_text().count("left out from now on") >= count, log.read_text
        )
        (folder / "open").touch()
        out, _ = running.communicate()
    return running.returncode, json.loads(out), log.read_text()
