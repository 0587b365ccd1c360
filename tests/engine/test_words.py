"""What strangers wrote acts on no terminal and writes no line of its own; streams that are full cost no dataset."""

from __future__ import annotations

import ast
import errno
import io
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from promptmill.jobs import outlets
from promptmill.jobs.console import say, say_on_stderr, table
from promptmill.jobs.outlets import Outlet, traceback_lines
from promptmill.pipeline.display import letters, shown
from promptmill.pipeline.execution.progress import LiveProgress, PlainProgress
from promptmill.schemas.errors import JobError, Problem, StorageError
from tests.engine.conftest import Answer

EVIL = "evil\x1b[31m\x9b2J\rback\nFORGED\u2028FORGED\u202etxt\x07[red]markup[/red]\udcff"
ROOT = Path(__file__).parents[2]


def harmless(text: str) -> bool:
    lines = text.splitlines()
    return not any(line.lstrip().startswith("FORGED") for line in lines) and all(
        char.isprintable() or char == "\n" for char in text
    )


def test_one_line_whatever_is_in_it() -> None:
    assert harmless(shown(EVIL))
    assert "\n" not in shown(EVIL)
    assert "[red]markup[/red]" in shown(EVIL)


def test_letters_are_one_line_a_problem() -> None:
    error = JobError(Problem(EVIL, EVIL, EVIL, EVIL), EVIL)
    assert len(letters(error)) == 2
    assert all(harmless(letter) and "\n" not in letter for letter in letters(error))
    assert len(letters(StorageError(EVIL))) == 1


def test_tables_notices_and_what_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    say(EVIL)
    say_on_stderr(EVIL)
    table({"name": EVIL, "names": [EVIL, EVIL]})
    with PlainProgress() as progress:
        progress.name = EVIL
        progress.samples = 1
        progress.notice(EVIL)
    captured = capsys.readouterr()
    assert harmless(captured.out)
    assert harmless(captured.err)


def test_the_live_display() -> None:
    from rich.console import Console

    stream = io.StringIO()
    progress = LiveProgress(Console(file=stream, width=300))
    progress.name = EVIL
    progress.notice(EVIL)
    progress._live.console.print(progress._draw())
    assert "\x1b[31m" not in stream.getvalue()
    assert harmless(stream.getvalue().replace("\x1b", ""))


def test_logs_of_ours_and_of_libraries(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.root, "handlers", [outlets._Lines()])
    logging.getLogger("some.library").warning("cannot read %s", EVIL)
    assert harmless(capsys.readouterr().err)


def test_a_traceback_has_the_lines_of_the_code_alone() -> None:
    try:
        raise ValueError(EVIL)
    except ValueError as error:
        lines = traceback_lines(error)
    assert lines[0].startswith("Traceback")
    assert lines[-1].startswith("ValueError: evil")
    assert all(harmless(line) and "\n" not in line for line in lines)


def test_wrong_usage(cli: Callable[..., Answer]) -> None:
    for arguments in ([EVIL], ["status", f"--{EVIL}"], ["validate", EVIL], ["status", f"out/{EVIL}"]):
        answer = cli(*arguments)
        assert answer.code == 2, answer
        assert harmless(answer.err + answer.out), arguments


def test_names_of_jobs_and_files(cli: Callable[..., Answer], tmp_path: Path) -> None:
    evil = EVIL.replace("\udcff", "").replace("/", "|")
    (tmp_path / f"{evil}.txt").write_text("a red circle\n")
    content = {"name": EVIL[:-1], "prompts": {"source": str(tmp_path)}, "output": {"url": str(tmp_path / evil)}}
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(content))
    for command in (["plan", path], ["validate", path], ["plan", path, "--set", "prompts.columns.id=nothing"]):
        answer = cli(*command)
        assert answer.code in (0, 2), answer
        assert harmless(answer.out + answer.err), answer
    assert harmless(cli("plan", path, "--json").out)


PRINTERS = {
    "jobs/cli.py",
    "jobs/console.py",
    "jobs/outlets.py",
    "jobs/schema.py",
    "jobs/signals.py",  # from within a signal, where no lock may be taken: its own words alone
    "pipeline/execution/json_log.py",  # puts itself in the place of standard error, and escapes all
    "pipeline/execution/json_stream.py",  # and it too
    "pipeline/execution/progress.py",
    "pipeline/execution/submit/same_version.py",  # of two versions and a path of Python's own, on a cluster
    "pipeline/prompts/first_look.py",  # pipes between it and its child
    "pipeline/prompts/parquet_child.py",
    "pipeline/training/shapes/evaluate.py",  # numbers, for those who train the built-in model
    "pipeline/training/shapes/evaluate_conditions.py",
    "pipeline/training/shapes/evaluate_edits.py",
}


def prints(path: Path) -> bool:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("print", "Console"):
            return True
        if isinstance(node, ast.Attribute) and node.attr in ("stdout", "stderr") and isinstance(node.value, ast.Name):
            return True
    return False


def test_few_places_print() -> None:
    files = [path for room in ("jobs", "pipeline", "schemas") for path in (ROOT / room).rglob("*.py")]
    assert {str(path.relative_to(ROOT)) for path in files if prints(path)} <= PRINTERS


def test_an_outlet_that_is_full() -> None:
    with open("/dev/full", "w") as stream:
        outlet = Outlet(stream)
        for _ in range(3):
            outlet.write("x" * 100_000)
            outlet.flush()
        assert outlet.failure is not None and outlet.failure.errno == errno.ENOSPC
        assert not outlet.isatty()


def test_an_outlet_that_nobody_reads_and_one_that_is_closed() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        outlet = Outlet(stream)
        outlet.write("x")
        outlet.flush()
        assert isinstance(outlet.failure, BrokenPipeError)
    closed = Outlet(None)
    assert closed.failure is None
    closed.write("x")
    closed.flush()
    assert closed.failure is not None and not closed.isatty()


def promptmill(arguments: str, **streams: int) -> subprocess.CompletedProcess[bytes]:
    command = f'exec "{sys.executable}" -m promptmill.jobs.cli {arguments}'
    return subprocess.run(
        ["bash", "-c", command], check=False, capture_output=not streams, timeout=120, cwd=ROOT, **streams
    )


def test_an_answer_that_standard_output_does_not_take() -> None:
    for stream in ("/dev/full", "&-"):
        ended = promptmill(f"schema >{stream}")
        assert ended.returncode == 4
        assert ended.stderr.decode().startswith("error: standard output does not take the answer: ")
        assert b"Traceback" not in ended.stderr


def test_an_error_that_standard_error_does_not_take() -> None:
    assert promptmill("validate nowhere.yaml 2>/dev/full").returncode == 2
    assert promptmill("validate nowhere.yaml <&- >&- 2>&-").returncode == 2


def test_a_dataset_is_made_although_nobody_can_be_told(
    cli: Callable[..., Answer], job: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = job()
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stderr", Outlet(full))
        monkeypatch.setattr(sys, "stdout", Outlet(None))
        assert cli("run", path, "--in-process").code == 0
        monkeypatch.undo()
    assert cli("verify", tmp_path / "out").code == 0
