"""The smallest job, and what is wrong with another."""

from __future__ import annotations

import json

import jsonschema  # type: ignore[import-untyped]
import pytest

from promptmill.jobs.schema import job_schema
from promptmill.pipeline.jobfile.reader import parse_job
from promptmill.schemas.errors import JobError, Problem

NAME, PROMPTS, OUTPUT = "name: a\n", "prompts: {source: p.txt}\n", "output: {url: out/x}\n"
JOB = NAME + PROMPTS + OUTPUT


def problems(text: str, *overrides: str) -> list[Problem]:
    with pytest.raises(JobError) as caught:
        parse_job(text, "job.yaml", overrides)
    return [problem for problem in caught.value.problems if isinstance(problem, Problem)]


def only(text: str, *overrides: str) -> Problem:
    found = problems(text, *overrides)
    assert len(found) == 1, [str(problem) for problem in found]
    return found[0]


def is_valid(job: object) -> bool:
    """By the published JSON Schema, as an editor sees it."""
    schema = json.loads(job_schema())
    jsonschema.Draft202012Validator.check_schema(schema)
    return bool(jsonschema.Draft202012Validator(schema).is_valid(job))
