"""The nightly job: `run --extend` with nothing new takes seconds, starts nothing, and says so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from promptmill.pipeline.execution.heartbeat import KEY
from promptmill.pipeline.report import build as build_module
from tests.engine.conftest import Answer

Cli = Callable[..., Answer]
MakeJob = Callable[..., Path]

SCRIPT = (
    "import sys; from promptmill.jobs.cli import guarded; from promptmill.jobs.commands import app\n"
    "code = guarded(lambda: app(sys.argv[1:], standalone_mode=False), True)\n"
    "heavy = {'torch', 'ray', 'diffusers', 'transformers', 'open_clip', 'promptmill.pipeline.report.build'}\n"
    "sys.exit(f'imported {heavy & set(sys.modules)}' if heavy & set(sys.modules) else code)\n"
)


def objects(folder: Path) -> dict[str, int]:
    """But for the heartbeat, which is also the lease."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != KEY)
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in files}


def test_nothing_new(cli: Cli, job: MakeJob, tmp_path: Path) -> None:
    source, out = tmp_path / "prompts", tmp_path / "out"
    source.mkdir()
    pq.write_table(pa.table({"prompt": ["a red circle", "a blue square"]}), source / "a.parquet")
    made = job(prompts={"source": str(source)})
    assert cli("run", made, "--in-process", "--extend").code == 0
    before, began = objects(out), time.monotonic()
    # An address where nobody answers: there is no reason to ask there.
    night = [sys.executable, "-c", SCRIPT, "run", str(made), "--extend", "--if-running", "exit", "--json"]
    environment = {**os.environ, "RAY_ADDRESS": "127.0.0.1:1"}
    ended = subprocess.run(night, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["made"]["samples"] == 0 and time.monotonic() - began < 30
    assert objects(out) == before
    answer = cli("run", made, "--extend", "--address", "127.0.0.1:1")
    assert answer.code == 0 and "has nothing new to make" in answer.out
    pq.write_table(pa.table({"prompt": ["a green star"]}), source / "b.parquet")
    assert cli("run", made, "--extend", "--address", "127.0.0.1:1").code == 5  # now there is
    assert objects(out) == before
    assert cli("run", made, "--extend", "--in-process", "--json").json["made"]["samples"] == 2
    assert "has nothing new to make" in cli("run", made, "--in-process").out


def test_a_report_that_is_older_or_gone_is_written(
    cli: Cli, job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[object] = []
    build = build_module.build_report
    monkeypatch.setattr(build_module, "build_report", lambda *a, **k: (built.append(a), build(*a, **k))[1])
    made, summary = job(), tmp_path / "out" / "report" / "summary.json"
    for age_s, wanted in ((0, 1), (0, 1), (3600, 2), (None, 3)):
        if age_s is None:
            summary.unlink()
        elif age_s:
            os.utime(summary, (time.time() - age_s,) * 2)
        assert cli("run", made, "--in-process").code == 0
        assert len(built) == wanted
