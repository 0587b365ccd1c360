"""Failed samples as new shards: which, in which order, and how many of them may still be kept."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from promptmill.pipeline.dataset.claim import claim_output
from promptmill.pipeline.dataset.retry import _shard_ends, _with_room, plan_retry, stage_again
from promptmill.pipeline.dataset.state import dataset_counts, read_counts
from promptmill.pipeline.dataset.verify import verify_dataset
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import JobError
from promptmill.schemas.plan import Counts, Segment
from promptmill.schemas.resolved import ResolvedAdapter, ResolvedControl
from tests.heart.mill import PROMPTS, make_missing, memory, rows, run_small, small_plan

KEEP_ONE = {"select": {"keep": 1, "by": "clip"}}


def staged(store: Store, segment: Segment) -> list[dict[str, Any]]:
    (file,) = segment.files
    assert re.fullmatch("retry-[0-9a-f]{16}", file.name)  # a source that holds the output leaves such names out
    assert file.path == f"staged:inputs/{file.name}.parquet"
    table = pq.read_table(io.BytesIO(store.read(f"inputs/{file.name}.parquet")))
    assert (file.rows, segment.prompts) == (table.num_rows, table.num_rows)
    content: list[dict[str, Any]] = table.to_pylist()
    return content


def counts(plan: Plan, store: Store) -> Counts:
    return dataset_counts(plan, read_counts(plan, store))


def check_whole(plan: Plan, store: Store) -> None:
    result = verify_dataset(plan, store, deep=True)
    assert (result.problems, result.missing, result.orphans) == ([], [], [])
    ids = [row["sample_id"] for folder in ("data", "rejects") for row in rows(store, folder)]
    assert len(set(ids)) == len(ids)


def test_nothing_failed_nothing_to_do(tmp_path: Path) -> None:
    store = memory()
    plan = run_small(tmp_path, store)
    assert counts(plan, store) == Counts(10, 8, 0, 2)  # the empty prompt, which is its row's own fault
    assert plan_retry(plan, store) is plan
    assert store.list("segments") == []


def test_what_failed_is_made(tmp_path: Path) -> None:
    store = memory()
    plan = run_small(tmp_path, store, broken=["square", "star"])
    assert counts(plan, store) == Counts(10, 4, 0, 6)
    grown = plan_retry(plan, store)
    assert (grown.shards, grown.samples, grown.prompts) == (4, 10, 5)
    (segment,) = grown.segments[1:]
    assert (segment.kind, segment.variant, segment.first_shard, segment.shards) == ("retry", 0, 3, 1)
    assert segment.ends == (4,)
    retried = staged(store, segment)
    failed = [row for row in rows(store, "failures") if row["error_kind"] == "generation"]
    names = ("prompt_id", "sample_id", "sample_index", "prompt", "negative_prompt", "caption", "seed")
    assert [{name: row[name] for name in names} for row in retried] == [
        {name: row[name] for name in names} for row in failed
    ]
    assert {name for row in retried for name in row} == {*names, "room"}
    assert [row["room"] for row in retried] == [None] * 4
    assert [entry.name for entry in store.list("segments")] == ["segments/000000003.json"]
    make_missing(grown, store)
    assert counts(grown, store) == Counts(10, 8, 0, 2)
    made = rows(store)[-4:]
    assert [(row["sample_id"], row["seed"], row["sample_index"]) for row in made] == [
        (row["sample_id"], row["seed"], row["sample_index"]) for row in failed
    ]
    check_whole(grown, store)


def test_a_retry_makes_what_a_run_without_faults_would_have(tmp_path: Path) -> None:
    healthy, mended = memory(), memory()
    run_small(tmp_path, healthy)
    plan = run_small(tmp_path, mended, broken=["square", "circle"])
    make_missing(plan_retry(plan, mended), mended)
    expected = sorted(rows(healthy), key=lambda row: row["sample_id"])
    assert sorted(rows(mended), key=lambda row: row["sample_id"]) == expected


def test_the_name_of_the_copy_is_that_of_its_rows(tmp_path: Path) -> None:
    """Two drivers that plan the same retry write one copy and one segment."""
    store = memory()
    plan = run_small(tmp_path, store, broken=["square"])
    first = plan_retry(plan, store)
    again = plan_retry(plan, store)
    assert first.segments == again.segments
    assert len([entry for entry in store.list("inputs") if "retry-" in entry.name]) == 1


def test_an_unfinished_dataset_is_not_retried(tmp_path: Path) -> None:
    store = memory()
    plan = run_small(tmp_path, store, broken=["square"])
    store.delete("data/part-000001.parquet")
    with pytest.raises(JobError) as caught:
        plan_retry(plan, store)
    assert str(caught.value) == (
        f"{store.url}: expected a finished dataset, got 1 shards missing. `promptmill run` makes them; then retry"
    )


def test_an_unfinished_retry_goes_on(tmp_path: Path) -> None:
    store = memory()
    plan = run_small(tmp_path, store, broken=["square"])
    grown = plan_retry(plan, store)
    assert plan_retry(grown, store) is grown
    assert len(store.list("segments")) == 1


def test_a_lost_shard_before_an_unfinished_retry_comes_first(tmp_path: Path) -> None:
    store = memory()
    grown = plan_retry(run_small(tmp_path, store, broken=["square"]), store)
    store.delete("data/part-000000.parquet")
    with pytest.raises(JobError, match="2 shards missing"):
        plan_retry(grown, store)


def test_the_last_answer_counts(tmp_path: Path) -> None:
    """A retry that makes some leaves the others for the next, and nothing is counted twice."""
    store = memory()
    plan = run_small(tmp_path, store, broken=["square", "star"])
    second = plan_retry(plan, store)
    make_missing(second, store, broken=["star"])
    assert counts(second, store) == Counts(10, 6, 0, 4)
    third = plan_retry(second, store)
    assert third.shards == 5
    assert {row["prompt"] for row in staged(store, third.segments[2])} == {"a green star"}
    make_missing(third, store, broken=["star"])
    assert counts(third, store) == Counts(10, 6, 0, 4)
    fourth = plan_retry(third, store)
    assert [segment.prompts for segment in fourth.segments] == [5, 4, 2, 2]
    make_missing(fourth, store)
    assert counts(fourth, store) == Counts(10, 8, 0, 2)
    assert plan_retry(fourth, store) is fourth
    check_whole(fourth, store)


def test_a_rejected_sample_is_answered(tmp_path: Path) -> None:
    store = memory()
    plan = run_small(tmp_path, store, broken=["square"], **KEEP_ONE)
    grown = plan_retry(plan, store)
    make_missing(grown, store)
    assert counts(grown, store) == Counts(10, 4, 4, 2)
    assert plan_retry(grown, store) is grown


def test_each_variant_has_shards_of_its_own(tmp_path: Path) -> None:
    store = memory()
    plan = run_small(tmp_path, store, broken=["square", "star"], sweep={"guidance_scale": [5.0, 1.0]})
    grown = plan_retry(plan, store)
    one, five = grown.segments[1:]
    assert (one.variant, one.first_shard, one.shards) == (1, 6, 1)  # in the order of the variants' texts
    assert (five.variant, five.first_shard, five.shards) == (0, 7, 1)
    assert grown.shards == 8
    make_missing(grown, store)
    assert {(row["variant"], row["guidance_scale"]) for row in rows(store)[-8:]} == {
        ('{"guidance_scale":1.0}', 1.0),
        ('{"guidance_scale":5.0}', 5.0),
    }
    check_whole(grown, store)


@pytest.mark.parametrize(
    ("prompts", "size", "ends"),
    [
        ("aabb", 4, (4,)),
        ("aabb", 3, (2, 4)),
        ("aabbcc", 4, (4, 6)),
        ("aaaaa", 2, (5,)),
        ("aaaaab", 2, (5, 6)),
        ("abcde", 2, (2, 4, 5)),
        ("abbccc", 3, (3, 6)),
        ("abbbc", 3, (1, 4, 5)),
        ("a", 1, (1,)),
    ],
)
def test_no_prompt_is_in_two_shards(prompts: str, size: int, ends: tuple[int, ...]) -> None:
    assert _shard_ends(list(prompts), size) == ends


def test_rows_of_one_prompt_are_neighbours(tmp_path: Path) -> None:
    """The samples of a prompt whose failures lie in two objects are brought together."""
    store = memory()
    plan = run_small(tmp_path, store, broken=["square", "star"])
    second = plan_retry(plan, store)
    make_missing(second, store, broken=["a blue square#1", "a green star#0"])
    third = plan_retry(second, store)
    store.delete(third.shard(4).data_key)
    assert [(row["prompt"], row["sample_index"]) for row in staged(store, third.segments[2])] == [
        ("a blue square", 1),
        ("a green star", 0),
    ]
    assert third.segments[2].ends == (2,)


def test_a_retry_of_more_than_a_shard(tmp_path: Path) -> None:
    store = memory()
    plan = run_small(tmp_path, store, broken=["a"], output={"images_per_shard": 4})
    grown = plan_retry(plan, store)
    assert grown.segments[1].ends == (4, 8)
    assert grown.shards == 5
    make_missing(grown, store)
    assert counts(grown, store) == Counts(10, 8, 0, 2)
    check_whole(grown, store)


@pytest.mark.parametrize(("keep", "room"), [(1, 0), (2, 1), (3, 2), (None, None)])
def test_what_was_kept_before_counts(tmp_path: Path, keep: int | None, room: int | None) -> None:
    """One of three samples of `square` came out and is kept: so many of the other two may still be."""
    store = memory()
    select = {"keep": keep, "by": "clip"}
    broken = ["a blue square#0", "a blue square#2"]
    sections: dict[str, Any] = {"generation": {"images_per_prompt": 3}, "select": select}
    plan = run_small(tmp_path, store, broken=broken, **sections)
    before = [row for row in rows(store) if row["prompt"] == "a blue square"]
    grown = plan_retry(plan, store)
    assert [row["room"] for row in staged(store, grown.segments[1])] == [room, room]
    make_missing(grown, store)
    kept = [row for row in rows(store) if row["prompt"] == "a blue square"]
    assert len(kept) == (3 if keep is None else keep)
    assert {row["sample_id"] for row in before} <= {row["sample_id"] for row in kept}


def test_only_the_same_prompt_and_variant_count(tmp_path: Path) -> None:
    store = memory()
    sections = {**KEEP_ONE, "sweep": {"guidance_scale": [1.0, 5.0]}}
    plan = run_small(tmp_path, store, broken=["square"], **sections)
    grown = plan_retry(plan, store)
    assert [row["room"] for segment in grown.segments[1:] for row in staged(store, segment)] == [1] * 4
    make_missing(grown, store)
    kept = [(row["prompt"], row["variant"]) for row in rows(store)]
    assert len(set(kept)) == len(kept) == 8


def test_what_another_variant_kept_does_not_count(tmp_path: Path) -> None:
    """`square` came out at one guidance scale and is kept there; at the other nothing of it is, so one still may be."""
    store = memory()
    sections = {**KEEP_ONE, "sweep": {"guidance_scale": [1.0, 5.0]}}
    plan = run_small(tmp_path, store, broken=["a blue square@5.0"], **sections)
    grown = plan_retry(plan, store)
    assert [row["room"] for row in staged(store, grown.segments[1])] == [1, 1]
    make_missing(grown, store)
    kept = [(row["prompt"], row["guidance_scale"]) for row in rows(store)]
    assert sorted(kept) == sorted((prompt, scale) for prompt in PROMPTS if prompt for scale in (1.0, 5.0))


def test_without_select_there_is_no_bound(tmp_path: Path) -> None:
    store = memory()
    grown = plan_retry(run_small(tmp_path, store, broken=["a blue square#0"]), store)
    assert [row["room"] for row in staged(store, grown.segments[1])] == [None]


def test_lost_failures_are_said(tmp_path: Path) -> None:
    store = memory()
    plan = run_small(tmp_path, store, broken=["square"])
    lost = store.list("failures")[0].name
    store.delete(lost)
    with pytest.raises(JobError) as caught:
        plan_retry(plan, store)
    assert str(caught.value) == (
        f"{store.url}/{lost}: expected what data/part-000000.parquet names, got nothing. "
        "`promptmill verify --repair` and then `promptmill run` make that shard again"
    )


def test_lost_answers_of_a_retry_are_said(tmp_path: Path) -> None:
    store = memory()
    plan = run_small(tmp_path, store, broken=["square"], **KEEP_ONE)
    grown = plan_retry(plan, store)
    make_missing(grown, store)
    (lost,) = [entry.name for entry in store.list("rejects") if "part-000003" in entry.name]
    store.delete(lost)
    with pytest.raises(JobError, match=lost):
        plan_retry(grown, store)


def test_objects_of_others_are_passed_over(tmp_path: Path) -> None:
    store = memory()
    plan = run_small(tmp_path, store, broken=["square"])
    store.put("data/notes.parquet", store.read("data/part-000001.parquet"))
    store.put("data/part-000009.parquet", store.read("data/part-000000.parquet"))
    grown = plan_retry(plan, store)
    assert len(staged(store, grown.segments[1])) == 2


def test_a_shard_that_is_made_again_leaves_retried_samples_to_the_retry(tmp_path: Path) -> None:
    store = memory()
    plan = run_small(tmp_path, store, broken=["square"], sweep={"guidance_scale": [1.0, 5.0]})
    grown = plan_retry(plan, store)
    make_missing(grown, store)
    before = counts(grown, store)
    for number in (0, 4):
        store.delete(f"data/part-{number:06d}.parquet")
    for entry in store.list("failures"):
        store.delete(entry.name)
    store.delete("data/part-000001.parquet")
    make_missing(grown, store)
    assert counts(grown, store) == before
    ids = [row["sample_id"] for row in rows(store)]
    assert len(set(ids)) == len(ids)
    (message,) = {row["message"] for row in rows(store, "failures") if row["error_kind"] == "generation"}
    assert message == "it failed before this shard was damaged and made again; a later shard has its retry"


def test_a_retry_keeps_the_seeds_of_a_seed_column(tmp_path: Path) -> None:
    import pyarrow as pa

    from promptmill.pipeline.planning.plan import plan_job
    from tests.heart.mill import job, write_prompts

    store = memory()
    source = write_prompts(tmp_path / "a.parquet", PROMPTS, number=pa.array([7, 9, 1, None, 2], pa.int64()))
    plan = claim_output(plan_job(job(source, prompts={"columns": {"seed": "number"}})), store)
    make_missing(plan, store, broken=["square", "star"])
    grown = plan_retry(plan, store)
    make_missing(grown, store)
    seeds = {(row["prompt"], row["sample_index"]): row["seed"] for row in rows(store)}
    assert seeds["a blue square", 0] == 9
    assert seeds["a blue square", 1] == 10
    assert seeds["a green star", 0] > 10
    check_whole(grown, store)


def test_a_copy_of_a_retry_that_was_planned_elsewhere_is_taken(tmp_path: Path) -> None:
    """The segment that was there first wins, whatever this driver has found."""
    store = memory()
    plan = run_small(tmp_path, store, broken=["square"])
    first = plan_retry(plan, store)
    assert plan_retry(replace(plan, notices=("another driver",)), store).segments == first.segments
    assert small_plan(tmp_path).fingerprint == first.fingerprint


def test_what_an_unfinished_retry_reads_is_brought_back(tmp_path: Path) -> None:
    store = memory()
    plan = run_small(tmp_path, store, broken=["square"])
    grown = plan_retry(plan, store)
    (file,) = grown.segments[-1].files
    before = store.read(f"inputs/{file.name}.parquet")
    store.delete(f"inputs/{file.name}.parquet")
    stage_again(grown, store)
    assert store.read(f"inputs/{file.name}.parquet") == before


def test_adapters_and_networks_of_the_model_are_no_columns_of_the_prompts(tmp_path: Path) -> None:
    store = memory()
    plan = run_small(tmp_path, store)
    failed = pa.table({"prompt_id": ["p"], "variant": ["{}"], "adapters": ["a"], "controls": ["c"]})
    assert {"adapters", "controls"} <= set(_with_room(failed, plan, store, []).column_names)
    adapter = ResolvedAdapter("a", "a.safetensors", "a", "0", 1.0, 1)
    net = ResolvedControl("c", "c", "c", "0", "ControlNetModel", 1.0, "none", 0, True)
    with_both = replace(plan, models=(replace(plan.models[0], adapters=(adapter,), controlnets=(net,)),))
    assert _with_room(failed, with_both, store, []).column_names == ["prompt_id", "room"]
