"""A copy of the dataset of yesterday, and the command line in this process."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import cli

__all__ = ["cli"]

YESTERDAY = Path(__file__).parent / "yesterday"


@pytest.fixture(scope="session")
def promise() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((YESTERDAY / "promise.json").read_text())
    return content


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of yesterday where the current folder is, as if it had been made there."""
    copy = tmp_path / "yesterday"
    shutil.copytree(YESTERDAY, copy)
    for file in (copy / "dataset" / "job.json", *(copy / "dataset" / "segments").iterdir()):
        file.write_text(file.read_text().replace("{home}", str(copy)))
    monkeypatch.chdir(copy)
    return copy
