"""`--set key.path=value`, checked like a line of the file."""

from __future__ import annotations

import pytest

from promptmill.pipeline.jobfile.reader import parse_job
from promptmill.schemas.generation import Model
from tests.job_problems import JOB, OUTPUT, only, problems

_SIZE = "an integer from 8 to 16384 or null"


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("generation.guidance_scale=3.5", "generation.guidance_scale", 3.5),
        ("output.url=s3://b/x", "output.url", "s3://b/x"),
        ("name=#1: no, *really*", "name", "#1: no, *really*"),
        ("name= b ", "name", "b"),
        ('generation.negative_prompt=""', "generation.negative_prompt", ""),
        ('name="12"', "name", "12"),
        ("select.keep=1", "select.keep", 1),
        ("select=", "select", None),
        ("prompts.columns={id: key}", "prompts.columns.id", "key"),
        ("sweep.guidance_scale=[1,5]", "sweep.guidance_scale", (1.0, 5.0)),
        ("sweep.guidance_scale.0=3", "sweep.guidance_scale", (3.0,)),
        ("sweep.model=[x, {path: y}]", "sweep.model", ("x", Model(path="y"))),
        ("score.0.clip=x", "score.0.clip", "x"),
        ("score.1.clip=x", "score.1.clip", "x"),
        ("score[0].clip=x", "score.0.clip", "x"),
        ("sweep.guidance_scale[0]=3", "sweep.guidance_scale", (3.0,)),
        ("score.1={clip: x, name: y}", "score.1.name", "y"),
        ("compute.workers=2", "compute.workers", 2),
    ],
)
def test_override(override: str, path: str, value: object) -> None:
    text = JOB + "score: [{clip: c}]\nsweep:\nselect: null\n"
    overrides = [override, "score.1.name=b"] if override == "score.1.clip=x" else [override]
    found: object = parse_job(text, "job.yaml", overrides)
    for part in path.split("."):
        found = found[int(part)] if isinstance(found, tuple) else getattr(found, part)
    assert found == value


@pytest.mark.parametrize(
    ("override", "expected", "got", "hint"),
    [
        ("foo", "FIELD=VALUE such as generation.guidance_scale=3.5", "no `=`", ""),
        ("=3", "FIELD=VALUE such as generation.guidance_scale=3.5", "an empty part of the key", ""),
        ("[0].clip=3", "FIELD=VALUE such as generation.guidance_scale=3.5", "an empty part of the key", ""),
        ("score[3].clip=x", "a position in the list `score`", "`3`", None),
        ("a..b=3", "FIELD=VALUE such as generation.guidance_scale=3.5", "an empty part of the key", ""),
        (
            "generation.steps=3",
            "a field of `generation`",
            "the unknown key `steps`",
            "Did you mean `num_inference_steps`?",
        ),
        ("genration.width=64", "a field of the job", "the unknown key `genration`", "Did you mean `generation`?"),
        ("generation.width=4", _SIZE, "4", ""),
        ("sweep.width=[8", "YAML", None, "Brackets need commas between their items and a closing bracket."),
        ("sweep.width=[8, x]", _SIZE, "the string 'x'", ""),
        ("sweep={width: [8], width: [9]}", "each key once", "a second one", "Remove one of the two."),
        ("sweep.width=[&a 8]", "a value", "the anchor &a", None),
        ("name.x=3", "a mapping at `name`", "the string 'a'", ""),
        ("score.3.clip=x", "a position in the list `score`", "`3`", "`score.0` is the first, `score.0` adds one."),
        ("score.0000000000005.clip=x", "a position in the list `score`", None, None),
        ("score.9999999999.clip=x", "a position in the list `score`", None, None),
        ("score.clip=x", "a position in the list `score`", "`clip`", None),
        ("generation.negative_prompt=", "a string", "null", 'Write "" for an empty text.'),
        ('name="\udc80"', "text", "the control character \\udc80", None),
        ("name=\udc80", "text", "the control character \\udc80", None),
        ("na\x1bme=x", "FIELD=VALUE such as generation.guidance_scale=3.5", "control characters", ""),
        ("seed=" + "9" * 500, "a number of at most 400 digits", "500 digits", ""),
    ],
)
def test_override_that_is_refused(override: str, expected: str, got: str | None, hint: str | None) -> None:
    problem = only(JOB, override)
    assert problem.where.startswith("--set " + override.partition("=")[0][:2])
    assert problem.where.isprintable()
    assert len(problem.where) < 120
    assert problem.expected == expected
    assert got is None or problem.got == got
    assert hint is None or problem.hint == hint


def test_the_last_override_wins_and_mends_the_file() -> None:
    job = parse_job(
        "name: 3\nprompts: 5\n" + OUTPUT, "job.yaml", ["name=b", "prompts={source: x}", "name=c", "prompts.limit=2"]
    )
    assert (job.name, job.prompts.source, job.prompts.limit) == ("c", "x", 2)


def test_an_override_inside_a_value_of_the_file_leaves_the_rest_its_lines() -> None:
    found = problems(JOB + "generation:\n  width: 3\n  height: 3\n", "generation.width=4")
    assert [each.where for each in found] == ["job.yaml:6: generation.height", "--set generation.width=4"]


def test_no_password_is_repeated() -> None:
    problem = only(JOB, "output.path=s3://me:hunter2@host/x" + "y" * 100)
    assert problem.where.startswith("--set output.path=s3://***@host/xyyy")
    assert only(JOB, "seed=https://me:" + "hunter2" * 30 + "@host").got == "the string 'https://***@host'"
