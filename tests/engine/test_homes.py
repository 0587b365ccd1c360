"""`~` of users whom nobody here knows, in every place that is a path: a message, and no folder of that name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from promptmill.pipeline.storage.homes import at_home
from tests.engine.conftest import Answer

Cli = Callable[..., Answer]
NOBODY = "~nobody_of_that_name/x"
FIELDS = {
    "prompts": {"source": NOBODY},
    "a glob": {"source": f"{NOBODY}/*.csv"},
    "model": {"path": NOBODY},
    "score": [{"clip": f"local-dir:{NOBODY}"}],
    "output": {"url": NOBODY},
}


@pytest.mark.parametrize("name", FIELDS)
def test_in_a_job(tmp_path: Path, cli: Cli, name: str) -> None:
    (tmp_path / "p.txt").write_text("a red circle")
    content = {"name": "x", "prompts": {"source": str(tmp_path / "p.txt")}, "output": {"url": str(tmp_path / "out")}}
    section = "prompts" if name == "a glob" else name
    (tmp_path / "job.yaml").write_text(json.dumps({**content, section: FIELDS[name]}))
    answer = cli("plan", tmp_path / "job.yaml")
    assert answer.code == 2 and "no home of ~nobody_of_that_name" in answer.err, answer


@pytest.mark.parametrize("command", ["status", "verify", "report", "init"])
def test_on_the_command_line(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.chdir(tmp_path)
    answer = cli(command, NOBODY)
    assert answer.code == 2 and "no home of" in answer.err, answer
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As spreadsheets call what is open."""
    monkeypatch.chdir(tmp_path)
    Path("~$prompts.csv").write_text("prompt\na red circle\n")
    assert at_home("~$prompts.csv") == Path("~$prompts.csv")
    assert at_home("~/x") == Path.home() / "x"
