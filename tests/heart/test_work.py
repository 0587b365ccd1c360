"""From a shard's rows to its samples and outcomes, by a worker without torch."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from promptmill.pipeline.dataset.claim import claim_output
from promptmill.pipeline.planning.plan import Plan, plan_job
from promptmill.pipeline.storage.store import Store
from promptmill.pipeline.worker.shard import NOTHING, process_shard
from promptmill.pipeline.worker.work import read_work
from promptmill.schemas.errors import OutputMismatchError, SampleError
from promptmill.schemas.identity import sample_id, sample_seed
from promptmill.schemas.plan import Counts
from tests.heart.mill import TintContext, job, make_missing, memory, rows, run_small, small_plan, write_prompts


def images(store: Store) -> dict[str, bytes]:
    return {row["sample_id"]: row["image"]["bytes"] for row in rows(store)}


def test_samples_of_a_row(tmp_path: Path) -> None:
    plan = small_plan(tmp_path, seed=3, sweep={"guidance_scale": [1.0, 5.0]}, generation={"negative_prompt": "blurry"})
    work = read_work(plan.shard(3), TintContext(plan, memory()), NOTHING)
    variant = plan.variant(1)
    assert work.variant == variant
    assert work.asked == [sample_id(f"a.parquet:{row}", variant, i) for row in (0, 1) for i in (0, 1)]
    assert [(s.prompt_id, s.row, s.sample_index, s.seed) for s in work.ready if s] == [
        (f"a.parquet:{row}", row, i, sample_seed(3, f"a.parquet:{row}", i)) for row in (0, 1) for i in (0, 1)
    ]
    assert {(s.prompt, s.caption, s.negative_prompt) for s in work.ready if s} == {
        ("a red circle", "a red circle", "blurry"),
        ("a blue square", "a blue square", "blurry"),
    }


def test_columns_override(tmp_path: Path) -> None:
    source = write_prompts(
        tmp_path / "a.parquet",
        ["a", "b"],
        name=["x", "y"],
        number=pa.array([7, None], pa.int64()),
        no=["red", None],
        said=["an a", None],
    )
    columns = {"id": "name", "seed": "number", "negative_prompt": "no", "caption": "said"}
    plan = plan_job(job(source, prompts={"columns": columns}, generation={"negative_prompt": "blurry"}))
    work = read_work(plan.shard(0), TintContext(plan, memory()), NOTHING)
    assert [(s.prompt_id, s.seed, s.negative_prompt, s.caption) for s in work.ready if s] == [
        ("x", 7, "red", "an a"),
        ("x", 8, "red", "an a"),
        ("y", sample_seed(0, "y", 0), "blurry", "b"),
        ("y", sample_seed(0, "y", 1), "blurry", "b"),
    ]


def test_faults_of_a_row_fail_it_alone(tmp_path: Path) -> None:
    plan = small_plan(tmp_path)
    work = read_work(plan.shard(1), TintContext(plan, memory()), NOTHING)
    assert [sample is None for sample in work.ready] == [True, True, False, False]
    assert len(work.asked) == 4
    assert [(o.sample.sample_id, o.attempts) for o in work.failures] == [(name, 1) for name in work.asked[:2]]
    assert {str(o.error) for o in work.failures} == {"empty_prompt: nothing but white space"}


def test_quarantined_samples_are_not_tried(tmp_path: Path) -> None:
    plan = small_plan(tmp_path)
    asked = read_work(plan.shard(0), TintContext(plan, memory()), NOTHING).asked
    work = read_work(plan.shard(0), TintContext(plan, memory()), {asked[2]: SampleError("crash", "it died")})
    assert [sample is None for sample in work.ready] == [False, False, True, False]
    (failure,) = work.failures
    assert (failure.sample.sample_id, str(failure.error)) == (asked[2], "crash: it died")


def test_the_seed_of_the_job_changes_images_and_no_id(tmp_path: Path) -> None:
    stores = [memory(), memory(), memory()]
    for store, seed in zip(stores, (0, 0, 1), strict=True):
        run_small(tmp_path, store, seed=seed)
    first, again, other = map(images, stores)
    assert first == again
    assert first.keys() == other.keys()
    assert not any(first[name] == other[name] for name in first)


def test_variants_of_a_prompt_share_their_noise(tmp_path: Path) -> None:
    store = memory()
    run_small(tmp_path, store, sweep={"guidance_scale": [1.0, 5.0]})
    seeds = [(row["prompt_id"], row["sample_index"], row["seed"]) for row in rows(store)]
    assert seeds[:8] == seeds[8:]
    assert len(set(seeds)) == 8


def test_a_run_has_what_was_asked_for(tmp_path: Path) -> None:
    store = memory()
    plan = run_small(tmp_path, store, broken=["square"], select={"keep": 1, "by": "clip"})
    kept, rejected, failed = (rows(store, folder) for folder in ("data", "rejects", "failures"))
    assert (len(kept), len(rejected), len(failed)) == (3, 3, 4)
    best = {row["prompt"]: row["clip_score"] for row in kept}
    assert all(row["clip_score"] <= best[row["prompt"]] for row in rejected)
    assert {row["reason"] for row in rejected} == {"not_selected"}
    assert all(row["image"] is None for row in rejected)
    ids = [row["sample_id"] for row in (*kept, *rejected, *failed)]
    asked = [s for shard in plan.all_shards() for s in read_work(shard, TintContext(plan, store), NOTHING).asked]
    assert sorted(ids) == sorted(asked)
    first = kept[0]
    assert (first["variant"], first["model"], first["model_revision"]) == (
        "{}",
        plan.models[0].path,
        plan.models[0].revision,
    )
    assert (first["pipeline_class"], first["scheduler"], first["dtype"]) == (
        "StableDiffusionPipeline",
        "DDIMScheduler",
        "float32",
    )
    assert (first["num_inference_steps"], first["guidance_scale"]) == (2, 5.0)
    assert first["image"]["path"] == f"{first['sample_id']}.png"


def test_unsafe_images_are_rejected(tmp_path: Path) -> None:
    store = memory()
    plan = claim_output(plan_job(job(write_prompts(tmp_path / "a.parquet", ["a nsfw", "a circle"]))), store)
    make_missing(plan, store)
    assert {row["prompt"] for row in rows(store)} == {"a circle"}
    assert [(row["prompt"], row["reason"], row["flags"]) for row in rows(store, "rejects")] == [
        ("a nsfw", "nsfw", ["nsfw"])
    ] * 2


def test_a_shard_that_is_there_is_done(tmp_path: Path) -> None:
    store = memory()
    plan = run_small(tmp_path, store)
    before = {entry.name: store.read(entry.name) for entry in store.list("data")}
    answer = process_shard(plan.shard(0), TintContext(plan, store))
    assert (answer.already_done, answer.counts, answer.shard) == (True, Counts(4, 4), 0)
    assert {entry.name: store.read(entry.name) for entry in store.list("data")} == before


def test_a_shard_of_another_job_is_no_proof(tmp_path: Path) -> None:
    store = memory()
    run_small(tmp_path, store)
    other = small_plan(tmp_path, seed=1)
    with pytest.raises(OutputMismatchError):
        process_shard(other.shard(0), TintContext(other, store))


def test_answers(tmp_path: Path) -> None:
    store = memory()
    plan = claim_output(small_plan(tmp_path), store)
    stats = make_missing(plan, store)
    assert [(s.shard, s.counts, s.already_done) for s in stats] == [
        (0, Counts(4, 4), False),
        (1, Counts(4, 2, 0, 2), False),
        (2, Counts(2, 2), False),
    ]
    assert all(s.data_bytes == len(store.read(f"data/part-{s.shard:06d}.parquet")) for s in stats)
    assert all(s.seconds["total"] > 0 for s in stats)


def test_the_receipt_beside_a_shard_says_what_its_worker_answered(tmp_path: Path) -> None:
    store = memory()
    plan = claim_output(small_plan(tmp_path), store)
    context = TintContext(plan, store, worker="second")
    answer = process_shard(plan.shard(1), context, attempt=2)
    context.close()
    assert (answer.worker, answer.attempts) == ("second", 2)
    assert answer.versions["promptmill"] and answer.seconds["total"] > 0
    assert json.loads(store.read(plan.shard(1).receipt_key)) == json.loads(json.dumps(asdict(answer)))


def test_the_same_shard_has_the_same_bytes(tmp_path: Path) -> None:
    first, second = memory(), memory()
    sections: dict[str, Any] = {"sweep": {"guidance_scale": [1.0, 5.0]}, "select": {"keep": 1, "by": "clip"}}
    plan: Plan = run_small(tmp_path, first, **sections)
    claim_output(plan, second)
    context = TintContext(plan, second)
    for number in (4, 0, 2, 5, 3, 1):
        process_shard(plan.shard(number), context)
    context.close()
    for folder in ("data", "rejects", "failures"):
        names = [entry.name for entry in first.list(folder)]
        assert names == [entry.name for entry in second.list(folder)]
        assert [first.read(name) for name in names] == [second.read(name) for name in names]
