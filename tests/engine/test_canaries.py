"""No secret of a URL is printed, whichever argument or field of the job holds it; new ones are found by themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer

from promptmill.jobs.commands import app
from promptmill.schemas.job import Job
from tests.engine.conftest import Answer
from tests.test_urls import PATHS, SECRET, SECRETS

LOCAL = [url.replace("host", "127.0.0.1:1") for url in SECRETS]
SECTIONED = [LOCAL[1], LOCAL[21], LOCAL[27], f"local-dir:{LOCAL[8]}", *PATHS]
"""Of each kind one: each is a whole `validate`."""


def commands() -> Iterator[tuple[str, Any]]:
    group: Any = typer.main.get_command(app)
    yield from group.commands.items()


def takes_text(parameter: Any) -> bool:
    return parameter.type_descriptor.annotation in (str, Path, list[str], list[Path])


ARGUMENTS = [(name, each.name) for name, command in commands() for each in command.params if takes_text(each)]


def arguments(command: str, filled: str, value: str, job: Path) -> list[str]:
    """A call that has all it needs, and `value` for the parameter `filled`."""
    (found,) = (each for name, each in commands() if name == command)
    words = [command]
    for each in found.params:
        if each.name == filled:
            text = f"prompts.source={value}" if each.name == "set_" else value
        elif each.required:
            text = str(job) if each.name == "job" else next(iter(get_args(each.type_descriptor.annotation)), "out")
        else:
            continue
        words += [text] if each.param_type_name == "argument" else [f"{each.opts[0]}={text}"]
    return words


def fields(node: dict[str, Any], path: str = "", depth: int = 0) -> Iterator[str]:
    """Every place of the job that takes a free text, as `--set` names it."""
    if "$ref" in node:
        node = SCHEMA["$defs"][node["$ref"].rpartition("/")[2]]
    for option in (*node.get("anyOf", ()), *node.get("oneOf", ())):
        if "type" in option or "$ref" in option:
            yield from fields(option, path, depth)
    if node.get("type") == "string" and not node.keys() & {"enum", "const"}:
        yield path
    if depth < 6:
        for name, inner in node.get("properties", {}).items():
            yield from fields(inner, f"{path}.{name}" if path else name, depth + 1)
        if isinstance(node.get("additionalProperties"), dict):
            yield from fields(node["additionalProperties"], f"{path}.x", depth + 1)
        if isinstance(node.get("items"), dict):
            yield from fields(node["items"], f"{path}.0", depth + 1)


SCHEMA = Job.model_json_schema()
FIELDS = sorted(set(fields(SCHEMA)))


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PROMPTMILL_STORAGE_PATIENCE_S", "0")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing-at-all")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    path = tmp_path / "job.yaml"
    path.write_text("name: small\nprompts: {source: prompts.txt}\noutput: {url: out}\n")
    return path


def check(answer: Answer, url: str) -> None:
    assert SECRET not in answer.out + answer.err, url
    assert "Traceback" not in answer.err, url


def test_the_arguments_and_fields_are_found() -> None:
    assert {("run", "job"), ("status", "url"), ("score", "distractors"), ("compare", "out")} <= set(ARGUMENTS)
    assert {"prompts.source", "output.url", "model.path", "score.0.clip", "sweep.model.0"} <= set(FIELDS)


@pytest.mark.parametrize(("command", "parameter"), ARGUMENTS, ids=str)
def test_an_argument(cli: Callable[..., Answer], small: Path, command: str, parameter: str) -> None:
    for url in [*LOCAL, *PATHS, f"local-dir:{LOCAL[0]}", f"clip={LOCAL[1]}", f"clip=local-dir:{LOCAL[8]}"]:
        check(cli(*arguments(command, parameter, url, small)), url)


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_of_the_job(cli: Callable[..., Answer], small: Path, field: str) -> None:
    for url in SECTIONED:
        check(cli("validate", small, "--json", "--set", f"{field}={url}"), url)


def test_a_job_that_is_written_with_a_password(cli: Callable[..., Answer], small: Path) -> None:
    small.write_text(small.read_text().replace("prompts.txt", LOCAL[1]))
    answer = cli("run", small, "--in-process")
    assert answer.code == 2
    assert "job.yaml:2: prompts.source: expected a URL without user and password" in answer.err
    assert SECRET not in answer.err


def test_a_syntax_error_beside_a_password(cli: Callable[..., Answer], small: Path) -> None:
    small.write_text(f"name: [\nprompts: {{source: '{LOCAL[1]}}}\n")
    answer = cli("validate", small)
    assert answer.code == 2
    assert SECRET not in answer.err
