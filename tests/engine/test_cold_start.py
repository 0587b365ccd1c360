"""Workers of one machine load a few at a time, in turns that the machine keeps and not chance."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from socket import gethostname

import pytest

from promptmill.pipeline.models.load import LOADS_AT_ONCE
from promptmill.pipeline.storage.digests import notes_folder
from promptmill.pipeline.storage.turns import some_at_a_time
from tests.engines.waiting import wait_for

COMMAND = Path(sys.executable).with_name("promptmill")
TAKE_A_TURN = """
import sys
from pathlib import Path
from promptmill.pipeline.storage import turns

turns._TELL_AFTER_S = 0.0
with turns.some_at_a_time(Path(sys.argv[1]), "load", 2, lambda: print("waits", flush=True)):
    print("in", flush=True)
    sys.stdin.readline()
"""


def test_a_run_waits_for_its_turn_to_load(
    job: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All loaded at once: six took three times as long as two at a time, with twice the memory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    log = tmp_path / "log"
    command = [COMMAND, "run", job(), "--in-process"]
    with ExitStack() as others:
        for _ in range(LOADS_AT_ONCE):
            turn = some_at_a_time(notes_folder(), f"load {gethostname()}", LOADS_AT_ONCE, lambda: pytest.fail("taken"))
            others.enter_context(turn)
        with log.open("w") as err:
            running = subprocess.Popen(command, stderr=err, stdout=subprocess.DEVNULL, env=os.environ)
        try:
            wait_for(lambda: "waiting to load" in log.read_text() or running.poll() is not None, log.read_text, 120)
            assert running.poll() is None, log.read_text()
        finally:
            others.close()
            code = running.wait(120)
    assert code == 0, log.read_text()
    assert len(list((tmp_path / "out" / "data").iterdir())) == 2


def test_processes_take_turns_and_one_that_is_killed_lets_go(tmp_path: Path) -> None:
    command, logs = [sys.executable, "-c", TAKE_A_TURN, str(tmp_path / "locks")], [tmp_path / f"{n}" for n in range(5)]
    running = []
    for log in logs:
        with log.open("w") as out:
            running.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out))

    def said(word: str) -> list[int]:
        return [number for number, log in enumerate(logs) if word in log.read_text().split()]

    try:
        wait_for(lambda: len(said("in")) + len(said("waits")) == 5, lambda: f"{said('in')}", 60)
        inside = said("in")
        assert len(inside) == 2
        running[inside[0]].kill()
        wait_for(lambda: len(said("in")) == 3, lambda: f"{said('in')}", 60)
    finally:
        for process in running:
            process.kill()
            process.communicate()


def test_a_folder_that_takes_no_lock_keeps_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with some_at_a_time(tmp_path / "file" / "locks", "load", 1, lambda: pytest.fail("nobody waits")):
        pass
