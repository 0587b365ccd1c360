"""What an adversary hands over: folders, files and datasets that should cost a message and nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engine.conftest import cli, job, source  # noqa: F401 - fixtures

MARKER = "the-code-ran"


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """Exists where the code of a hostile folder was run."""
    return tmp_path / MARKER


@pytest.fixture
def copied(models: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of `sd` or `clip` to spoil."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(models / name, tmp_path / f"hostile-{name}"))

    return copy
