"""`--json` is for machines: whatever happens, standard output holds one JSON object."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from promptmill.jobs import status
from promptmill.jobs.schema import results_schema
from tests.engine.conftest import Answer

Cli = Callable[..., Answer]


def test_wrong_usage(cli: Cli) -> None:
    answer = cli("run", "--json")
    assert (answer.code, answer.json["exit_code"]) == (2, 2)
    assert "JOB.yaml" in answer.json["message"]
    assert "JOB.yaml" in answer.err


@pytest.mark.parametrize("error", [EOFError, RuntimeError])
def test_a_defect(cli: Cli, monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    """typer turns an EOFError, of a cut file for example, into the same error as Ctrl-C."""

    def defect(_: str) -> None:
        raise error("at https://me:hunter2@host")

    monkeypatch.setattr(status, "status", defect)
    answer = cli("status", "here", "--json")
    shown = {"error": error.__name__, "message": "at https://***@host", "problems": [], "exit_code": 1}
    assert (answer.code, answer.json) == (1, shown)
    assert "defect" in answer.err and "interrupted" not in answer.err and "hunter2" not in answer.err


def test_init_and_schema(cli: Cli, tmp_path: Path) -> None:
    written = [str(tmp_path / "job.yaml"), str(tmp_path / "prompts.txt")]
    assert cli("init", tmp_path, "--json").json == {"written": written}
    assert cli("init", tmp_path, "--json").json["error"] == "JobError"
    assert cli("schema", "--json").out == cli("schema").out
    assert "properties" in json.loads(cli("schema").out)


def test_errors_and_init_keep_to_their_published_schema(cli: Cli, tmp_path: Path) -> None:
    schema = json.loads(results_schema())

    def check(command: str, answer: dict[str, object]) -> None:
        jsonschema.validate(answer, {"$defs": schema["$defs"], **schema["properties"][command]})

    check("init", cli("init", tmp_path, "--json").json)
    found = cli("init", tmp_path, "--json").json
    check("error", found)
    assert {"where", "expected", "got"} <= set(found["problems"][0])
    check("error", cli("status", "--json").json)
    interrupted = "from promptmill.jobs.signals import leave; leave(True)"
    said = subprocess.run([sys.executable, "-c", interrupted], capture_output=True, text=True, check=False).stdout
    check("error", json.loads(said))
    with pytest.raises(jsonschema.ValidationError):
        check("error", {"error": "JobError"})


def test_a_terminal_of_ascii(tmp_path: Path) -> None:
    """`validate` ended with a UnicodeEncodeError for the × in its last line, after all was well."""
    text = "name: n\nprompts: {source: p.txt}\noutput: {url: out}\n"
    (tmp_path / "job.yaml").write_text(text)
    (tmp_path / "p.txt").write_text("a red circle\n")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "promptmill.jobs.cli", "validate", "job.yaml"]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "1 prompts ? 1 variants = 1 images" in ended.stdout
