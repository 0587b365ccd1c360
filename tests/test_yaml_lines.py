"""YAML keeps its meaning or is refused, whatever bytes come."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from promptmill.pipeline.jobfile.reader import load_job, parse_job
from promptmill.pipeline.jobfile.yaml_reader import MAX_EVENTS
from promptmill.schemas.errors import JobError, Problem
from tests.job_problems import JOB, OUTPUT, PROMPTS, only, problems


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
    with pytest.raises(JobError, match=r"expected a job file, got no such file. `promptmill init` writes one."):
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
    with pytest.raises(JobError, match=r"^standard input:1: seed: expected an integer"):
        load_job("-")
