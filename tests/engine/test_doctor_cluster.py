"""`doctor --address`: every node is looked at there, and one that is unfit is named with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from promptmill.jobs import doctor as doctor_module
from promptmill.pipeline.execution.fleet import nodes as nodes_module
from promptmill.pipeline.execution.fleet.nodes import NodeAnswer
from tests.engine.conftest import Answer

Cli = Callable[..., Answer]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[NodeAnswer]:
    """What the nodes say, which a test fills with this machine's own state changed."""
    given: list[NodeAnswer] = []
    monkeypatch.setattr(nodes_module, "ask_nodes", lambda address, question: given)
    return given


def test_one_table_and_what_makes_a_node_unfit(cli: Cli, answers: list[NodeAnswer]) -> None:
    own = doctor_module.doctor(None)
    packages = {**own.packages, "promptmill": "0.0.9"}
    answers += [
        NodeAnswer("good", "10.0.0.1", (own, False)),
        NodeAnswer("old", "10.0.0.2", (replace(own, packages=packages), False)),
        NodeAnswer("late", "10.0.0.3", (own, False), clock_s=-300),
        NodeAnswer("blind", "10.0.0.4", (own, False), gpus=8),
        NodeAnswer("full", "10.0.0.5", (replace(own, disk_free_bytes=1 << 20), False)),
        NodeAnswer("gone\x1b[31m", "10.0.0.6", error="no answer in time: it hangs, or is cut off"),
        NodeAnswer("snake", "10.0.0.7", (replace(own, python="3.99.1"), False)),
    ]
    found = cli("doctor", "--address", "auto")
    assert found.code == 1 and "\x1b" not in found.out
    for words in ("promptmill 0.0.9", "-300 s off", "Ray counts 8 GPU", "1 MiB of disk", "no answer", "Python 3.99.1"):
        assert words in found.out, words
    assert "7 nodes, 6 unfit" in found.out
    told = cli("doctor", "--address", "auto", "--json").json["nodes"]
    assert [node["name"] for node in told if node["fit"]] == ["good"]


def test_storage_that_is_each_node_s_own(cli: Cli, answers: list[NodeAnswer], tmp_path: Path) -> None:
    own = doctor_module.doctor(str(tmp_path))
    answers += [NodeAnswer(name, "10.0.0.1", (own, True)) for name in ("a", "b")]
    found = cli("doctor", tmp_path, "--address", "auto")
    assert found.code == 1 and "2 nodes each were the first to write one object" in found.out
    answers[1] = replace(answers[1], answer=(own, False))
    answers[:] = [replace(each, answer=(replace(own, problems=[]), each.answer[1])) for each in answers]
    assert "each were the first" not in cli("doctor", tmp_path, "--address", "auto").out
    for relative in ("relative/place", "file://relative/place"):
        assert cli("doctor", relative, "--address", "auto").code == 2
    assert "a relative path" not in cli("doctor", f"file://{tmp_path}", "--address", "auto").err


def test_addresses_without_a_cluster(cli: Cli) -> None:
    assert cli("doctor", "--address", "http://127.0.0.1:8265").code == 2
    assert cli("doctor", "--address", "127.0.0.1:1").code == 5


class TestARealCluster:
    pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]  # noqa: RUF012

    @pytest.fixture
    def cluster(self, tmp_path: Path) -> Iterator[Any]:
        """Two nodes, of which the second lacks the package."""
        from ray.cluster_utils import Cluster

        (tmp_path / "promptmill").mkdir()
        lacking = "raise ModuleNotFoundError(\"No module named 'promptmill'\")"
        (tmp_path / "promptmill" / "__init__.py").write_text(lacking)
        small = {"num_cpus": 1, "object_store_memory": 80 << 20}
        head = {**small, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, shutdown_at_exit=False, head_node_args=head)
        try:
            cluster.add_node(**small, env_vars={"PYTHONPATH": str(tmp_path)})
            yield cluster
        finally:
            cluster.shutdown()

    def test_each_node_answers_for_itself(self, cli: Cli, cluster: Any, tmp_path: Path) -> None:
        found = cli("doctor", tmp_path / "out", "--address", cluster.address, "--json")
        good, bad = sorted(found.json["nodes"], key=lambda node: "packages" not in node)
        assert found.code == 1, found
        assert good["storage"] == "writes, reads, refuses to overwrite" and abs(good["clock_s"]) < 5
        assert not bad["fit"] and "No module named 'promptmill'" in bad["problems"][0]
        assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
