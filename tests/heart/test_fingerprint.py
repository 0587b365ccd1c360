"""What makes another job, and what does not: who adds a field says here which of the two it is."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field, create_model

from promptmill.pipeline.dataset.claim import claim_output
from promptmill.pipeline.dataset.state import missing_shards
from promptmill.pipeline.jobfile.reader import parse_job
from promptmill.pipeline.planning.fingerprint import differing_fields, fingerprint
from promptmill.pipeline.planning.plan import Plan, plan_job
from promptmill.pipeline.storage.store import Store
from promptmill.schemas import generation as generation_schema
from promptmill.schemas import job as schema
from promptmill.schemas import prompts as prompts_schema
from promptmill.schemas import scores as scores_schema
from promptmill.schemas.job import Job
from promptmill.schemas.sweep import axis
from tests.heart.conftest import YESTERDAY
from tests.heart.mill import CLIP, MODEL

CLIP_SCORE = {"clip": f"local-dir:{CLIP}"}

# Of each field: what the job has beside it, and another value.
WITH_IMAGE: dict[str, Any] = {"prompts": {"columns": {"image": "other"}}}
WITH_MASK: dict[str, Any] = {"prompts": {"columns": {"image": "other", "mask": "other"}}}
CHANGES: dict[str, tuple[dict[str, Any], Any]] = {
    "seed": ({}, 1),
    "prompts.suite": ({"prompts": {"suite": "shapes", "source": None}}, None),
    "prompts.columns.prompt": ({}, "other"),
    "prompts.columns.id": ({}, "id"),
    "prompts.columns.negative_prompt": ({}, "other"),
    "prompts.columns.seed": ({}, "number"),
    "prompts.columns.caption": ({}, "other"),
    "prompts.shapes.per_category": ({"prompts": {"suite": "shapes", "source": None, "shapes": {"seed": 1}}}, 1),
    "prompts.shapes.seed": ({"prompts": {"suite": "shapes", "source": None, "shapes": {"per_category": 1}}}, 2),
    "prompts.shapes.split": ({"prompts": {"suite": "shapes", "source": None, "shapes": {"per_category": 1}}}, "train"),
    "prompts.classes": ({"prompts": {"columns": {"label": "other"}}}, ["y", "x"]),
    "prompts.columns.label": ({}, "other"),
    "prompts.templates": ({}, ["a {prompt}"]),
    "prompts.attributes": (
        {"prompts": {"templates": ["{colour}"], "attributes": {"colour": ["red"]}}},
        {"colour": ["red", "blue"]},
    ),
    "prompts.draws": ({"prompts": {"templates": ["a {prompt}"]}}, 2),
    "prompts.wildcards": ({}, True),
    "prompts.format.delimiter": ({}, ","),
    "prompts.format.quoting": ({}, '"'),
    "prompts.format.escape": ({}, "\\"),
    "prompts.format.comment": ({}, "#"),
    "prompts.carry": ({}, ["other"]),
    "prompts.limit": ({}, 1),
    "prompts.syntax": ({}, "a1111"),
    "sweep.mode": ({}, ["text-to-image"]),
    "model.path": ({}, str(YESTERDAY / "." / "model") + "/"),
    "model.dtype": ({}, "float16"),
    "model.quantization": ({}, "quanto_int8"),
    "generation.num_inference_steps": ({}, 3),
    "generation.guidance_scale": ({}, 3.0),
    "generation.negative_prompt": ({}, "blurry"),
    "generation.scheduler": ({}, "ddim"),
    "generation.width": ({}, 64),
    "generation.height": ({}, 64),
    "generation.batch_size": ({}, 3),
    "generation.images_per_prompt": ({}, 3),
    "score.0.clip": ({"score": [CLIP_SCORE]}, "builtin:shapes"),
    "score.0.relative": ({"score": [{"relative": f"local-dir:{CLIP}", "distractors": ["a"]}]}, "builtin:shapes"),
    "score.0.distractors": ({"score": [{"relative": f"local-dir:{CLIP}", "distractors": ["a"]}]}, ["b"]),
    "score.0.metric": ({"score": [{"metric": "image"}]}, "verified"),
    "score.0.python": ({"score": [{"python": "tests.heart.mill:OwnScore"}]}, "tests.heart.mill:OtherScore"),
    "score.0.name": ({"score": [CLIP_SCORE]}, "cosine"),
    "select.keep": ({"generation": {"images_per_prompt": 2}, "score": [CLIP_SCORE], "select": {"keep": 1}}, 2),
    "select.by": (
        {"score": [CLIP_SCORE, {**CLIP_SCORE, "name": "again"}], "select": {"keep": 1, "by": "clip"}},
        "again",
    ),
    "select.min": ({"score": [CLIP_SCORE], "select": {"keep": 1}}, 0.1),
    "select.where": (
        {"score": [CLIP_SCORE], "select": {"keep": 1, "where": [{"score": "clip", "at_least": 0.1}]}},
        [{"score": "clip", "at_least": 0.2}],
    ),
    "select.per_class": (
        {"prompts": {"columns": {"label": "other"}}, "score": [CLIP_SCORE], "select": {"per_class": 1}},
        2,
    ),
    "prompts.columns.image": ({}, "other"),
    "prompts.columns.mask": (WITH_IMAGE, "other"),
    "prompts.columns.strength": (WITH_IMAGE, "number"),
    "generation.strength": (WITH_IMAGE, 0.5),
    "generation.fit": (WITH_IMAGE, "stretch"),
    "generation.mask_blur": (WITH_MASK, 4.0),
    "generation.mask_crop": (WITH_MASK, 0),
    "sweep.mask_blur": (WITH_MASK, [2.0]),
    "sweep.mask_crop": (WITH_MASK, [8]),
    "sweep.strength": (WITH_IMAGE, [0.5]),
    "sweep.fit": (WITH_IMAGE, ["cover"]),
    "output.image_format": ({}, "webp"),
    "output.jpeg_quality": ({}, 90),
    "output.images_per_shard": ({}, 5),
    "output.embed_parameters": ({}, False),
    "output.embed_source_type": ({}, False),
    "output.keep_rejected_images": ({}, True),
    "sweep.model": ({}, [str(MODEL), {"path": str(MODEL), "dtype": "float16"}]),
    "sweep.num_inference_steps": ({}, [2, 3]),
    "sweep.guidance_scale": ({}, [1.0]),
    "sweep.negative_prompt": ({}, ["a"]),
    "sweep.scheduler": ({}, ["ddim"]),
    "sweep.width": ({}, [64]),
    "sweep.height": ({}, [64]),
    "sweep.batch_size": ({}, [2]),
    "sweep.images_per_prompt": ({}, [2]),
    "sweep.settings": ({"sweep": {"settings": {"a": {"width": 64}}}}, {"a": {"width": 32}}),
    "sweep.exclude": ({"sweep": {"width": [32, 64]}}, [{"width": 32}]),
}
TRIED_WITH_ROUNDS = "in tests/heart/test_balance.py"
NO_CHANGE: dict[str, Any] = {
    "name": "another",
    "model.offload": "model",
    "generation.mode": "text-to-image",
    "output.url": "memory://elsewhere",
    "output.keep_inputs": True,
    "curate": {"to": "memory://curated", "model": "builtin:shapes"},
    "compute.workers": 7,
    "compute.threads_per_worker": 2,
    "compute.gpus_per_worker": 0.5,
    "compute.max_attempts": 9,
    "compute.step_timeout_s": 1.0,
    "compute.max_failure_share": 0.9,
    "compute.wait_for_workers_s": 5.0,
    "compute.price_per_hour": 2.5,
    "compute.gpu_type": "H100",
    "compute.memory_gib": 8.0,
    "compute.niceness": 5,
}
TRIED_ELSEWHERE = {
    **dict.fromkeys(
        (
            "model.ip_adapter",
            *(f"{each}.reference_scale" for each in ("generation", "sweep", "prompts.columns")),
            "prompts.columns.reference_image",
        ),
        "they need an IP-Adapter, in tests/engine",
    ),
    **dict.fromkeys(
        (f"{each}.image_guidance_scale" for each in ("generation", "sweep")),
        "it needs a model that edits, in tests/engine",
    ),
    **dict.fromkeys((f"prompts.columns.control_{each}" for each in ("scale", "start", "end")), "they need a network"),
    "prompts.source": "its files are",
    "score.0.classifier": "it needs a folder, in tests/engine/test_classifier.py",
    "select.max_rounds": TRIED_WITH_ROUNDS,
    "compute.max_cost": "it needs a price, and all of compute is left out",
    "model.revision": "of hub models, in tests/models",
    "model.mirror": "in tests/engine/test_mirror.py",
    **dict.fromkeys(("model.license", "prompts.license"), "in tests/curation/test_provenance.py"),
    "model.device_map": "it needs two GPUs a worker, in tests/models/test_placing.py",
    "model.adapters": "they need a file, in tests/engine/test_adapters.py",
    "prompts.columns.adapter": "it needs adapters, in tests/engine/test_adapters.py",
    **dict.fromkeys(
        (
            *("model.controlnets", "prompts.columns.control_image"),
            *(f"{section}.control_{end}" for section in ("generation", "sweep") for end in ("scale", "start", "end")),
        ),
        "they need a network, in tests/engine/test_controls.py",
    ),
}


def plan_of(content: dict[str, Any], path: str = "", value: Any = None) -> Plan:
    """`path` of the content set to `value`; None removes it."""
    content = json.loads(json.dumps(content))
    *sections, last = path.split(".")
    here: Any = content
    for section in sections:
        here = here[int(section)] if isinstance(here, list) else here.setdefault(section, {})
    if path and value is None:
        here.pop(last)
    elif path:
        here[last] = value
    return plan_job(parse_job(json.dumps(content), "job.yaml"))


@pytest.fixture
def content(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.csv").write_text("prompt,other,number,id\na red circle,x,1,one\na star,y,2,two\n")
    return {
        "name": "small",
        "prompts": {"source": str(tmp_path / "p")},
        "model": {"path": str(MODEL)},
        "output": {"url": "memory://nowhere"},
    }


def with_more(content: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    merged = {**content}
    for section, value in more.items():
        merged[section] = {**merged.get(section, {}), **value} if isinstance(value, dict) else value
        if isinstance(value, dict):
            merged[section] = {name: item for name, item in merged[section].items() if item is not None}
    return merged


@pytest.mark.parametrize("field", CHANGES)
def test_a_field_that_changes_rows_changes_the_fingerprint(content: dict[str, Any], field: str) -> None:
    more, value = CHANGES[field]
    base = with_more(content, more)
    if field == "prompts.suite":
        ours, theirs = plan_of(base), plan_of(content)
    else:
        ours, theirs = plan_of(base), plan_of(base, field, value)
    assert ours.fingerprint != theirs.fingerprint
    named = field.removesuffix(".0").replace(".0.", "[0].").replace(".shapes.", ".suite.options.")
    assert any(name.startswith(named) for name, _, _ in differing_fields(ours.fields, theirs.fields))


@pytest.mark.parametrize("field", NO_CHANGE)
def test_how_a_job_runs_and_where_its_output_lies_changes_nothing(content: dict[str, Any], field: str) -> None:
    assert plan_of(content, field, NO_CHANGE[field]).fields == plan_of(content).fields
    assert plan_of(content, field, NO_CHANGE[field]).fingerprint == plan_of(content).fingerprint


def leaves(kind: type[BaseModel], place: str = "") -> Iterator[str]:
    for name, field in kind.model_fields.items():
        inner = {"score": scores_schema.Score, "select": scores_schema.Select}.get(name, field.annotation)
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from leaves(inner, f"{place}{name}." + ("0." if name == "score" else ""))
        else:
            yield f"{place}{name}"


def test_every_field_of_the_job_is_known_here() -> None:
    """A new field goes into CHANGES, or into NO_CHANGE where no row depends on it."""
    known = CHANGES.keys() | NO_CHANGE.keys() | TRIED_ELSEWHERE.keys()
    assert set(leaves(Job)) == known
    assert len(known) == len(CHANGES) + len(NO_CHANGE) + len(TRIED_ELSEWHERE)


def test_the_source_s_files_are_part_of_it(content: dict[str, Any], tmp_path: Path) -> None:
    base = plan_of(content)
    file = tmp_path / "p" / "a.csv"
    (told,) = base.fields["prompts"]["source"].items()
    assert told[0] == "a.csv"
    assert told[1] == {"size_bytes": file.stat().st_size, "rows": 2, "etag": told[1]["etag"]}
    text = file.read_text()
    file.write_text(text.replace("a star", "a moon"))  # as long as before, as many rows
    changed = plan_of(content)
    assert changed.fingerprint != base.fingerprint
    assert differing_fields(changed.fields, base.fields)[0][0] == "prompts.source.a.csv.etag"
    file.write_text(text)
    assert plan_of(content).fingerprint == base.fingerprint
    shutil.copy(file, tmp_path / "p" / "b.csv")
    assert plan_of(content).fingerprint != base.fingerprint
    (tmp_path / "p" / "b.csv").unlink()
    file.rename(tmp_path / "p" / "b.csv")
    assert plan_of(content).fingerprint != base.fingerprint


def test_where_the_source_lies_is_not(content: dict[str, Any], tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "p", tmp_path / "q")
    assert plan_of(content, "prompts.source", str(tmp_path / "q")).fingerprint == plan_of(content).fingerprint


def test_weights_are_part_of_it(content: dict[str, Any], tmp_path: Path) -> None:
    copies = {}
    for folder, section in ((MODEL, "model"), (CLIP, "clip")):
        copies[section] = tmp_path / section
        shutil.copytree(folder, copies[section])
    content["model"] = {"path": str(copies["model"])}
    content["score"] = [{"clip": f"local-dir:{copies['clip']}"}]
    base = plan_of(content)
    revision = base.models[0].revision
    assert base.fields["model"]["weights"] == [f"{copies['model']}@{revision}"]
    assert base.fields["score"][0]["weights"] == base.clips[0].revision
    for file in (copies["model"] / "unet" / "config.json", copies["clip"] / "open_clip_config.json"):
        text = file.read_text()
        file.write_text(text + " ")
        assert plan_of(content).fingerprint != base.fingerprint
        file.write_text(text)
    assert plan_of(content).fingerprint == base.fingerprint


def test_the_order_of_named_settings_numbers_the_variants(content: dict[str, Any]) -> None:
    one, two = {"a": {"width": 32}, "b": {"width": 64}}, {"b": {"width": 64}, "a": {"width": 32}}
    first, second = (plan_of(content, "sweep", {"settings": settings}) for settings in (one, two))
    assert first.fingerprint != second.fingerprint


def test_a_default_that_is_written_out_changes_nothing(content: dict[str, Any]) -> None:
    written = Job.model_validate({**content, "score": ()}).model_dump(mode="json", exclude_none=True)
    assert plan_job(parse_job(json.dumps(written), "job.yaml")).fingerprint == plan_of(content).fingerprint


def test_a_range_is_its_values(content: dict[str, Any]) -> None:
    listed = plan_of(content, "sweep", {"guidance_scale": [1.0, 2.0, 3.0]})
    assert plan_of(content, "sweep", {"guidance_scale": {"from": 1, "to": 3, "step": 1}}).fields == listed.fields


def test_the_fingerprint_is_the_hash_of_the_fields(content: dict[str, Any]) -> None:
    plan = plan_of(content)
    assert plan.fields["version"] == 1
    assert plan.fingerprint == fingerprint(plan.fields)
    assert fingerprint({"a": 1}) == "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"


def test_fields_that_differ_are_named() -> None:
    ours = {"a": {"b": 1, "c": [1, 2]}, "d": [{"e": 1}, {"e": 2}], "f": {}, "same": 5}
    theirs = {"a": {"b": 2, "c": [1, 3]}, "d": [{"e": 1}, {"e": 3}, {"e": 4}], "f": {"g": None}, "same": 5, "h": 0}
    assert differing_fields(ours, theirs) == [
        ("a.b", 1, 2),
        ("a.c", [1, 2], [1, 3]),
        ("d[1].e", 2, 3),
        ("d[2].e", None, 4),
        ("f", {}, None),
        ("h", None, 0),
    ]
    assert differing_fields(ours, ours) == []


# The job as a later version may have it: one field more in each section, none with a default of null.


class _Nested(schema.StrictModel):
    amount: float = 0.5
    """One of its own."""


def grown(section: type[BaseModel], **more: Any) -> Any:
    return create_model(section.__name__, __base__=section, later=(int, 7), parts=(_Nested, _Nested()), **more)


@functools.cache
def later_job() -> type[Job]:
    # A column that most sources lack can have no other default than null.
    columns = create_model("Columns", __base__=prompts_schema.Columns, later=(str | None, None))
    shapes = grown(prompts_schema.ShapesSuite)
    prompts = grown(prompts_schema.Prompts, columns=(columns, columns()), shapes=(shapes, shapes()))
    model, generation, score = (
        grown(generation_schema.Model),
        grown(generation_schema.Generation),
        grown(scores_schema.Score),
    )
    sweep = create_model(
        "Sweep", __base__=schema.Sweep, later=axis(int), model=axis(schema.Text | model), switch=(bool, True)
    )
    kind: type[Job] = grown(
        Job,
        prompts=(prompts, ...),
        model=(model, model()),
        generation=(generation, generation()),
        sweep=(sweep, sweep()),
        score=(Annotated[tuple[score, ...], Field(strict=False)], ()),
        select=(grown(scores_schema.Select) | None, None),
        output=(grown(schema.Output), ...),
        adapters=(tuple[model, ...], ()),
    )
    return kind


PLANS = json.loads((YESTERDAY / "promise.json").read_text())["plans"]


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.usefixtures("home")
def test_fields_that_come_later_change_no_older_fingerprint(name: str) -> None:
    said = PLANS[name]
    plan = plan_job(later_job().model_validate_json(json.dumps(as_read(said["job"]))))
    assert plan.job.later == 7  # type: ignore[attr-defined]
    assert plan.fields == said["fields"]
    assert plan.fingerprint == said["fingerprint"]


def as_read(written: dict[str, Any]) -> dict[str, Any]:
    """With ranges as their values, which the reader of the job file makes of them."""
    content: dict[str, Any] = parse_job(json.dumps(written), "job.yaml").model_dump(mode="json", exclude_unset=True)
    return content


@pytest.mark.parametrize(
    "place", ["", "prompts.", "model.", "generation.", "sweep.", "score.0.", "select.", "output.", "prompts.shapes."]
)
@pytest.mark.usefixtures("home")
def test_a_later_field_that_is_used_makes_another_job(place: str) -> None:
    written = as_read(PLANS[{"prompts.shapes.": "suite", "sweep.": "sweep"}.get(place, "scores")]["job"])
    used = json.loads(json.dumps(written))
    here = used
    for name in place.split(".")[:-1]:
        here = here[int(name)] if isinstance(here, list) else here.setdefault(name, {})
    here["later"] = [8] if place == "sweep." else 8
    if place != "sweep.":
        here["parts"] = {"amount": 0.25}
    kind = later_job()
    ours, theirs = (plan_job(kind.model_validate_json(json.dumps(content))) for content in (used, written))
    names = [name for name, _, _ in differing_fields(ours.fields, theirs.fields)]
    shown = place.replace(".0.", "[0].").replace(".shapes.", ".suite.options.")
    assert names == ([f"{shown}later"] if place == "sweep." else [f"{shown}later", f"{shown}parts.amount"])
    assert ours.fingerprint != theirs.fingerprint


def test_the_dataset_of_yesterday_is_joined_by_a_job_of_tomorrow(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from promptmill.pipeline.planning import plan_json

    kind = later_job()
    monkeypatch.setattr(plan_json, "Job", kind)
    written = parse_job((home / "job.yaml").read_text(), "job.yaml").model_dump(mode="json", exclude_unset=True)
    store = Store("dataset")
    joined = claim_output(plan_job(kind.model_validate_json(json.dumps(written))), store)
    assert joined.shards == 12
    assert missing_shards(joined, store) == []
    assert joined.job.generation.later == 7  # type: ignore[attr-defined]
    assert [entry.name for entry in store.list("segments")] == ["segments/000000006.json", "segments/000000009.json"]


def test_null_is_not_what_is_not_said() -> None:
    """A setting with `scheduler: null` draws with the model's own, and one that says nothing with the job's."""
    assert differing_fields({"a": {"b": None}}, {"a": {"c": 1}}) == [("a.c", None, 1)]
    assert differing_fields({"a": {"b": 1}}, {"a": {"b": 1, "c": None}}) == [("a.c", None, "null")]


def test_a_setting_that_takes_back_a_field_of_the_job_is_another_job(content: dict[str, Any]) -> None:
    content["generation"] = {**content.get("generation", {}), "scheduler": "ddim"}
    plans = [
        plan_of(
            {**content, "sweep": {"settings": {"a": {"num_inference_steps": 5, **more}, "b": {"guidance_scale": 2.0}}}}
        )
        for more in ({}, {"scheduler": None})
    ]
    assert plans[0].fingerprint != plans[1].fingerprint
    assert [name for name, *_ in differing_fields(plans[0].fields, plans[1].fields)] == ["sweep.settings[0].scheduler"]
