"""`select.per_class`: exactly so many images of each class, in rounds that follow from what is there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from promptmill.pipeline.dataset.claim import add_segments, claim_output
from promptmill.pipeline.dataset.open import require_plan
from promptmill.pipeline.dataset.retry import plan_retry
from promptmill.pipeline.dataset.rounds import next_round, short_classes
from promptmill.pipeline.dataset.verify import verify_dataset
from promptmill.pipeline.planning.plan import Plan, plan_job
from promptmill.pipeline.planning.rounds import hits, round_segment
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import JobError
from tests.heart import mill

# Redness is uniform over -1 to 1: a third of images passes this.
SELECT = {"per_class": 7, "min": 0.33}
CLASSES = ["ring", "cross", "disc"]


def planned(source: Path | None = None, select: dict[str, Any] = SELECT, **sections: Any) -> Plan:
    prompts = {"source": None, "classes": CLASSES, "templates": ["a {class}", "the {class}"]}
    prompts |= sections.pop("prompts", {})
    return plan_job(mill.job(source or Path("unused"), prompts=prompts, select=select, **sections))


def fill(plan: Plan, store: Store, broken: Iterable[str] = ()) -> Plan:
    """What `run` does: round by round."""
    plan = claim_output(plan, store)
    while True:
        mill.make_missing(plan, store, broken)
        grown = next_round(plan, store)
        if grown is None:
            return plan
        plan = grown


def fill_in_parts(plan: Plan, store: Store) -> None:
    """A shard at a time, from the store alone, the last one first."""
    for _ in range(200):
        claimed = claim_output(plan, store)
        missing = mill.missing_shards(claimed, store)
        if missing:
            context = mill.TintContext(claimed, store)
            mill.process_shard(missing[-1], context)
            context.close()
        elif next_round(claimed, store) is None:
            return
    raise AssertionError("no end after 200 shards")


def kept(store: Store) -> Counter[str]:
    return Counter(row["label_name"] for row in mill.rows(store))


def objects(store: Store) -> dict[str, bytes]:
    return {
        e.name: store.read(e.name) for folder in ("data", "rejects", "failures", "segments") for e in store.list(folder)
    }


def test_every_class_has_exactly_so_many() -> None:
    store = mill.memory()
    plan = fill(planned(), store)
    assert kept(store) == dict.fromkeys(CLASSES, 7)
    assert 2 <= plan.segments[-1].round <= 4 and short_classes(plan, store) == ()
    rows = [row for folder in ("data", "rejects") for row in mill.rows(store, folder)]
    assert len({row["sample_id"] for row in rows}) == len(rows) == plan.samples
    assert len({(row["prompt_id"], row["sample_index"]) for row in rows}) == len(rows)
    assert len({(row["prompt_id"], row["seed"]) for row in rows}) == len(rows)
    assert all(row["scores"]["clip"] >= 0.33 for row in mill.rows(store))
    result = verify_dataset(plan, store)
    assert not result.problems and not result.orphans


def test_sample_numbers_of_a_prompt_have_no_gap() -> None:
    store = mill.memory()
    fill(planned(), store)
    numbers: dict[str, list[int]] = {}
    for row in (row for folder in ("data", "rejects") for row in mill.rows(store, folder)):
        numbers.setdefault(row["prompt_id"], []).append(row["sample_index"])
    assert all(sorted(each) == list(range(len(each))) for each in numbers.values())


def test_a_run_that_stops_anywhere_comes_to_the_same_bytes() -> None:
    whole, parts = mill.memory(), mill.memory()
    fill(planned(), whole)
    context_plan = claim_output(planned(), parts)
    fill_in_parts(planned(), parts)
    assert objects(parts) == objects(whole)
    assert require_plan(parts).segments == require_plan(whole).segments != context_plan.segments


def test_two_drivers_add_one_round() -> None:
    store = mill.memory()
    plan = claim_output(planned(), store)
    mill.make_missing(plan, store)
    first, second = next_round(plan, store), next_round(plan, store)
    assert first is not None and second is not None and first.segments == second.segments


def test_a_class_that_cannot_be_filled_is_told_and_the_others_are_full() -> None:
    store = mill.memory()
    plan = fill(planned(select={**SELECT, "max_rounds": 5}), store, ("disc",))
    assert kept(store) == {"ring": 7, "cross": 7}
    (short,) = short_classes(plan, store)
    assert (short.name, short.asked, short.kept, short.made, short.reason) == ("disc", 7, 0, 0, "generation")
    few = mill.memory()
    (one, *_) = short_classes(fill(planned(select={**SELECT, "min": 0.99, "max_rounds": 2}), few), few)
    assert one.reason == "below_min" and one.made == 7 * 2 + 7 * 4 and sum(kept(few).values()) < 21


def test_more_rounds_may_be_given_later() -> None:
    store = mill.memory()
    first = fill(planned(select={**SELECT, "max_rounds": 1}), store)
    assert sum(kept(store).values()) < 21
    again = planned(select={**SELECT, "max_rounds": 6})
    assert again.fingerprint == first.fingerprint
    fill(again, store)
    assert kept(store) == dict.fromkeys(CLASSES, 7)
    once = mill.memory()
    fill(again, once)
    assert objects(once) == objects(store)


def test_a_retry_never_makes_a_class_more_than_full() -> None:
    store = mill.memory()
    plan = fill(planned(select={"per_class": 6, "keep": 1, "max_rounds": 1}), store, ("disc", "ring#1"))
    assert kept(store)["disc"] == 0
    plan = plan_retry(plan, store)
    mill.make_missing(plan, store)
    assert all(number <= 6 for number in kept(store).values()) and kept(store)["disc"]
    while (grown := plan_retry(plan, store)).shards > plan.shards:
        plan = grown
        mill.make_missing(plan, store)
    assert not verify_dataset(plan, store).problems


def test_each_variant_of_a_sweep_is_balanced() -> None:
    store = mill.memory()
    fill(planned(sweep={"guidance_scale": [1.0, 2.0]}), store)
    counts = Counter((row["variant"], row["label_name"]) for row in mill.rows(store))
    assert len(counts) == 6 and set(counts.values()) == {7}


def test_rows_of_a_source_in_any_order(tmp_path: Path) -> None:
    kinds = [CLASSES[i * 7 % 3] for i in range(30)]
    path = mill.write_prompts(tmp_path / "a.parquet", [f"{kind} {i}" for i, kind in enumerate(kinds)], kind=kinds)
    store = mill.memory()
    prompts = {"source": str(path), "columns": {"label": "kind"}, "templates": []}
    fill(planned(path, prompts=prompts), store)
    rows = mill.rows(store)
    assert kept(store) == dict.fromkeys(CLASSES, 7)
    assert all(row["prompt"].startswith(row["label_name"]) for row in rows)


def test_without_a_score_the_first_are_kept() -> None:
    store = mill.memory()
    fill(planned(select={"per_class": 5}, score=None), store)
    assert kept(store) == dict.fromkeys(CLASSES, 5)
    assert {row["sample_index"] % 2 for row in mill.rows(store)} == {0}


def test_several_of_a_place_may_be_kept() -> None:
    store = mill.memory()
    fill(planned(select={"per_class": 7, "keep": None, "min": 0.0}), store)
    assert kept(store) == dict.fromkeys(CLASSES, 7)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"prompts": {"classes": None, "source": "x.txt", "templates": []}}, "null without labels"),
        ({"sweep": {"images_per_prompt": [1, 2]}}, "no images_per_prompt"),
        ({"select": {"per_class": 0}}, "per_class"),
    ],
)
def test_what_cannot_be_balanced_is_refused(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError, match=message):
        planned(**sections)


def test_a_class_without_a_prompt_is_refused(tmp_path: Path) -> None:
    path = mill.write_prompts(tmp_path / "a.parquet", ["a", "b"], kind=["ring", "cross"])
    with pytest.raises(JobError, match="a prompt of each class, got none of 'disc'"):
        planned(path, prompts={"source": str(path), "columns": {"label": "kind"}, "templates": []})


def test_places_come_to_prompts_in_turn() -> None:
    for begins in range(5):
        for number in range(9):
            for many in range(1, 5):
                counts = Counter((begins + i) % many for i in range(number))
                assert [hits(begins, number, many, prompt) for prompt in range(many)] == [
                    counts[p] for p in range(many)
                ]


def test_a_class_that_stands_behind_the_limit_is_refused_before_anything_starts(tmp_path: Path) -> None:
    file = mill.write_prompts(tmp_path / "a.parquet", ["a", "b", "c"], label=["cat", "cat", "dog"])
    asked = {"source": str(file), "classes": None, "templates": [], "columns": {"label": "label"}}
    with pytest.raises(JobError, match="none of 'dog'"):
        planned(file, {"per_class": 2}, prompts={**asked, "limit": 2})
    assert planned(file, {"per_class": 2}, prompts={**asked, "limit": 3}).segments[-1].prompts == 4


def test_a_full_dataset_is_not_extended_and_says_so_only_where_something_is_new(tmp_path: Path) -> None:
    file = mill.write_prompts(tmp_path / "a.parquet", ["a", "b"], label=["cat", "dog"])
    asked = {"source": str(tmp_path), "classes": None, "templates": [], "columns": {"label": "label"}}
    store, plan = mill.memory(), planned(tmp_path, {"per_class": 2}, prompts=asked)
    fill(plan, store)
    assert claim_output(plan, store, extend=True).segments == require_plan(store).segments
    mill.write_prompts(file.with_name("b.parquet"), ["c"], label=["cat"])
    with pytest.raises(JobError, match="null for a job that is extended"):
        claim_output(planned(tmp_path, {"per_class": 2}, prompts=asked), store, extend=True)


def test_seeds_that_rounds_can_reach_fit_into_the_column(tmp_path: Path) -> None:
    file = mill.write_prompts(tmp_path / "a.parquet", ["a"], label=["cat"], seed=pa.array([2**63 - 1], pa.uint64()))
    asked = {"source": str(file), "classes": None, "templates": [], "columns": {"label": "label", "seed": "seed"}}
    plan = planned(file, {"per_class": 4}, prompts=asked, generation={"images_per_prompt": 1})
    store = mill.memory()
    fill(plan, store)
    assert sorted(row["seed"] for row in mill.rows(store)) == [2**63 - 1 + i for i in range(4)]


def test_of_two_drivers_with_other_rounds_the_first_one_wins() -> None:
    """The second must take what is there: `store.put` in place of `create` made two rounds of one number."""
    store = mill.memory()
    plan = claim_output(planned(), store)
    mill.make_missing(plan, store)
    first = next_round(plan, store)
    assert first is not None
    other = round_segment(plan.job, 2, {0: 1}, plan.shards, 1)
    assert other not in first.segments
    assert add_segments(plan, store, [other], {}).segments == first.segments == require_plan(store).segments


def test_conditions_are_met_by_all_that_fill_a_class_and_a_stopped_run_comes_to_the_same_bytes() -> None:
    where = [{"score": "clip", "at_least": -0.5, "at_most": 0.5}, {"score": "contrast", "at_most": 1}]
    sections = {"select": {"per_class": 7, "where": where}, "score": [mill.CLIP_SCORE, {"metric": "image"}]}
    whole, parts = mill.memory(), mill.memory()
    fill(planned(**sections), whole)
    assert kept(whole) == dict.fromkeys(CLASSES, 7)
    assert all(-0.5 <= row["scores"]["clip"] <= 0.5 for row in mill.rows(whole))
    reasons = {row["reason"]: row["scores"]["clip"] for row in mill.rows(whole, "rejects")}
    assert reasons["clip below -0.5"] < -0.5 and reasons["clip above 0.5"] > 0.5
    fill_in_parts(planned(**sections), parts)
    assert objects(parts) == objects(whole)


def test_with_conditions_and_no_score_to_rank_by_the_first_that_meets_them_is_kept() -> None:
    store = mill.memory()
    sections = {"score": [{"metric": "image"}], "select": {"where": [{"score": "contrast", "at_most": 1}]}}
    plan = claim_output(planned(**sections), store)
    mill.make_missing(plan, store)
    assert len(mill.rows(store)) == 6 and all(row["sample_index"] == 0 for row in mill.rows(store))
