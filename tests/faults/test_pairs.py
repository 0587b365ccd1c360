"""Two commands at once, of those that remove, add and make again; `make faults` tries every pair."""

from __future__ import annotations

import random

import pytest

from tests.faults import pairs
from tests.faults.bench import Bench
from tests.faults.test_deaths import assert_good

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scene(bench: Bench) -> pairs.Scene:
    return pairs.Scene(bench)


@pytest.mark.parametrize("pair", [("run", "repair"), ("extend", "repair"), ("extend", "retry")])
def test_two_commands_at_once(scene: pairs.Scene, pair: tuple[str, str]) -> None:
    assert_good(pairs.at_once(scene, "disk", [pair], random.Random(4), kill=False))


def test_a_repair_that_is_killed_beside_a_run(scene: pairs.Scene) -> None:
    assert_good(pairs.at_once(scene, "s3", [("run", "repair")], random.Random(4), kill=True))
