"""This program's own files, as a wheel would unpack them: for clusters that do not have it."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import requires, version
from importlib.util import find_spec
from pathlib import Path

_ROOMS = ("promptmill", "promptmill.jobs", "promptmill.pipeline", "promptmill.schemas")
_LEFT_OUT = frozenset({"__pycache__", "public", "examples"})


def package_files() -> Iterator[tuple[str, bytes]]:
    """Name in the working folder → content. What it imports has to be on the cluster."""
    for room in _ROOMS:
        for root in _folders(room):
            for path in sorted(root.rglob("*")):
                inner = path.relative_to(root)
                if path.is_file() and _travels(inner) and (room != "promptmill" or len(inner.parts) == 1):
                    yield f"{room.replace('.', '/')}/{inner.as_posix()}", path.read_bytes()
    number = version("promptmill")
    lines = ["Metadata-Version: 2.1", "Name: promptmill", f"Version: {number}"]
    lines += [f"Requires-Dist: {text}" for text in requires("promptmill") or ()]
    yield f"promptmill-{number}.dist-info/METADATA", "".join(f"{line}\n" for line in lines).encode()


def _travels(inner: Path) -> bool:
    return not _LEFT_OUT & set(inner.parts) and inner.suffix not in (".pyc", ".md")


def _folders(room: str) -> list[Path]:
    spec = find_spec(room)
    return [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
