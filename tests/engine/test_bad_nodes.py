"""One node works and others do not, each in a way of its own: the run does without them and says so."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import Answer
from tests.servers.s3 import S3Server

Cli = Callable[..., Answer]
MakeJob = Callable[..., Path]
pytestmark = pytest.mark.slow

BY_DEFECT = {
    "no package": ("promptmill/__init__.py", "raise ModuleNotFoundError(\"No module named 'promptmill'\")"),
}
"""A file that comes first on the path of that node."""

CAUSES = {"no package": "No module named 'promptmill'", "no key": "Check that"}


@dataclass
class Nodes:
    cluster: Any

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
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    from ray.cluster_utils import Cluster

    folder = tmp_path_factory.mktemp("defects")
    for defect, (name, content) in BY_DEFECT.items():
        (folder / defect / name).parent.mkdir(parents=True)
        (folder / defect / name).write_text(content)
    small = {"num_cpus": 1, "object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={**small, "num_cpus": 0, "include_dashboard": False})
    try:
        cluster.add_node(**small)
        for defect in BY_DEFECT:
            cluster.add_node(**small, env_vars={"PYTHONPATH": str(folder / defect)})
        cluster.add_node(**small, env_vars={"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing"})
        yield Nodes(cluster)
    finally:
        with contextlib.suppress(Exception):
            cluster.shutdown()


def test_nodes_that_fail_are_left_out(cli: Cli, job: MakeJob, s3: S3Server, nodes: Nodes) -> None:
    url = f"s3://{s3.make_bucket()}/out"
    made = job(output={"url": url}, compute={"workers": 3}, sweep={"guidance_scale": [1.0, 2.0, 3.0, 4.0]})
    answer = cli("run", made, *nodes.options, "--json")
    assert answer.code == 0, answer
    assert answer.json["kept"] == answer.json["samples"] == 32
    found = [place["cause"] for place in answer.json["left_out"]]
    for defect, cause in CAUSES.items():
        assert [text for text in found if cause in text], (defect, found)
        assert cause in answer.err
    assert all(place["name"] and place["address"] for place in answer.json["left_out"])
    assert cli("verify", url).code == 0
