"""A process may end at any step, on disk and on S3; the same command again ends with the same bytes."""

from __future__ import annotations

import random

import pytest

from tests.faults import deaths
from tests.faults.bench import Bench
from tests.faults.rows import Row

pytestmark = pytest.mark.slow


def assert_good(row: Row) -> None:
    assert row.problems == []
    assert (row.lost, row.doubled, row.ended) == (0, 0, row.asked)
    assert row.times > 0


@pytest.mark.parametrize("point", deaths.DRIVER_POINTS)
def test_crash_of_the_driver(bench: Bench, point: str) -> None:
    assert_good(deaths.crash_at(bench, "disk", [f"{point}:1"]))


@pytest.mark.parametrize("point", deaths.WORKER_POINTS)
def test_crash_in_a_shard(bench: Bench, place: str, point: str) -> None:
    assert_good(deaths.crash_at(bench, place, [f"{point}:1"]))


@pytest.mark.parametrize("point", deaths.DISK_POINTS)
def test_crash_between_the_two_steps_of_a_write_to_disk(bench: Bench, point: str) -> None:
    assert_good(deaths.crash_at(bench, "disk", [f"{point}:{n}" for n in (1, 4)]))


def test_crash_anywhere(bench: Bench, place: str) -> None:
    assert_good(deaths.crash_at(bench, place, [f"*:{n}" for n in range(3, 100, 24)]))


def test_crash_in_a_job_from_images(bench: Bench) -> None:
    assert_good(deaths.crash_at(bench, "disk", ["before-data:2", "*:30"], kind="from images"))


def test_crash_where_the_images_that_meet_conditions_fill_classes(bench: Bench) -> None:
    """In the first round and in a later one, by the built-in model."""
    points = ["before-data:1", "driver-after-segment:1", "before-data:3"]
    assert_good(deaths.crash_at(bench, "disk", points, kind="with conditions"))


def test_killed_at_random(bench: Bench, place: str) -> None:
    assert_good(deaths.kill_at_random(bench, place, 6, random.Random(4)))


def test_two_drivers_at_once(bench: Bench, place: str) -> None:
    assert_good(deaths.two_drivers(bench, place))


def test_a_driver_that_was_thought_dead_comes_back(bench: Bench, place: str) -> None:
    assert_good(deaths.zombie(bench, place, random.Random(4)))


def test_retry_makes_failed_samples_again_exactly_once(bench: Bench, place: str) -> None:
    assert_good(deaths.crash_in_retry(bench, place, range(2, 30, 14)))


def test_curate_again_after_a_death_anywhere_makes_the_same_bytes(bench: Bench, place: str) -> None:
    assert_good(deaths.crash_in_curate(bench, place, range(1, 80, 7)))
