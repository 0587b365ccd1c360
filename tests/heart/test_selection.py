"""Which images of a prompt are kept, and why the others are not."""

from __future__ import annotations

import math

import pytest

from promptmill.pipeline.worker.selection import rejection_reasons, unmet_condition
from promptmill.schemas.scores import LOWER_IS_BETTER, Condition, Select

NO_FLAGS: list[tuple[str, ...]] = [(), (), ()]
BEST = Select(keep=1, by="clip")


def reasons(
    scores: list[float | None],
    select: Select | None = BEST,
    flags: list[tuple[str, ...]] | None = None,
    indices: list[int] | None = None,
    quota: int | None = None,
) -> list[str | None]:
    lowest = select is not None and select.by in LOWER_IS_BETTER
    places = indices or list(range(len(scores)))
    return rejection_reasons(scores, flags or [()] * len(scores), places, select, quota, lowest)


def test_without_select_all_are_kept_but_the_unsafe() -> None:
    assert reasons([None, None, None], None) == [None, None, None]
    assert reasons([None, None, None], None, [("prompt_truncated",), ("retried_fp32", "nsfw"), ()]) == [
        None,
        "nsfw",
        None,
    ]


def test_the_best_is_kept() -> None:
    assert reasons([0.1, 0.3, 0.2]) == ["not_selected", None, "not_selected"]
    assert reasons([-0.3, -0.1, -0.2]) == ["not_selected", None, "not_selected"]


def test_the_unsafe_best_is_not_kept() -> None:
    assert reasons([0.1, 0.3, 0.2], flags=[(), ("nsfw",), ()]) == ["not_selected", "nsfw", None]


def test_other_flags_do_no_harm() -> None:
    assert reasons([0.1, 0.3], flags=[(), ("prompt_truncated",)]) == ["not_selected", None]


@pytest.mark.parametrize(("keep", "kept"), [(1, 1), (2, 2), (3, 3), (None, 3)])
def test_so_many_are_kept(keep: int | None, kept: int) -> None:
    assert reasons([0.3, 0.2, 0.1], Select(keep=keep, by="clip")) == [None] * kept + ["not_selected"] * (3 - kept)


def test_ties_go_to_the_lowest_index_whatever_the_order() -> None:
    assert reasons([0.5, 0.5, 0.5]) == [None, "not_selected", "not_selected"]
    assert reasons([0.5, 0.5, 0.5], indices=[2, 1, 0]) == ["not_selected", "not_selected", None]
    assert reasons([0.5, 0.5, 0.5], Select(keep=2, by="clip"), indices=[2, 0, 1]) == ["not_selected", None, None]


def test_least_value() -> None:
    least = Select(keep=2, by="clip", min=0.2)
    assert reasons([0.1, 0.2, 0.3], least) == ["below_min", None, None]
    assert reasons([0.1, 0.1, 0.15], least) == ["below_min"] * 3
    assert reasons([-0.1, 0.0], Select(keep=1, by="clip", min=0.0)) == ["below_min", None]
    assert reasons([0.3, 0.4, 0.1], Select(keep=None, by="clip", min=0.2)) == [None, None, "below_min"]


@pytest.mark.parametrize("nothing", [None, math.nan])
def test_no_score(nothing: float | None) -> None:
    assert reasons([nothing, 0.1, 0.2]) == ["no_score", "not_selected", None]
    assert reasons([nothing, nothing], Select(keep=None, by="clip")) == ["no_score", "no_score"]


def test_an_unsafe_image_without_score_is_unsafe() -> None:
    assert reasons([None, 0.1], flags=[("nsfw",), ()]) == ["nsfw", None]


def test_the_lowest_of_near_black() -> None:
    assert reasons([0.3, 0.1, 0.2], Select(keep=1, by="near_black")) == ["not_selected", None, "not_selected"]
    assert reasons([0.1, 0.1], Select(keep=1, by="near_black"), indices=[1, 0]) == ["not_selected", None]


@pytest.mark.parametrize(("quota", "kept"), [(None, 2), (3, 2), (2, 2), (1, 1), (0, 0), (-1, 0)])
def test_what_earlier_shards_left_of_the_quota(quota: int | None, kept: int) -> None:
    assert reasons([0.3, 0.2, 0.1], Select(keep=2, by="clip"), quota=quota) == [None] * kept + ["not_selected"] * (
        3 - kept
    )


def test_a_quota_bounds_what_is_kept_without_a_number_too() -> None:
    assert reasons([0.3, 0.2, 0.1], Select(keep=None, by="clip"), quota=1) == [None, "not_selected", "not_selected"]


def test_nothing_in_nothing_out() -> None:
    assert reasons([]) == []


BOUNDS = (Condition(score="clip", at_least=0.2), Condition(score="sharpness", at_least=1, at_most=7.5))


@pytest.mark.parametrize(
    ("clip", "sharpness", "reason"),
    [
        (0.2, 7.5, None),
        (0.1999, 7.5, "clip below 0.2"),
        (0.1999, 8.0, "clip below 0.2"),
        (0.3, 8.0, "sharpness above 7.5"),
        (0.3, 0.5, "sharpness below 1"),
        (None, 5.0, "no_score"),
        (0.3, math.nan, "no_score"),
    ],
)
def test_the_first_condition_that_is_not_met_is_the_reason(
    clip: float | None, sharpness: float, reason: str | None
) -> None:
    assert unmet_condition(BOUNDS, {"clip": clip, "sharpness": sharpness}.get) == reason


def test_the_best_of_those_that_meet_the_conditions_is_kept() -> None:
    unmet = ["sharpness below 1", None, None]
    found = rejection_reasons([0.9, 0.3, 0.5], NO_FLAGS, [0, 1, 2], BEST, unmet=unmet)
    assert found == ["sharpness below 1", "not_selected", None]
    blanked = rejection_reasons([0.9, 0.3, 0.5], [("nsfw",), (), ()], [0, 1, 2], BEST, unmet=unmet)
    assert blanked == ["nsfw", "not_selected", None]
    first = rejection_reasons([None] * 3, NO_FLAGS, [0, 1, 2], BEST, ranked=False, unmet=unmet)
    assert first == ["sharpness below 1", None, "not_selected"]
