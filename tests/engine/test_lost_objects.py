"""What someone deleted from a dataset is named, and can be made again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engine.conftest import Answer

Cli = Callable[..., Answer]
MakeJob = Callable[..., Path]


@pytest.fixture
def made(cli: Cli, job: MakeJob, tmp_path: Path) -> Path:
    """The job of a finished dataset of two shards, prompts staged; the empty one failed."""
    (tmp_path / "prompts.csv").write_text("prompt,tag\na red circle,1\n,2\na blue square,3\n")
    made = job(prompts={"source": str(tmp_path / "prompts.csv")})
    assert cli("run", made, "--in-process").code == 3
    return made


def test_failures_that_are_gone(cli: Cli, made: Path, tmp_path: Path) -> None:
    """`run`, `report` and `retry` said: check that the bucket or folder exists."""
    out = tmp_path / "out"
    (lost,) = (out / "failures").iterdir()
    lost.unlink()
    for command, code in ((["run", made, "--in-process"], 3), (["report", out], 0), (["retry", out], 2)):
        answer = cli(*command)
        assert answer.code == code, answer
        words = " ".join((answer.out + answer.err).split())
        assert f"failures/{lost.name}" in words
        assert "data/part-000000.parquet" in words
        assert "`promptmill verify --repair` and then `promptmill run`" in words
    assert cli("verify", out, "--repair").code == 1
    assert cli("run", made, "--in-process").code == 3
    assert lost.exists()
    assert cli("verify", out, "--deep").code == 0


def test_staged_prompts_that_are_gone(cli: Cli, made: Path, tmp_path: Path) -> None:
    part = tmp_path / "out" / "data" / "part-000000.parquet"
    before = part.read_bytes()
    part.unlink()
    shutil.rmtree(tmp_path / "out" / "inputs")
    source = tmp_path / "prompts.csv"
    text = source.read_text()
    source.write_text("prompt,tag\na red square,1\n,2\na blue square,3\n")
    answer = cli("run", made, "--in-process")
    assert answer.code == 2 and "prompts.source.prompts.csv.etag" in answer.err
    source.write_text(text)
    assert cli("run", made, "--in-process").code == 3
    assert part.read_bytes() == before
