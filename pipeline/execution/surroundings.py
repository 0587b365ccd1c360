"""Machines as they are: users without name or home, folders that nobody may write to, paths too long for sockets."""

from __future__ import annotations

import contextlib
import getpass
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from promptmill.schemas.errors import JobError, Problem

_SOCKET_BYTES = 107
_SESSION_BYTES = len("/ray/session_2026-11-28_09-06-27_058539_1234567/sockets/plasma_store")
_SHORT = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - Ray makes a folder of its own there


_settled: list[str] = []


def settle() -> None:
    """Give the libraries under us a user name and a home where the machine knows none: torch and Ray ask for both.

    Called before they are imported.
    """
    if not _user():
        os.environ["USER"] = f"uid{os.getuid()}"
        _settled.append(f"user {os.getuid()} has no name on this machine and is called {os.environ['USER']}: set USER")
    if not _home():
        home = Path(tempfile.gettempdir(), f"promptmill-uid{os.getuid()}")
        with contextlib.suppress(OSError):
            home.mkdir(mode=0o700, exist_ok=True)
        if home.is_dir() and home.stat().st_uid == os.getuid():
            os.environ["HOME"] = str(home)
            _settled.append(f"user {os.getuid()} has no home, and {home} is taken for one: set HOME")


def socket_folder() -> str | None:
    """Where Ray puts a session whose path would be too long for its sockets; None where its own choice does.

    Raises JobError where no short folder can be written to.
    """
    name = next((name for name in ("RAY_TMPDIR", "TMPDIR") if name in os.environ), "")
    chosen = os.environ.get(name) or _SHORT[0]
    if _fits(chosen) and _writable(Path(chosen)):
        return None
    for folder in _SHORT:
        if _writable(Path(folder)):
            return f"{folder}/ray" if os.getuid() == 0 else f"{folder}/ray-{os.getuid()}"
    expected = f"a folder for Ray's sockets that can be written to, of at most {_SOCKET_BYTES - _SESSION_BYTES} bytes"
    where = f"the variable {name}" if name else chosen
    raise JobError(Problem(where, expected, chosen, "Set RAY_TMPDIR to one, or give --in-process"))


def oddities() -> Iterator[str]:
    """What of the surroundings is in somebody's way, with the variable to set."""
    temporary = Path(os.environ.get("TMPDIR") or _SHORT[0])
    if not _writable(temporary):
        yield f"{temporary} cannot be written to: set TMPDIR to a folder that can"
    elif not _fits(os.environ.get("RAY_TMPDIR") or str(temporary)):
        most = _SOCKET_BYTES - _SESSION_BYTES
        name = "RAY_TMPDIR" if os.environ.get("RAY_TMPDIR") else "TMPDIR"
        yield f"{name} is longer than {most} bytes, too long for Ray's sockets: set RAY_TMPDIR to a shorter one"
    home = _home()
    if home is not None and not _writable(home):
        yield f"{home} cannot be written to: set HOME, or XDG_CACHE_HOME and HF_HOME, to a folder that can"
    yield from _settled


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return None


def _home() -> Path | None:
    try:
        return Path.home()
    except RuntimeError:
        return None


def _fits(folder: str) -> bool:
    return len(os.fsencode(folder)) + _SESSION_BYTES <= _SOCKET_BYTES


def _writable(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):  # root may do all that `os.access` is asked for, and cannot in /proc
            return True
    except OSError:
        return False
