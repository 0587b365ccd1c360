"""Which models a user of this machine has named in a job: those that a stranger's dataset names are loaded on request.

Known by content (hashes of a folder's files, the commit of a hub model) and never by place, so that a dataset may move;
classes of scores by import path and version.
A note is an empty file `models/<digest>` below `PROMPTMILL_STATE_DIR`, else `$XDG_STATE_HOME/promptmill`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from promptmill.pipeline.models.catalog.clips import BUILTIN_CLIPS, ResolvedClip
from promptmill.pipeline.models.catalog.resolve import BUILTIN_MODELS
from promptmill.pipeline.models.catalog.shipped import BUILTIN
from promptmill.schemas.identity import digest
from promptmill.schemas.plan import PythonScore, ResolvedAdapter, ResolvedControl, ResolvedModel

Named = ResolvedModel | ResolvedClip | ResolvedAdapter | ResolvedControl | PythonScore


def remember(models: Iterable[Named]) -> str | None:
    """Note that a job of this user's names these. What went wrong, where that cannot be written."""
    try:
        folder = _notes()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for model in _all(models):
            if not _is_builtin(model):
                (folder / _digest(model)).touch()
                (folder / _digest(_as_older(model))).touch()
    except (OSError, RuntimeError) as error:
        return getattr(error, "strerror", None) or str(error)
    return None


def strangers(models: Iterable[Named], given: Iterable[Named] = ()) -> list[str]:
    """Paths of those that are not built in, in no job run here so far, and not among those `given`."""
    known = {_digest(model) for model in _all(given)}
    unknown = (model for model in _all(models) if not _is_builtin(model) and _digest(model) not in known)
    return list(dict.fromkeys(model.path for model in unknown if not _is_noted(model)))


def _all(models: Iterable[Named]) -> Iterator[Named]:
    for model in models:
        yield model
        if isinstance(model, ResolvedModel):
            yield from model.adapters
            yield from model.controlnets


def _is_builtin(model: Named) -> bool:
    if isinstance(model, PythonScore):
        return False
    if isinstance(model, ResolvedAdapter | ResolvedControl):
        shipped = re.fullmatch(f"{BUILTIN}[a-z0-9-]+", model.path) is not None
        return shipped and (isinstance(model, ResolvedAdapter) or model.is_local)
    if isinstance(model, ResolvedClip):
        return model.path in BUILTIN_CLIPS and model.is_local and model.tag is None
    return model.is_local and model.path.removeprefix(BUILTIN) in BUILTIN_MODELS and model.path.startswith(BUILTIN)


def _digest(model: Named) -> str:
    if isinstance(model, PythonScore):
        return digest(["score", model.path, model.version])
    if isinstance(model, ResolvedAdapter):
        return digest(["adapter", model.sha])
    if model.is_local:
        return digest([type(model).__name__, model.revision, sorted(model.files.items())])
    if isinstance(model, ResolvedClip):
        return digest(["clip", model.location, model.tag, model.revision])
    return digest([type(model).__name__, model.path, model.revision])


def _as_older(model: Named) -> Named:
    """As a dataset of an older version names it: by its revision, which its files are then held against."""
    return model if isinstance(model, ResolvedAdapter | PythonScore) else replace(model, files={})


def _is_noted(model: Named) -> bool:
    try:
        return (_notes() / _digest(model)).is_file()
    except (OSError, RuntimeError):
        return False


def _notes() -> Path:
    """Raises RuntimeError where there is no home."""
    own = os.environ.get("PROMPTMILL_STATE_DIR")
    state = own or str(Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state", "promptmill"))
    return Path(state).expanduser() / "models"
