"""Finding the sample that kills its worker, also where workers die for other reasons."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from promptmill.pipeline.execution.fleet.backlog import History
from promptmill.pipeline.execution.fleet.bisect import find_poison_sample

SAMPLES = [f"s{number}" for number in range(13)]


@pytest.mark.parametrize("poison_sample", SAMPLES)
def test_the_one_that_kills_is_found(poison_sample: str) -> None:
    calls = []

    def survives(samples: Sequence[str]) -> bool:
        calls.append(samples)
        return poison_sample not in samples

    assert find_poison_sample(SAMPLES, survives, lambda _: True) == poison_sample
    assert len(calls) <= 4 + 3


def test_where_blank_samples_die_too_nobody_is_blamed() -> None:
    assert find_poison_sample(SAMPLES, lambda _: False, lambda _: False) is None


def test_where_all_live_nobody_is_blamed() -> None:
    assert find_poison_sample(SAMPLES, lambda _: True, lambda _: True) is None


@pytest.mark.parametrize("deadly", [0.2, 0.5, 0.8])
def test_chance_blames_an_innocent_at_most_once_in_64(deadly: float) -> None:
    chance = random.Random(0)

    def survives(_: object) -> bool:
        return chance.random() > deadly

    blamed = sum(find_poison_sample(SAMPLES, survives, survives) is not None for _ in range(6400))
    assert blamed <= 100 + 3 * 10


def test_what_happened_to_a_shard_is_counted() -> None:
    history = History()
    history.erred("n1")
    history.died("n1", hung=False)
    history.died("n2", hung=True)
    assert (history.failed, history.errors.total(), history.deaths, history.hangs) == (3, 1, 2, 1)
    assert history.failed_on == {"n1", "n2"}
