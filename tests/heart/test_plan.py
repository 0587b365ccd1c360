"""Plan arithmetic: which shard covers which rows of which variant, without listing anything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from promptmill.pipeline.planning.plan import Plan, blocks, plan_job, rows_per_shard
from promptmill.pipeline.planning.plan_json import from_json, segment_from_json, to_json
from promptmill.pipeline.planning.variants import describe_axes, variant_name, variant_text
from promptmill.schemas.errors import JobError
from promptmill.schemas.plan import PythonScore, Segment, Shard, SourceFile
from tests.heart.mill import job, small_plan, write_prompts

SWEEP = {"guidance_scale": [1.0, 5.0], "num_inference_steps": [2, 3, 4]}


def spans(plan: Plan) -> list[tuple[int, int, int, int, int]]:
    return [(s.number, s.segment, s.variant, s.start, s.stop) for s in plan.all_shards()]


@pytest.mark.parametrize(
    ("rows", "size", "number"), [(0, 4, 1), (1, 4, 1), (4, 4, 1), (5, 4, 2), (8, 4, 2), (9, 4, 3), (3, 1, 3)]
)
def test_blocks(rows: int, size: int, number: int) -> None:
    assert blocks(rows, size) == number


@pytest.mark.parametrize(
    ("per_shard", "images", "sweep", "rows"),
    [
        (8, 2, {}, 4),
        (9, 2, {}, 4),
        (7, 2, {}, 3),
        (2, 4, {}, 1),
        (1, 4, {}, 1),
        (12, 1, {"images_per_prompt": [2, 3]}, 4),
    ],
)
def test_rows_of_a_shard(tmp_path: Path, per_shard: int, images: int, sweep: dict[str, object], rows: int) -> None:
    """The variant that makes most images decides, so that no shard has more than it should."""
    source = write_prompts(tmp_path / "a.parquet")
    made = job(
        source,
        generation={"images_per_prompt": images},
        output={"images_per_shard": per_shard},
        sweep=sweep,
    )
    assert rows_per_shard(made) == rows


def test_shards_of_the_source(tmp_path: Path) -> None:
    plan = small_plan(tmp_path)  # five prompts of two images, four images a shard
    assert (plan.prompts, plan.variant_count, plan.samples, plan.shards, plan.rows_per_shard) == (5, 1, 10, 3, 2)
    assert spans(plan) == [(0, 0, 0, 0, 2), (1, 0, 0, 2, 4), (2, 0, 0, 4, 5)]
    assert [plan.samples_in(shard) for shard in plan.all_shards()] == [4, 4, 2]
    for beyond in (3, -1):
        with pytest.raises(IndexError, match=f"^{beyond}$"):
            plan.shard(beyond)


def test_shards_of_a_sweep(tmp_path: Path) -> None:
    """All shards of a variant are neighbours; of the axes, in the order of `generation`, the last runs fastest."""
    plan = small_plan(tmp_path, sweep=SWEEP)
    assert (plan.variant_count, plan.samples, plan.shards) == (6, 60, 18)
    assert spans(plan)[3:7] == [(3, 0, 1, 0, 2), (4, 0, 1, 2, 4), (5, 0, 1, 4, 5), (6, 0, 2, 0, 2)]
    assert [variant_text(plan.variant(i).values) for i in (0, 1, 3)] == [
        '{"guidance_scale":1.0,"num_inference_steps":2}',
        '{"guidance_scale":5.0,"num_inference_steps":2}',
        '{"guidance_scale":5.0,"num_inference_steps":3}',
    ]
    variant = plan.variant(5)
    assert (variant.index, variant.generation.guidance_scale, variant.generation.num_inference_steps) == (5, 5.0, 4)
    assert variant.generation.images_per_prompt == 2
    with pytest.raises(IndexError):
        plan.variant(6)


def test_axes_and_variants_for_people(tmp_path: Path) -> None:
    assert describe_axes(small_plan(tmp_path).job) == ""
    swept = small_plan(tmp_path, sweep={**SWEEP, "exclude": [{"guidance_scale": 1.0}]})
    assert describe_axes(swept.job) == "num_inference_steps 3 × guidance_scale 2, 3 excluded"
    assert describe_axes(small_plan(tmp_path, sweep=SWEEP).job) == "num_inference_steps 3 × guidance_scale 2"
    assert variant_name({}) == "all samples"
    values = {"guidance_scale": 5.0, "settings": "fast", "scheduler": None, "model": {"path": "org/x", "dtype": "auto"}}
    assert variant_name(values) == "settings fast · guidance_scale 5.0 · scheduler default · model org/x"
    assert variant_name({"model": {}}) == "model builtin:shapes", "all of it is as it is by default"
    assert variant_name({"model": {"dtype": "float16"}}) == "model builtin:shapes dtype float16"
    assert variant_name({"model": {"unheard": 1}}) == "model {'unheard': 1}"


def test_without_a_sweep_the_variant_is_empty(tmp_path: Path) -> None:
    assert variant_text(small_plan(tmp_path).variant(0).values) == "{}"


def test_variants_that_make_other_numbers_of_images(tmp_path: Path) -> None:
    plan = small_plan(tmp_path, sweep={"images_per_prompt": [1, 3]}, output={"images_per_shard": 6})
    assert (plan.rows_per_shard, plan.samples, plan.shards) == (2, 20, 6)
    assert [plan.samples_in(plan.shard(n)) for n in range(6)] == [2, 2, 1, 6, 6, 3]


def test_limit(tmp_path: Path) -> None:
    source = write_prompts(tmp_path / "a.parquet")
    for limit, prompts, shards in ((3, 3, 2), (5, 5, 3), (50, 5, 3)):
        plan = plan_job(job(source, prompts={"limit": limit}))
        assert (plan.prompts, plan.shards, plan.segments[0].prompts) == (prompts, shards, prompts)


COPY = SourceFile("retry", "staged:inputs/retry-0123456789abcdef.parquet", 1000, 7)


def grown(plan: Plan) -> Plan:
    """With two retries, one of an older version without `ends`, and an extension between them."""
    files = plan.segments[0].files
    later = (
        Segment("retry", (COPY,), 7, 6, 3, 1, (3, 4, 7)),
        Segment("extend", files, 3, 9, 4),
        Segment("retry", (COPY,), 6, 13, 2, 1),
    )
    return replace(plan, segments=(*plan.segments, *later))


def test_shards_that_came_later(tmp_path: Path) -> None:
    plan = grown(small_plan(tmp_path, sweep={"guidance_scale": [1.0, 5.0]}))
    assert (plan.shards, plan.prompts, plan.samples) == (15, 8, 32)
    assert spans(plan)[6:] == [
        (6, 1, 1, 0, 3),
        (7, 1, 1, 3, 4),
        (8, 1, 1, 4, 7),
        (9, 2, 0, 0, 2),
        (10, 2, 0, 2, 3),
        (11, 2, 1, 0, 2),
        (12, 2, 1, 2, 3),
        (13, 3, 1, 0, 4),
        (14, 3, 1, 4, 6),
    ]
    assert [plan.samples_in(plan.shard(n)) for n in (6, 7, 8, 9, 10, 13, 14)] == [3, 1, 3, 4, 2, 4, 2]
    assert [plan.shard(n) for n in range(15)] == list(plan.all_shards())


def test_a_retry_of_the_first_variant_is_of_the_first_variant(tmp_path: Path) -> None:
    plan = small_plan(tmp_path)
    retry = Segment("retry", plan.segments[0].files, 2, 3, 1, 0, (2,))
    assert replace(plan, segments=(*plan.segments, retry)).shard(3) == Shard(3, 1, 0, 0, 2)


def test_a_plan_comes_back_from_its_file(tmp_path: Path) -> None:
    plan = grown(small_plan(tmp_path, sweep={"guidance_scale": [1.0, 5.0]}))
    again = from_json(to_json(plan))
    assert replace(again, notices=plan.notices) == plan
    assert b'"version": 1' in to_json(plan)


def test_segments_of_older_versions_have_no_ends() -> None:
    copy = {"name": COPY.name, "path": COPY.path, "size_bytes": 1000, "rows": 7}
    content = {"kind": "retry", "files": [copy], "prompts": 2, "first_shard": 3, "shards": 1, "variant": 0}
    assert segment_from_json(content) == Segment("retry", (COPY,), 2, 3, 1, 0, ())
    with pytest.raises(ValueError, match="of one copy below inputs/"):
        segment_from_json({**content, "files": [{**copy, "path": "/etc/hosts.parquet"}]})


def test_a_plan_of_a_later_version_is_refused(tmp_path: Path) -> None:
    data = to_json(small_plan(tmp_path)).replace(b'"version": 1,', b'"version": 2,', 1)
    with pytest.raises(ValueError, match="version 2; this Promptmill reads version 1"):
        from_json(data)


def test_the_query_of_a_presigned_address_is_in_no_file(tmp_path: Path) -> None:
    plan = small_plan(tmp_path)
    prompts = plan.job.prompts.model_copy(update={"source": "https://host/a.parquet?signature=SECRET"})
    written = to_json(replace(plan, job=plan.job.model_copy(update={"prompts": prompts})))
    assert b"SECRET" not in written
    assert from_json(written).job.prompts.source == "https://host/a.parquet"


def test_large_sweeps_are_asked_for(tmp_path: Path) -> None:
    source = write_prompts(tmp_path / "a.parquet")
    thousand = {
        "guidance_scale": {"from": 1, "to": 100, "step": 1},
        "num_inference_steps": {"from": 1, "to": 10, "step": 1},
    }
    assert plan_job(job(source, sweep=thousand)).variant_count == 1000
    more = {**thousand, "num_inference_steps": {"from": 1, "to": 11, "step": 1}}
    with pytest.raises(JobError) as caught:
        plan_job(job(source, sweep=more))
    assert str(caught.value) == (
        "sweep: expected at most 1,000 variants, got 1,100 (num_inference_steps 11 × guidance_scale 100). "
        "Give --yes if you mean it"
    )
    assert plan_job(job(source, sweep=more), allow_large_sweep=True).variant_count == 1100


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(JobError) as caught:
        plan_job(job(tmp_path / "nothing.parquet", generation={"width": 7 * 8 + 1}))
    assert [str(problem).partition(":")[0] for problem in caught.value.problems] == [
        "generation.width",
        "prompts.source",
    ]


def test_which_end_of_a_score_is_better(tmp_path: Path) -> None:
    plan = small_plan(tmp_path, score=[{"python": "tests.heart.mill:OwnScore"}])
    own = PythonScore("a:B", ("bright", "dark"), "1", ("dark",))
    plan = replace(plan, python_scores=(own,))
    assert plan.lowest_is_best == {"near_black", "dark"}
    assert from_json(to_json(plan)).python_scores == (own,)


def test_pixels_are_of_the_largest_image(tmp_path: Path) -> None:
    def pixels(**sections: Any) -> int:
        plan = small_plan(tmp_path, **sections)
        return plan.pixels(plan.models[0])

    own = small_plan(tmp_path).models[0]
    assert own.width * own.height > 64 * 8
    assert pixels() == own.width * own.height
    assert pixels(generation={"width": 16, "height": 8}) == 128
    assert pixels(generation={"width": 16}) == 16 * own.height
    assert pixels(sweep={"width": [8, 64, 16], "height": [8]}) == 64 * 8
    plan = small_plan(tmp_path)
    assert plan.pixels(replace(own, path="another", width=3, height=5)) == 15
