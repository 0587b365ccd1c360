"""What is built in: weights that lie in this package, wherever it is installed."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Final

BUILTIN: Final = "builtin:"
"""Begins the paths of what is built in."""


def shipped(part: str) -> Path:
    """A file or folder below the built-in weights; maybe none, for a name that nobody shipped."""
    return Path(str(files("promptmill.pipeline"))) / "shapes" / "weights" / part
