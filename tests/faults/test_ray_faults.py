"""Workers, nodes and calls of a real Ray cluster die; prompts break their worker."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.faults import fleet as scenarios
from tests.faults.bench import Bench
from tests.faults.cluster import Fleet
from tests.faults.test_deaths import assert_good

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def fleet(bench: Bench) -> Iterator[Fleet]:
    assert bench.server is not None
    with Fleet(bench.forks, nodes=2, cpus=1, env=bench.server.env()) as fleet:
        yield fleet


def test_workers_killed_every_second(bench: Bench, fleet: Fleet) -> None:
    assert_good(scenarios.workers_killed(bench, fleet, "s3", 8, random.Random(4)))


def test_driver_killed(bench: Bench, fleet: Fleet) -> None:
    assert_good(scenarios.driver_killed(bench, fleet, "disk", 1, random.Random(4)))


@pytest.mark.parametrize("drain", [False, True], ids=["lost", "drained"])
def test_a_node_goes_and_another_comes(bench: Bench, fleet: Fleet, drain: bool) -> None:
    assert_good(scenarios.node_lost(bench, fleet, "disk", drain))


@pytest.mark.parametrize("name", scenarios.BAD_PROMPTS)
def test_one_bad_prompt_costs_only_itself(bench: Bench, fleet: Fleet, name: str) -> None:
    assert_good(scenarios.bad_prompt(bench, fleet, *scenarios.BAD_PROMPTS[name]))
