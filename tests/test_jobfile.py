"""A job file becomes a `Job`, or one JobError that names every problem with its line."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.job_fields import describe_fields
from pipeline.jobfile import MAX_PROBLEMS, load_job, parse_job
from pipeline.yaml_lines import MAX_EVENTS
from schemas.errors import JobError, Problem
from schemas.job import Job, Model

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


def test_the_smallest_job() -> None:
    job = parse_job(JOB, "job.yaml")
    assert (job.name, job.prompts.source, job.output.url) == ("a", "p.txt", "out/x")
    assert job == Job.model_validate(yaml.safe_load(JOB))


# Scalars --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        *((word, word) for word in ("no", "yes", "on", "off", "NO", "y", "2024-01-01", "1:30", "1_000", "0o8", "=")),
        ("builtin:shapes", "builtin:shapes"),
        ("'12'", "12"),
        ('"\\u00e9\\n"', "é\n"),
        ("|\n  two\n  lines", "two\nlines\n"),
        ('"\\ud83d\\ude00"', "😀"),
    ],
)
def test_text_stays_text(written: str, meant: str) -> None:
    assert parse_job(f"name: {written}\n" + PROMPTS + OUTPUT, "job.yaml").name == meant


@pytest.mark.parametrize(("written", "meant"), [("012", 12), ("0x1F", 31), ("0o17", 15), ("+3", 3), ("-0", 0)])
def test_integers_are_those_of_yaml_1_2(written: str, meant: int) -> None:
    assert parse_job(JOB + f"seed: {written}\n", "job.yaml").seed == meant


@pytest.mark.parametrize(("written", "meant"), [("1e2", 100.0), ("7", 7.0), (".5", 0.5), ("5.", 5.0), ("1.5E+1", 15.0)])
def test_floats_are_those_of_yaml_1_2(written: str, meant: float) -> None:
    job = parse_job(JOB + f"generation: {{guidance_scale: {written}}}\n", "job.yaml")
    assert job.generation.guidance_scale == meant


# Values ---------------------------------------------------------------------------------------------------------------

_STEPS = "an integer from 1 to 1000"
_SIZE = "an integer from 8 to 16384 or null"
_GUIDANCE = "a number from 0 to 1000"


@pytest.mark.parametrize(
    ("line", "where", "expected", "got", "hint"),
    [
        ("generation: {num_inference_steps: 0}", "generation.num_inference_steps", _STEPS, "0", ""),
        ("generation: {num_inference_steps: -3}", "generation.num_inference_steps", _STEPS, "-3", ""),
        ("generation: {num_inference_steps: true}", "generation.num_inference_steps", _STEPS, "true", ""),
        (
            "generation: {num_inference_steps: '20'}",
            "generation.num_inference_steps",
            _STEPS,
            "the string '20'",
            "Remove the quotes.",
        ),
        (
            "generation: {num_inference_steps: 1_000}",
            "generation.num_inference_steps",
            _STEPS,
            "the string '1_000'",
            "",
        ),
        ("generation: {width: 64.0}", "generation.width", _SIZE, "64.0", "Write 64."),
        ("generation: {guidance_scale: .nan}", "generation.guidance_scale", _GUIDANCE, ".nan", ""),
        ("generation: {guidance_scale: .inf}", "generation.guidance_scale", _GUIDANCE, ".inf", ""),
        ("generation: {guidance_scale: 1e999}", "generation.guidance_scale", _GUIDANCE, "1e999", ""),
        ("generation: {guidance_scale: no}", "generation.guidance_scale", _GUIDANCE, "the string 'no'", ""),
        (
            "generation: {scheduler: 5}",
            "generation.scheduler",
            "a non-empty string or null",
            "5",
            'Put it in quotes: "5".',
        ),
        (
            "generation: {negative_prompt: }",
            "generation.negative_prompt",
            "a string",
            "null",
            'Write "" for an empty text.',
        ),
        ("generation: 3", "generation", None, "3", ""),
        (
            "model: {revision: 012345}",
            "model.revision",
            "a non-empty string or null",
            "012345",
            'Put it in quotes: "012345".',
        ),
        (
            "model: {dtype: fp16}",
            "model.dtype",
            "auto, float32, bfloat16 or float16",
            "the string 'fp16'",
            "Did you mean float16?",
        ),
        ("compute: {workers: x}", "compute.workers", "an integer from 1 to 100000 or auto", "the string 'x'", ""),
        ("compute: {workers: atuo}", "compute.workers", None, "the string 'atuo'", "Did you mean auto?"),
        ("compute: {gpus_per_worker: -1}", "compute.gpus_per_worker", "a number from 0 to 64 or auto", "-1", ""),
        ("compute: {step_timeout_s: 0}", "compute.step_timeout_s", "a number above 0", "0", ""),
        ("compute: {max_failure_share: 2}", "compute.max_failure_share", "a number above 0 and at most 1", "2", ""),
        ("seed: -1", "seed", "an integer from 0 to 9007199254740991", "-1", ""),
        ("prompts: {source: p, limit: 0}", "prompts.limit", "an integer of at least 1 or null", "0", ""),
        ("output: {url: o, embed_parameters: yes}", "output.embed_parameters", "true or false", None, "Write true."),
        ("output: {url: o, image_format: jpg}", "output.image_format", "png, webp or jpeg", None, "Did you mean jpeg?"),
        ("output: {url: ''}", "output.url", "a non-empty string", "an empty string", ""),
        ("name: false", "name", "a non-empty string of at most 200 characters", "false", 'Put it in quotes: "false".'),
        (
            "score: {clip: x}",
            "score",
            "a list (each a mapping (clip, name))",
            "a mapping (clip)",
            "Write it as a list: [ … ].",
        ),
        ("sweep: {width: []}", "sweep.width", f"a list (each {_SIZE})", "an empty list", ""),
        ("sweep: {width: 64}", "sweep.width", f"a list (each {_SIZE})", "64", "Write it as a list: [ … ]."),
        ("sweep: {guidance_scale: [1, q]}", "sweep.guidance_scale.1", _GUIDANCE, "the string 'q'", ""),
        ("sweep: {model: [1]}", "sweep.model.0", "a non-empty string or a mapping (path, revision, dtype)", "1", None),
        ("sweep: {model: [x, {path: ''}]}", "sweep.model.1.path", "a non-empty string", "an empty string", ""),
        ("prompts: {source: p, columns: {image: i}}", "prompts.columns.image", "null", "'i'", None),
    ],
)
def test_wrong_value(line: str, where: str, expected: str | None, got: str | None, hint: str | None) -> None:
    key = line.split(":")[0]
    base = "".join(each for each in (NAME, PROMPTS, OUTPUT) if not each.startswith(key))
    problem = only(base + line)
    assert problem.where == f"job.yaml:{base.count(chr(10)) + 1}: {where}"
    for found, wanted in ((problem.expected, expected), (problem.got, got), (problem.hint, hint)):
        assert wanted is None or found == wanted


def test_values_are_shown_short_and_without_control_characters() -> None:
    problem = only(JOB + 'seed: "' + "\\e[31m\\u202e" + "x" * 500 + '"')
    assert problem.got.startswith("the string '\\x1b[31m\\u202exxx")
    assert problem.got.isprintable() and len(problem.got) < 100


# Keys -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "key", "hint"),
    [
        ("generation: {steps: 3}", "generation.steps", "Did you mean `num_inference_steps`?"),
        ("generation: {guidence_scale: 3}", "generation.guidence_scale", "Did you mean `guidance_scale`?"),
        ("generation: {cfg_scale: 3}", "generation.cfg_scale", "Did you mean `guidance_scale`?"),
        ("generation: {Width: 64}", "generation.Width", "Did you mean `width`?"),
        ("generation: {seed: 3}", "generation.seed", "`seed` belongs at the top level of the job."),
        ("guidance_scale: 3", "guidance_scale", "`guidance_scale` belongs under `generation`."),
        ("guidance-scale: 3", "guidance-scale", "Did you mean `generation.guidance_scale`?"),
        ("columns: {}", "columns", "`columns` belongs under `prompts`."),
        ("genration: {}", "genration", "Did you mean `generation`?"),
        ("score: [{clipp: x, clip: y}]", "score.0.clipp", "Did you mean `clip`?"),
        ("model: {name: x}", "model.name", "Did you mean `path`?"),
        ("sweep: {model: [{pth: x}]}", "sweep.model.0.pth", "Did you mean `path`?"),
        ("sweep: {frobs: [1]}", "sweep.frobs", "Its fields are: model, num_inference_steps, "),
        ("sweep: {seed: [1, 2]}", "sweep.seed", "Seeds are no axis: "),
        ("xyzzy: 1", "xyzzy", "The job's fields are: name, seed, prompts, "),
        ("1: 1", "1", "The job's fields are: "),
        ("'': 1", "", "The job's fields are: "),
    ],
)
def test_unknown_key(line: str, key: str, hint: str) -> None:
    problem = only(JOB + line)
    assert problem.where == f"job.yaml:4: {key}".rstrip(": ")
    assert problem.got == f"the unknown key `{key.split('.')[-1]}`"
    assert problem.hint.startswith(hint)
    section = ".".join(part for part in key.split(".")[:-1] if not part.isdigit()).replace("sweep.model", "model")
    assert problem.expected == (f"a field of `{section}`" if section else "a field of the job")


def test_missing_keys_point_at_their_section() -> None:
    text = "# a comment\nname: a\nprompts:\n  limit: 3\nscore:\n  - name: x\n"
    found = problems(text)
    assert [(each.where, each.got) for each in found] == [
        ("job.yaml:2: output", "nothing"),
        ("job.yaml:3: prompts.source", "nothing"),
        ("job.yaml:6: score.0.clip", "nothing"),
    ]
    assert found[0].expected.startswith("a mapping (url, image_format, ")
    assert found[1].hint.startswith("File, folder, glob or URL")


def test_a_section_with_all_lines_commented_out_takes_its_defaults() -> None:
    text = JOB + "model:\ngeneration:\n  # width: 3\nsweep:\nscore:\nselect:\ncompute:\n"
    assert parse_job(text, "job.yaml") == parse_job(JOB, "job.yaml")
    assert only(NAME + OUTPUT + "prompts:\n").where == "job.yaml:3: prompts.source"


# Rules between fields -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "where", "expected", "got"),
    [
        ("score: [{clip: x}]\nselect: {keep: 3}", "job.yaml:5: select.keep", "at most 1, the images per prompt", "3"),
        ("select: {}", "job.yaml:4: select.by", "the name of a score (this job has none)", "'clip'"),
        ("score: [{clip: x}]\nselect: {by: aes}", "job.yaml:5: select.by", "the name of a score (clip)", "'aes'"),
        ("score:\n- clip: x\n- clip: y", "job.yaml:6: score.1.name", "names that differ", "'clip' twice"),
        ("sweep: {width: [64, 72, 64]}", "job.yaml:4: sweep.width.2", "values that differ", "64"),
        ("sweep: {guidance_scale: [1, 1.0]}", "job.yaml:4: sweep.guidance_scale.1", "values that differ", "1.0"),
        ("sweep: {model: [x, {path: x}]}", "job.yaml:4: sweep.model.1", "values that differ", "path='x'"),
    ],
)
def test_rule_between_fields(lines: str, where: str, expected: str, got: str) -> None:
    problem = only(JOB + lines)
    assert (problem.where, problem.expected) == (where, expected)
    assert problem.got.startswith(got)


def test_a_sweep_of_images_per_prompt_bounds_what_can_be_kept() -> None:
    lines = "score: [{clip: x}]\ngeneration: {images_per_prompt: 8}\nsweep: {images_per_prompt: [2, 4]}\nselect: {keep: 3}\n"
    assert only(JOB + lines).expected == "at most 2, the images per prompt"


def test_rules_are_checked_beside_other_mistakes_but_not_on_top_of_them() -> None:
    both = problems(JOB + "seed: x\nscore: [{clip: x}]\nselect: {keep: 3}\n")
    assert [each.where for each in both] == ["job.yaml:4: seed", "job.yaml:6: select.keep"]
    # `keep` may be right once `images_per_prompt` is.
    wrong = "generation: {images_per_prompt: '8'}\nscore: [{clip: x}]\nselect: {keep: 3}\n"
    assert only(JOB + wrong).where == "job.yaml:4: generation.images_per_prompt"
    assert (
        only(PROMPTS + OUTPUT + "select: {by: x}\nscore: [{clip: 3, name: x}]\nname: a\n").where
        == "job.yaml:4: score.0.clip"
    )


def test_all_problems_at_once_in_the_order_of_the_file() -> None:
    found = problems("seed: x\nfoo: 1\nname: 3\nname: b\nprompts: {}\ngeneration: {width: 3}\n", "seed=-1", "bad")
    assert [each.where.removeprefix("job.yaml:") for each in found] == [
        "1: output",
        "2: foo",
        "3: name",
        "4: name",
        "5: prompts.source",
        "6: generation.width",
        "--set seed=-1",
        "--set bad",
    ]


def test_endless_problems_are_counted() -> None:
    with pytest.raises(JobError) as caught:
        parse_job(JOB + "".join(f"k{n}: 1\n" for n in range(200)), "job.yaml")
    assert len(caught.value.problems) == MAX_PROBLEMS + 1
    assert caught.value.problems[-1] == "… and 150 more"


# YAML -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "where", "expected", "got"),
    [
        (JOB + "name: b\n", "job.yaml:4: name", "each key once", "a second one; the first is on line 1"),
        (
            JOB + "model:\n  path: x\n  path: y\n",
            "job.yaml:6: model.path",
            "each key once",
            "a second one; the first is on line 5",
        ),
        ("name: &n a\n" + PROMPTS + OUTPUT, "job.yaml:1: name", "a value", "the anchor &n"),
        ("name: *n\n" + PROMPTS + OUTPUT, "job.yaml:1: name", "a value", "the alias *n"),
        (
            "name: !!str 5\n" + PROMPTS + OUTPUT,
            "job.yaml:1: name",
            "a value without a tag",
            "the tag tag:yaml.org,2002:str",
        ),
        (
            "name: !!python/object/apply:os.system [ls]\n" + PROMPTS + OUTPUT,
            "job.yaml:1: name",
            "a value without a tag",
            None,
        ),
        (JOB + "<<: {seed: 1}\n", "job.yaml:4", "plain keys", "the merge key <<"),
        (JOB + "? [a, b]\n: 1\n", "job.yaml:4", "plain keys", "a list or mapping as a key"),
        (JOB + "---\n" + JOB, "job.yaml:4", "one job", "a second YAML document"),
        (JOB + "seed: " + "9" * 5000, "job.yaml:4: seed", "a number of at most 400 digits", "5000 digits"),
        (JOB + "model: {path: '\x1b[31m'}", "job.yaml:4", "text", "the control character \\x1b"),
        (JOB + 'model: {path: "a\\0b"}', "job.yaml:4: model.path", "Unicode text", None),
        (JOB + 'model: {path: "\\ud800"}', "job.yaml:4: model.path", "Unicode text", None),
        ("prompts:\n\tsource: x\n", "job.yaml:2", "spaces for indentation", "a tab"),
        ("name: a: b\n", "job.yaml:1", "YAML", "a syntax error at column 8: mapping values are not allowed here"),
        ("name: a\nmodel: [1, 2\n", "job.yaml:2", "YAML", None),
        ("name: 'a\nmodel: 3\n", "job.yaml:1", "YAML", "a syntax error at column 7: found unexpected end of stream"),
        ("name: a\nseed\nmodel: {}\n", "job.yaml:2", "YAML", "a syntax error at column 1: could not find expected ':'"),
        ('name: "\\UFFFFFFFF"\n', "job.yaml:1", "YAML", None),
        (JOB + "model: " + "[" * 100_000, "job.yaml:4: model.0.0", "at most 32 levels", "deeper nesting"),
        (JOB + "? " * 100_000, "job.yaml:4", "plain keys", None),
        (JOB + "model: [" + "1," * MAX_EVENTS, "job.yaml:4", "at most 20000 values", "more"),
        ("- a\n", "job.yaml:1", "a mapping of fields at the top level", "a list"),
        ("a red circle\n", "job.yaml:1", "a mapping of fields at the top level", "the string 'a red circle'"),
        ("", "job.yaml", "a job", "an empty file"),
        (" \n\n", "job.yaml", "a job", "an empty file"),
        ("# nothing yet\n", "job.yaml", "a job", "no fields"),
    ],
)
def test_yaml_that_is_refused(text: str, where: str, expected: str, got: str | None) -> None:
    problem = problems(text)[0]
    assert (problem.where, problem.expected) == (where, expected)
    assert got is None or problem.got == got


def test_an_alias_bomb_is_refused_without_being_expanded() -> None:
    bomb = JOB + "a: &a [x, x, x, x, x, x, x, x, x]\n"
    for last, this in zip("abcdefgh", "bcdefghi", strict=True):
        bomb += f"{this}: &{this} [{', '.join([f'*{last}'] * 9)}]\n"
    got = {each.got for each in problems(bomb)}
    assert {"the anchor &a", "the alias *a", "the anchor &b"} <= got


def test_an_alias_hides_no_second_complaint_about_its_value() -> None:
    assert only("name: *n\n" + PROMPTS + OUTPUT).where == "job.yaml:1: name"


# Files ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "where", "expected", "got"),
    [
        (b"", "", "a job", "an empty file"),
        (JOB.encode("utf-16"), "", "UTF-8 text", "UTF-16 or UTF-32"),
        (JOB.encode("utf-16-be"), "", "UTF-8 text", "UTF-16 or UTF-32"),
        (JOB.encode("utf-32"), "", "UTF-8 text", "UTF-16 or UTF-32"),
        (b"name: a\nmodel: caf\xe9\n", ":2", "UTF-8 text", "the byte 0xe9"),
        (b"name: a\nseed: \x00\n", ":2", "a YAML text file", "a binary file (it contains NUL bytes)"),
        (
            b"\x89PNG\r\n\x1a\n" + bytes(5) + b"IHDR" * 9,
            ":3",
            "a YAML text file",
            "a binary file (it contains NUL bytes)",
        ),
        (JOB.encode() + b"#" * (1 << 20), "", "a job file of at most 1 MiB", "a larger file"),
    ],
)
def test_bytes_that_are_refused(tmp_path: Path, raw: bytes, where: str, expected: str, got: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(raw)
    with pytest.raises(JobError) as caught:
        load_job(path)
    problem = caught.value.problems[0]
    assert isinstance(problem, Problem)
    assert (problem.where, problem.expected, problem.got) == (f"{path}{where}", expected, got)


def test_byte_order_mark_and_windows_line_ends_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + JOB.replace("\n", "\r\n").encode())
    assert load_job(path) == parse_job(JOB, "job.yaml")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "shapes.yaml").write_text(JOB)
    with pytest.raises(JobError, match=r"expected a job file, got no such file. Did you mean .*shapes.yaml\?"):
        load_job(tmp_path / "shape.yaml")
    with pytest.raises(JobError, match="expected a job file, got no such file. `promptmill init` writes one."):
        load_job(tmp_path / "xyz")
    with pytest.raises(JobError, match=r"expected a job file, got a folder. Job files in it: shapes.yaml"):
        load_job(tmp_path)
    for path in ("no/such/folder/job.yaml", "a\0b", "x" * 5000, "shapes.yaml/x"):
        with pytest.raises(JobError):
            load_job(tmp_path / path)


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(JOB.encode())))
    assert load_job("-").name == "a"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"seed: x\n" + JOB.encode())))
    with pytest.raises(JobError, match="^standard input:1: seed: expected an integer"):
        load_job("-")


# Overrides ------------------------------------------------------------------------------------------------------------


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
        ("foo", "KEY=VALUE such as generation.guidance_scale=3.5", "no `=`", ""),
        ("=3", "KEY=VALUE such as generation.guidance_scale=3.5", "an empty part of the key", ""),
        ("a..b=3", "KEY=VALUE such as generation.guidance_scale=3.5", "an empty part of the key", ""),
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
        ("score.clip=x", "a position in the list `score`", "`clip`", None),
        ("generation.negative_prompt=", "a string", "null", 'Write "" for an empty text.'),
        ('name="\udc80"', "text", "the control character \\udc80", None),
        ("name=\udc80", "text", "the control character \\udc80", None),
        ("na\x1bme=x", "KEY=VALUE such as generation.guidance_scale=3.5", "control characters", ""),
        ("seed=" + "9" * 500, "a number of at most 400 digits", "500 digits", ""),
    ],
)
def test_override_that_is_refused(override: str, expected: str, got: str | None, hint: str | None) -> None:
    problem = only(JOB, override)
    assert problem.where.startswith("--set " + override.split("=")[0][:2])
    assert problem.where.isprintable() and len(problem.where) < 120
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


# Whatever comes -------------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode("utf-8", "surrogatepass")))
@example(b"\xef\xbb\xbf")
@example(b"? ? :")
@example(b'name: "\\x80\\uDFFF"')
def test_no_bytes_raise_anything_but_a_job_error(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(raw)
    with pytest.raises(JobError) as caught:
        load_job(path)
    assert all(line.isprintable() for line in str(caught.value).splitlines())


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
_KEYS = st.sampled_from([part for each in describe_fields() for part in each.name.replace("[]", "").split(".")])
_TREES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS | st.text(max_size=5), inner, max_size=4),
)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(_KEYS, _TREES, max_size=6),
    st.lists(st.text(max_size=30) | _KEYS.map("{}.0.x=[1".format), max_size=3),
)
def test_no_tree_of_values_raises_anything_but_a_job_error(tree: dict[str, object], overrides: list[str]) -> None:
    try:
        parse_job(yaml.safe_dump(tree, allow_unicode=True), "job.yaml", overrides)
    except JobError as error:
        assert error.problems


_NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30)


@settings(max_examples=100, deadline=None)
@given(
    name=_NAMES,
    source=_NAMES,
    seed=st.integers(0, 2**53 - 1),
    guidance=st.lists(st.floats(0, 1000).filter(math.isfinite), min_size=1, max_size=4, unique=True),
    negative=_NAMES | st.just(""),
    workers=st.just("auto") | st.integers(1, 100_000),
    minimum=st.none() | st.floats(-1, 1),
)
def test_a_job_survives_being_written_and_read(
    name: str, source: str, seed: int, guidance: list[float], negative: str, workers: str | int, minimum: float | None
) -> None:
    tree = {
        "name": name,
        "seed": seed,
        "prompts": {"source": source},
        "generation": {"negative_prompt": negative},
        "sweep": {"guidance_scale": guidance},
        "score": [{"clip": "builtin:shapes"}],
        "select": {"min": minimum},
        "output": {"url": "out"},
        "compute": {"workers": workers},
    }
    job = Job.model_validate(tree)
    # JSON is YAML. PyYAML's own writer quotes for YAML 1.1, where 0E0 is text.
    assert parse_job(json.dumps(job.model_dump(mode="json")), "job.yaml") == job


# What it costs and says -----------------------------------------------------------------------------------------------


def test_no_heavy_library_is_imported() -> None:
    code = """
        import sys
        from pipeline.jobfile import load_job
        load_job("jobs/examples/shapes.yaml", ["seed=1"])
        print(*sorted({"torch", "ray", "diffusers", "pyarrow", "numpy", "fsspec", "open_clip"} & set(sys.modules)))
    """
    root = Path(__file__).parents[1]
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=root, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == ""


def test_every_field_is_described() -> None:
    fields = {each.name: each for each in describe_fields()}
    assert fields["prompts.source"].default == "required"
    assert fields["generation.width"][1:] == (_SIZE, "null", "Pixels; null is the model's own.")
    assert fields["score[].clip"].type == "a non-empty string"
    assert fields["sweep.width"].type == f"a list (each {_SIZE})"
    assert fields["compute.workers"].default == '"auto"'
    assert all(each.description for each in fields.values())
