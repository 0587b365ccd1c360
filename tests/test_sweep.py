"""A sweep as it is written: lists, ranges, named settings, exclusions, and what is wrong with one."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from promptmill.pipeline.jobfile.reader import parse_job
from promptmill.pipeline.planning.plan import plan_job
from promptmill.pipeline.planning.variants import (
    count,
    images_per_prompt,
    swept_models,
    tally,
    values_at,
)
from promptmill.schemas.job import Job
from tests.job_problems import JOB, OUTPUT, only, problems


def job_with(sweep: str, more: str = "") -> Job:
    return parse_job(f"{JOB}{more}sweep: {sweep}\n", "job.yaml")


def cells(job: Job) -> list[dict[str, Any]]:
    return [values_at(job, index) for index in range(count(job))]


@pytest.mark.parametrize(
    ("written", "values"),
    [
        ("guidance_scale: {from: 1, to: 9, step: 2}", (1.0, 3.0, 5.0, 7.0, 9.0)),
        ("guidance_scale: {from: 0.1, to: 0.5, step: 0.1}", (0.1, 0.2, 0.3, 0.4, 0.5)),
        ("guidance_scale: {from: 0, to: 1, count: 4}", (0.0, 1 / 3, 2 / 3, 1.0)),
        ("guidance_scale: {from: 2, to: 1, step: -0.5}", (2.0, 1.5, 1.0)),
        ("guidance_scale: {from: 3, to: 3, step: 1}", (3.0,)),
        ("num_inference_steps: {from: 10, to: 35, step: 10}", (10, 20, 30)),
        ("num_inference_steps: {from: 30, to: 10, count: 3}", (30, 20, 10)),
        ("width: {from: 64, to: 128, step: 32}", (64, 96, 128)),
    ],
)
def test_range(written: str, values: tuple[float, ...]) -> None:
    (found,) = job_with(f"{{{written}}}").sweep.axes().values()
    assert found == values
    assert [type(value) for value in found] == [type(value) for value in values]


@settings(max_examples=200, deadline=None)
@given(st.decimals(0, 900, places=2), st.decimals("0.01", 50, places=2), st.integers(1, 40))
def test_a_range_has_the_decimals_that_were_meant(start: Decimal, step: Decimal, count: int) -> None:
    stop = min(start + step * (count - 1), Decimal(1000))
    written = json.dumps({"guidance_scale": {"from": float(start), "to": float(stop), "step": float(step)}})
    wanted = [float(start + step * i) for i in range(int((stop - start) / step) + 1)]
    assert list(job_with(written).sweep.axes()["guidance_scale"]) == wanted


SETTINGS = """{
  guidance_scale: [1.0, 5.0],
  settings: {fast: {num_inference_steps: 8, scheduler: ddim}, plain: , wide: {width: 128, images_per_prompt: 3}},
  exclude: [{settings: fast, guidance_scale: 5}],
}"""


def test_named_settings_go_together_and_keep_their_name() -> None:
    job = job_with(SETTINGS)
    fast = {"settings": "fast", "num_inference_steps": 8, "scheduler": "ddim"}
    wide = {"settings": "wide", "width": 128, "images_per_prompt": 3}
    assert cells(job) == [
        {**fast, "guidance_scale": 1.0},
        {"settings": "plain", "guidance_scale": 1.0},
        {"settings": "plain", "guidance_scale": 5.0},
        {**wide, "guidance_scale": 1.0},
        {**wide, "guidance_scale": 5.0},
    ]
    assert images_per_prompt(job) == {1: 3, 3: 2}
    assert tally(job, "scheduler", "width") == {("ddim", None): 1, (None, None): 2, (None, 128): 2}


def test_a_job_with_settings_and_exclusions_survives_being_written_and_read() -> None:
    job = job_with(SETTINGS)
    written = job.model_dump(mode="json")
    assert written["sweep"]["settings"]["fast"] == {"num_inference_steps": 8, "scheduler": "ddim"}
    again = parse_job(json.dumps(written), "job.yaml")
    assert again == job
    assert cells(again) == cells(job)


def fields_of(sweep: str) -> tuple[str, Any]:
    plan = plan_job(parse_job(f"name: a\n{OUTPUT}prompts: {{suite: shapes}}\nsweep: {sweep}\n", "job.yaml"))
    return plan.fingerprint, plan.fields["sweep"]


def test_what_the_fingerprint_knows_of_a_sweep() -> None:
    assert fields_of("{}")[1] == {}
    assert fields_of("{guidance_scale: [1, 2.0, 3], scheduler: [null, ddim]}")[1] == {
        "guidance_scale": [1.0, 2.0, 3.0],
        "scheduler": [None, "ddim"],
    }
    assert fields_of("{guidance_scale: [1, 2, 3]}") == fields_of("{guidance_scale: {from: 1, to: 3, step: 1}}")
    one, other = "a: {width: 64}", "b: {width: null}"
    first, again = fields_of(f"{{settings: {{{one}, {other}}}}}"), fields_of(f"{{settings: {{{other}, {one}}}}}")
    assert first[1] == {"settings": [{"name": "a", "width": 64}, {"name": "b", "width": None}]}
    assert first[0] != again[0]  # their order numbers the shards


def test_a_job_without_suite_has_the_fields_it_always_had() -> None:
    text = f"name: a\n{OUTPUT}prompts: {{source: jobs/examples/prompts/*.parquet}}\n"
    assert plan_job(parse_job(text, "job.yaml")).fields["prompts"].keys() == {"source", "columns", "limit"}


def test_settings_with_one_model_are_neighbours() -> None:
    job = job_with("{settings: {a: {model: x}, b: {model: {path: y}}, c: {model: x, width: 64}, d: }}")
    assert [cell["settings"] for cell in cells(job)] == ["a", "c", "b", "d"]
    assert [model.path for model in swept_models(job)] == ["x", "y", "builtin:shapes"]


def test_an_excluded_model_goes_by_its_path() -> None:
    sweep = "{model: [x, {path: y, dtype: float32}, y], width: [64, 72], exclude: [{model: y, width: 72}]}"
    assert [cell["width"] for cell in cells(job_with(sweep))] == [64, 72, 64, 64]


@pytest.mark.parametrize(
    ("sweep", "where", "expected", "got"),
    [
        ("{guidance_scale: {from: 5, to: 1, step: 1}}", "guidance_scale.step", "a number below 0", "1.0"),
        ("{guidance_scale: {from: 1, to: 5, step: -1}}", "guidance_scale.step", "a number above 0", "-1.0"),
        ("{guidance_scale: {from: 1, to: 5, step: 0}}", "guidance_scale.step", "a number above 0", "0.0"),
        ("{guidance_scale: {from: 1, to: 5}}", "guidance_scale", "either `step` or `count`", "neither"),
        ("{guidance_scale: {from: 1, to: 5, step: 1, count: 2}}", "guidance_scale.count", "either", "both"),
        ("{guidance_scale: {from: 2, to: 2, count: 3}}", "guidance_scale.to", "another number", "2.0"),
        ("{guidance_scale: {from: 1, to: 5, count: 1}}", "guidance_scale.count", "an integer from 2", "1"),
        ("{guidance_scale: {from: a, to: 5, step: 1}}", "guidance_scale.from", "a number", "the string 'a'"),
        ("{guidance_scale: {from: .nan, to: 5, step: 1}}", "guidance_scale.from", "a number", ".nan"),
        ("{guidance_scale: {from: 0, to: 9, step: 0.0001}}", "guidance_scale", "at most 10,000", "90,001"),
        ("{guidance_scale: {to: 9, step: 1}}", "guidance_scale.from", "a number", "nothing"),
        ("{guidance_scale: {from: 1, too: 9, to: 2, step: 1}}", "guidance_scale.too", "a field of", "the unknown key"),
        ("{num_inference_steps: {from: 1, to: 2000, step: 900}}", "num_inference_steps", "numbers that", "1801"),
        ("{num_inference_steps: {from: 1, to: 2, step: 0.5}}", "num_inference_steps", "numbers that", "1.5, number 2"),
        ("{scheduler: {from: 1, to: 2, step: 1}}", "scheduler", "a list (each a non-empty string", "a mapping"),
        ("{settings: {a: {widht: 64}}}", "settings.a.widht", "a field of `sweep.settings.a`", "the unknown key"),
        ("{settings: {a: {width: 4}}}", "settings.a.width", "an integer from 8", "4"),
        ("{settings: {a: {model: {pth: x}}}}", "settings.a.model.pth", "a field of `model`", "the unknown key"),
        ("{settings: {a: {width: 64}}, width: [72]}", "settings.a.width", "a field that is no axis", "`width`"),
        ("{settings: {a: {width: 64}, b: {width: 64}}}", "settings.b", "settings that differ", "those of 'a'"),
        ("{settings: {}}", "settings", "a mapping of names", "an empty mapping"),
        ("{settings: [fast]}", "settings", "a mapping of names", "a list"),
        ("{exclude: [{width: 64}]}", "exclude.0.width", "a field that is swept", "`width`"),
        ("{width: [64], exclude: [{width: 72}]}", "exclude.0.width", "a value of that axis (64)", "72"),
        ("{width: [64], exclude: [{widht: 64}]}", "exclude.0.widht", "a field of", "the unknown key"),
        ("{width: [64], exclude: [{}]}", "exclude.0", "at least one field", "an empty mapping"),
        ("{width: [64, 72], exclude: [{width: 64}, {width: 72}]}", "exclude", "at least one variant", "none of 2"),
        ("{settings: {a: {width: 64}, b: }, exclude: [{width: 64}]}", "exclude.0.width", "a field that is", "`width`"),
        ("{settings: {a: {width: 64}, b: }, exclude: [{settings: c}]}", "exclude.0.settings", "a value of", "'c'"),
    ],
)
def test_what_is_wrong_with_a_sweep(sweep: str, where: str, expected: str, got: str) -> None:
    problem = only(f"{JOB}sweep: {sweep}\n")
    assert problem.where == f"job.yaml:4: sweep.{where}"
    assert problem.expected.startswith(expected)
    assert problem.got.startswith(got)


def test_every_wrong_thing_at_once() -> None:
    found = problems(JOB + "sweep: {width: {from: 9, to: 8, step: 1}, settings: {a: {x: 1}}, exclude: [{height: 64}]}")
    assert {problem.where.removeprefix("job.yaml:4: sweep.") for problem in found} == {"width.step", "settings.a.x"}


def test_settings_bound_what_can_be_kept() -> None:
    more = "generation: {images_per_prompt: 4}\nscore: [{clip: x}]\nselect: {keep: 3}\n"
    found = only(f"{JOB}{more}sweep: {{settings: {{few: {{images_per_prompt: 2}}}}}}\n")
    assert found.expected == "at most 2, the images per prompt"


def test_a_sweep_of_a_job_file_is_data() -> None:
    assert yaml.safe_load(SETTINGS)["exclude"] == [{"settings": "fast", "guidance_scale": 5}]
