"""Workers, nodes and calls of a real Ray cluster die; prompts break their worker."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from promptmill.pipeline.execution.fleet.lost_devices import WINDOW_S, Device, LostDevices
from tests.faults import fleet as scenarios
from tests.faults.bench import Bench
from tests.faults.cluster import Fleet
from tests.faults.test_deaths import assert_good

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]


@pytest.fixture(scope="module")
def fleet(bench: Bench) -> Iterator[Fleet]:
    assert bench.server is not None
    with Fleet(bench.forks, nodes=2, cpus=1, env=bench.server.env()) as fleet:
        yield fleet


def test_workers_killed_every_second(bench: Bench, fleet: Fleet) -> None:
    assert_good(scenarios.workers_killed(bench, fleet, "s3", 6, random.Random(4)))


def test_driver_killed(bench: Bench, fleet: Fleet) -> None:
    assert_good(scenarios.driver_killed(bench, fleet, "disk", 1, random.Random(4)))


@pytest.mark.parametrize("drain", [False, True], ids=["lost", "drained"])
def test_a_node_goes_and_another_comes(bench: Bench, fleet: Fleet, drain: bool) -> None:
    assert_good(scenarios.node_lost(bench, fleet, "disk", drain))


def test_a_prompt_that_hangs_costs_only_itself(bench: Bench, fleet: Fleet) -> None:
    assert_good(scenarios.bad_prompt(bench, fleet, *scenarios.BAD_PROMPTS["hang"]))  # the others are in `make faults`


def test_calls_that_ray_loses(bench: Bench, fleet: Fleet) -> None:
    assert_good(scenarios.calls_lost(bench, fleet))


def test_a_gpu_that_is_lost_twice_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The count alone; `make faults` has real workers that lose a GPU, whose order depends on the machine's speed."""
    now = 0.0
    monkeypatch.setattr("promptmill.pipeline.execution.fleet.lost_devices.time.monotonic", lambda: now)
    lost, gpu, other = LostDevices(), Device("node", ("0",)), Device("node", ("1",))
    assert not lost.lose(gpu)
    assert not lost.lose(other)
    now = WINDOW_S + 1
    assert not lost.lose(gpu)  # the first loss is forgotten
    now += 1
    assert lost.lose(gpu)
    assert not lost.lose(other)


def test_a_prompt_that_breaks_the_only_device_costs_only_itself(bench: Bench) -> None:
    """Its two samples were taken for two losses of the device, and the run ended."""
    assert bench.server is not None
    with Fleet(bench.forks, nodes=1, cpus=1, env=bench.server.env()) as one:
        assert_good(scenarios.bad_prompt(bench, one, *scenarios.BAD_PROMPTS["device"]))


def test_a_model_that_loads_nowhere(bench: Bench, fleet: Fleet) -> None:
    job, output = bench.job(model={"path": str(bench.models / "sd-broken")}), bench.output()
    ended = bench.run(job, output, *fleet.options(), **fleet.env())
    assert ended.code == 2, ended.printed
    assert "sd-broken" in ended.printed


def test_no_secret_in_the_logs_of_ray(bench: Bench, fleet: Fleet) -> None:
    """The workers of this cluster have the store's key in their environment, as on a real one."""
    assert bench.server is not None
    output = bench.output("s3")
    ended = bench.run(bench.job(), output, *fleet.options(), **fleet.env(MY_PASSWORD="canary-of-a-password-0006"))
    assert ended.code == 3, ended.printed
    logs = [path for path in Path(fleet.folder).rglob("*") if path.is_file() and not path.is_symlink()]
    assert any("gcs_server" in path.name for path in logs)
    texts = {str(path): path.read_bytes() for path in logs} | output.files() | {"printed": ended.printed.encode()}
    secrets = (bench.server.secret_key.encode(), b"canary-of-a-password-0006")
    assert [name for name, content in texts.items() if any(secret in content for secret in secrets)] == []
