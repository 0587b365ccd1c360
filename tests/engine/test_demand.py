"""What a worker asks of a cluster: kinds of GPU, parts of one, memory, priority."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from promptmill.pipeline.execution.fleet.actor import _take_priority
from promptmill.pipeline.execution.fleet.cluster import Demand, _as_ray_names_it, _fitting
from tests.engine.conftest import Answer
from tests.pretended import pretending

Cli = Callable[..., Answer]
MakeJob = Callable[..., Path]
H100 = {"CPU": 16.0, "GPU": 8.0, "memory": 64.0 * 2**30, "accelerator_type:H100": 1.0}


@pytest.mark.parametrize(
    ("demand", "workers"),
    [
        (Demand(1, 1), 8),
        (Demand(1, 0.25), 16),
        (Demand(0.25, 0.25), 32),
        (Demand(0.1, 0.4), 16),
        (Demand(1, 0.1), 16),
        (Demand(1, 2), 4),
        (Demand(1, 1, "H100"), 8),
        (Demand(1, 1, "A100"), 0),
        (Demand(1, 1, None, 20 * 2**30), 3),
        (Demand(4, 0), 4),
    ],
)
def test_how_many_fit_a_node(demand: Demand, workers: int) -> None:
    assert _fitting(H100, demand) == workers


def test_what_ray_is_asked_for_and_what_is_said() -> None:
    whole = Demand(1, 0.5, "H100", 2**33)
    assert whole.options == {"num_cpus": 1, "num_gpus": 0.5, "accelerator_type": "H100", "memory": 2**33}
    assert f"{whole}" == "1 CPU and 0.5 GPU of type H100 and 8.0 GiB of memory"
    assert Demand(2, 0).options == {"num_cpus": 2, "num_gpus": 0}
    assert _as_ray_names_it("h100", H100) == "H100" and _as_ray_names_it("B200", H100) == "B200"


@pytest.mark.parametrize(
    ("compute", "words"),
    [
        ({"gpus_per_worker": 1.5}, "Nearest: 1 and 2."),
        ({"gpu_type": "H100", "gpus_per_worker": 0}, "workers with a GPU"),
        ({"gpu_type": "H 100"}, "compute.gpu_type"),
        ({"niceness": 20}, "compute.niceness"),
        ({"niceness": -1}, "compute.niceness"),
        ({"memory_gib": 0}, "compute.memory_gib"),
    ],
)
def test_demands_that_are_none(cli: Cli, job: MakeJob, compute: dict[str, Any], words: str) -> None:
    answer = cli("validate", job(compute=compute))
    assert answer.code == 2 and words in answer.err


def test_a_priority_is_taken_or_told(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(os, "setpriority", lambda which, who, niceness: taken.append(niceness))
    assert _take_priority(None) is None and taken == []
    assert _take_priority(7) is None and taken == [7]

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "setpriority", refuse)
    assert "RAY_worker_niceness=7" in str(_take_priority(7))


SEEN = """\
import os, time
from pathlib import Path

END = time.monotonic() + 120

class Seen:
    scores, version = ("seen",), "1"

    def score(self, pictures):
        folder = Path(os.environ["SEEN"])
        (folder / str(os.getpid())).write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "none"))
        while len(list(folder.iterdir())) < int(os.environ["SEEN_OF"]) and time.monotonic() < END:
            time.sleep(0.1)
        return {"seen": [1.0] * len(pictures)}
"""
"""A score that waits for the other workers, so that none makes all shards before they are up."""


class TestARealCluster:
    pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]  # noqa: RUF012

    @pytest.fixture
    def cluster(self, tmp_path: Path) -> Iterator[Any]:
        from ray.cluster_utils import Cluster

        small = {"num_cpus": 2, "object_store_memory": 80 << 20}
        cluster = Cluster(
            initialize_head=True, shutdown_at_exit=False, head_node_args={**small, "include_dashboard": False}
        )
        try:
            resources = {"accelerator_type:H100": 1}
            cluster.add_node(**small, num_gpus=1, resources=resources, env_vars=pretending(tmp_path))
            yield cluster
        finally:
            cluster.shutdown()

    def test_two_workers_share_the_gpu_that_was_asked_for(
        self, cli: Cli, job: MakeJob, cluster: Any, tmp_path: Path
    ) -> None:
        compute = {"workers": 2, "gpus_per_worker": 0.5, "gpu_type": "h100", "niceness": 3}
        made = job(compute=compute, output={"images_per_shard": 2})
        answer = cli("run", made, "--address", cluster.address, "--json")
        assert answer.code == 0, answer.err
        receipts = [json.loads(path.read_text()) for path in (tmp_path / "out" / "receipts").glob("*.json")]
        assert len({receipt["worker"] for receipt in receipts}) == 2
        short = {"workers": 1, "gpus_per_worker": 1, "gpu_type": "A100", "wait_for_workers_s": 1}
        refused = cli("run", job(compute=short, output={"url": str(tmp_path / "b")}), "--address", cluster.address)
        assert refused.code == 5 and "1 GPU of type A100" in refused.err and "(H100)" in refused.err

    @pytest.mark.parametrize(
        ("shown", "gpus", "part", "expected"),
        [
            (None, 1, 0.25, {"0": 4}),
            ("MIG-aaaa,MIG-bbbb", 2, 1, {"MIG-aaaa": 1, "MIG-bbbb": 1}),
        ],
        ids=["a quarter of one", "slices (MIG)"],
    )
    def test_processes_on_each_device(
        self,
        cli: Cli,
        job: MakeJob,
        cluster: Any,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        shown: str | None,
        gpus: int,
        part: float,
        expected: dict[str, int],
    ) -> None:
        """Each worker writes down its process and the devices that CUDA would show it."""
        (tmp_path / "seen.py").write_text(SEEN)
        (tmp_path / "seen").mkdir()
        monkeypatch.syspath_prepend(tmp_path)
        workers = sum(expected.values())
        environment = {**pretending(tmp_path), "SEEN": str(tmp_path / "seen"), "SEEN_OF": str(workers)}
        environment |= {} if shown is None else {"CUDA_VISIBLE_DEVICES": shown}
        small = {"num_cpus": workers, "object_store_memory": 80 << 20, "num_gpus": gpus}
        resources = {"accelerator_type:L4": 1}
        cluster.add_node(**small, resources=resources, env_vars=environment)
        compute = {"workers": workers, "gpus_per_worker": part, "gpu_type": "L4"}
        many = {"guidance_scale": [1.0, 2.0, 3.0, 4.0]}  # a worker takes two shards at a time
        made = job(compute=compute, sweep=many, output={"images_per_shard": 2}, score=[{"python": "seen:Seen"}])
        answer = cli("run", made, "--address", cluster.address, "--json")
        assert answer.code == 0, answer.err
        seen = [path.read_text() for path in (tmp_path / "seen").iterdir()]
        assert dict(Counter(seen)) == expected, answer.err
