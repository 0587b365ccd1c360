"""A signal ends every command with 130 and, with --json, one object, wherever it comes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from promptmill.jobs.signals import finish_first
from promptmill.pipeline.execution.events import Stop
from promptmill.pipeline.report import build
from tests.engine.conftest import Answer
from tests.heart.test_run import Notes

Cli = Callable[..., Answer]
MakeJob = Callable[..., Path]

SIGNALLED_BY_AN_IMPORT = """
import signal, sys

module, number = sys.argv[1], int(sys.argv[2])
del sys.argv[1:3]

class Importing:
    def find_spec(self, name, *_):
        if name == module:
            signal.raise_signal(number)

sys.meta_path.insert(0, Importing())
from promptmill.jobs.cli import main
main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("module", ["typer", "promptmill.jobs.commands"])
def test_a_signal_during_the_imports(number: signal.Signals, module: str) -> None:
    """The imports of `run` take a second, in which SIGTERM ended with 143 and SIGINT with a traceback."""
    command = [sys.executable, "-c", SIGNALLED_BY_AN_IMPORT, module, str(int(number)), "run", "job.yaml", "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 130
    assert ended.stderr == "interrupted. Run the same command again to continue.\n"
    answer = json.loads(ended.stdout)
    assert (answer["error"], answer["exit_code"], answer["message"]) == ("Interrupted", 130, ended.stderr.strip())


MIXED = ["--log-format=text", "--log-format", "json"], ["--log-format", "text", "--log-format=json"]


@pytest.mark.parametrize("given", [["--log-format", "json"], ["--log-format=json"], [], *MIXED])
@pytest.mark.parametrize("module", ["typer", "promptmill.pipeline.planning.plan"])
def test_a_signal_is_told_as_an_object_in_a_log_of_objects(given: list[str], module: str) -> None:
    """It was the one line of text in it, and what a wrong option says was another."""
    environment = {**os.environ, "PROMPTMILL_LOG_FORMAT": "text" if given else "json"}
    script = [sys.executable, "-c", SIGNALLED_BY_AN_IMPORT, module, str(int(signal.SIGTERM)), "run", "job.yaml", *given]
    ended = subprocess.run(script, capture_output=True, text=True, check=False, env=environment)
    (line,) = map(json.loads, ended.stderr.splitlines())
    assert ended.returncode == 130 and line["level"] == "error" and line["message"].startswith("interrupted. Run the")
    wrong = [sys.executable, "-m", "promptmill.jobs.cli", "run", "job.yaml", *given, "--no-such-option"]
    ended = subprocess.run(wrong, capture_output=True, text=True, check=False, env=environment)
    assert ended.returncode == 2 and "--no-such-option" in json.loads(ended.stderr.splitlines()[0])["message"]


@pytest.mark.parametrize(
    "given", [("--log-format=json", "--log-format", "text"), ("--log-format", "json", "--log-format=text")]
)
def test_of_two_formats_the_last_one_holds(given: tuple[str, ...]) -> None:
    """The run took the last one, and what is said before it begins the last of those with `=`."""
    command = [sys.executable, "-m", "promptmill.jobs.cli", "run", "job.yaml", *given, "--no-such-option"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and ended.stderr.startswith("error: "), ended.stderr


def test_a_signal_while_a_live_display_draws() -> None:
    """It goes on drawing while the last words are written, and hides the cursor."""
    script = """
import signal, time
from promptmill.jobs.run import new_progress
from promptmill.jobs.signals import leave, on_signals

on_signals(lambda: leave(False))
with new_progress() as progress:
    progress.notice("claiming")
    time.sleep(0.3)
    signal.raise_signal(signal.SIGINT)
"""
    terminal, end = os.openpty()
    ended = subprocess.run([sys.executable, "-c", script], stderr=end, check=False)
    os.close(end)
    shown = os.read(terminal, 1 << 16).decode()
    os.close(terminal)
    assert ended.returncode == 130
    assert "claiming" in shown
    assert shown.endswith("\x1b[?25hinterrupted. Run the same command again to continue.\r\n")


def test_a_signal_after_the_answer() -> None:
    """The interpreter takes a second to drop torch; a signal then turned 0 into -15."""
    script = """
import os, signal, sys
from promptmill.jobs.cli import main

class Dropped:
    def __del__(self, kill=os.kill, own=os.getpid(), number=signal.SIGTERM):
        kill(own, number)

dropped = Dropped()
main()
"""
    command = [sys.executable, "-c", script, "--version"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout.split()[:1]) == (0, ["promptmill"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_report_is_written(
    cli: Cli, job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """It ended the process: no JSON, no README.md, no croissant.json."""
    build_report = build.build_report

    def signalled(*arguments: object, **options: object) -> object:
        signal.raise_signal(number)
        return build_report(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(build, "build_report", signalled)
    answer = cli("run", job(), "--in-process", "--json")
    assert answer.code == 130, answer
    assert (answer.json["interrupted"], answer.json["shards_done"]) == (True, 2)
    assert "once more" in answer.err
    assert {"README.md", "croissant.json", "report"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_a_second_signal_while_the_report_is_written(cli: Cli, job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does what a signal does outside, here: KeyboardInterrupt."""

    def signalled(*_: object, **__: object) -> None:
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(build, "build_report", signalled)
    numbers = (signal.SIGINT, signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests were put into the background
    before = [signal.getsignal(number) for number in numbers]
    assert cli("run", job(), "--in-process", "--json").code == 130
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_first_signal_after_a_budget_is_spent() -> None:
    """It was taken for the second one, and ended what was in hand."""
    stop, notes = Stop(), Notes()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with finish_first(stop, notes):
            stop.request("budget")
            signal.raise_signal(signal.SIGINT)
            assert notes.heard == ["finishing what is in hand; once more to stop now"] and stop.reason == "budget"
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
