"""The published JSON Schema is current, and agrees with the loader about the example jobs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from promptmill.jobs.schema import SCHEMA_FILE, job_schema
from promptmill.pipeline.jobfile.reader import load_job, parse_job
from promptmill.schemas.errors import JobError
from tests.job_problems import JOB, NAME, OUTPUT, is_valid

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "jobs/examples").glob("*.yaml"))
SCHEMA: dict[str, Any] = json.loads(job_schema())


def test_the_published_schema_is_current() -> None:
    assert SCHEMA_FILE.read_text(encoding="utf-8") == job_schema(), "run: python -m promptmill.jobs.schema"


def test_the_schema_is_tidy() -> None:
    assert SCHEMA["title"] == "Promptmill job"
    assert "$id" not in SCHEMA
    axes = SCHEMA["$defs"]["Sweep"]["properties"]
    assert axes["guidance_scale"] == {
        "anyOf": [
            {"items": {"maximum": 1000, "minimum": 0, "type": "number"}, "minItems": 1, "type": "array"},
            {"$ref": "#/$defs/Range"},
            {"type": "null"},
        ],
        "description": "Values of `generation.guidance_scale` to try.",
    }
    assert axes["scheduler"] == {
        "description": "Values of `generation.scheduler` to try.",
        "items": {"minLength": 1, "type": ["string", "null"]},
        "minItems": 1,
        "type": ["array", "null"],
    }
    for section in SCHEMA["$defs"].values():
        assert all("description" in field and "title" not in field for field in section["properties"].values())


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_valid_for_the_loader_and_the_schema(path: Path) -> None:
    load_job(path)
    text = path.read_text(encoding="utf-8")
    assert is_valid(yaml.safe_load(text))
    first = text.splitlines()[0].removeprefix("# yaml-language-server: $schema=")
    assert (path.parent / first).resolve() == SCHEMA_FILE


@pytest.mark.parametrize(
    "lines",
    [
        "generation: {steps: 3}",
        "generation: {width: 4}",
        "generation: {guidance_scale: '3'}",
        "seed: true",
        "sweep: {width: []}",
        "sweep: {seed: [1]}",
        "sweep: {width: {from: 64, stp: 8}}",
        "sweep: {settings: {}}",
        "sweep: {settings: {a: {seed: 1}}}",
        "sweep: {width: [64, 72], exclude: [{heigth: 64}]}",
        "score: [{}]",
        "score: {clip: x}",
        "model: {dtype: fp16}",
        "compute: {workers: many}",
        "nonsense: 1",
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(lines: str) -> None:
    with pytest.raises(JobError):
        parse_job(JOB + lines, "job.yaml")
    assert not is_valid(yaml.safe_load(JOB + lines))


@pytest.mark.parametrize(
    "lines",
    [
        "generation:",
        "sweep:",
        "sweep: {width: [64, null]}",
        "sweep: {width: {from: 64, to: 128, step: 8}, settings: {a: , b: {scheduler: }}}",
        "sweep: {width: [64, 72], settings: {a: , b: {height: 64}}, exclude: [{settings: a, width: 64}]}",
        "prompts: {suite: shapes}",
        "prompts: {suite: shapes, shapes: }",
        "score:",
        "select:",
        "compute:",
    ],
)
def test_the_schema_accepts_what_the_loader_accepts(lines: str) -> None:
    text = (JOB if not lines.startswith("prompts") else NAME + OUTPUT) + lines
    parse_job(text, "job.yaml")
    assert is_valid(yaml.safe_load(text))


def test_the_demo_is_four_shards_of_prompts_that_its_model_knows() -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    from promptmill.jobs.examples.make_prompts import example_prompts
    from promptmill.pipeline.shapes.captions import parse

    job = load_job(ROOT / "jobs/examples/shapes.yaml")
    rows = [row for path in sorted(ROOT.glob(job.prompts.source)) for row in pq.read_table(path).to_pylist()]
    assert rows == example_prompts(), "run: python jobs/examples/make_prompts.py"
    assert len({row["prompt"] for row in rows}) == len(rows) == 64
    assert len(rows) * job.generation.images_per_prompt / job.output.images_per_shard >= 4
    for row in rows:
        parse(row["prompt"])
