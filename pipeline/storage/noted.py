"""What a user of this machine has named in a job that was run here, as empty files named by digests.

`PROMPTMILL_STATE_DIR`, else `$XDG_STATE_HOME/promptmill`, holds them, in a folder for each kind.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def note(kind: str, digests: Iterable[str]) -> str | None:
    """What went wrong, where that cannot be written."""
    try:
        folder = _notes(kind)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for digest in digests:
            (folder / digest).touch()
    except (OSError, RuntimeError) as error:
        return getattr(error, "strerror", None) or str(error)
    return None


def is_noted(kind: str, digest: str) -> bool:
    try:
        return (_notes(kind) / digest).is_file()
    except (OSError, RuntimeError):
        return False


def _notes(kind: str) -> Path:
    """Raises RuntimeError where there is no home."""
    own = os.environ.get("PROMPTMILL_STATE_DIR")
    state = own or str(Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state", "promptmill"))
    return Path(state).expanduser() / kind
