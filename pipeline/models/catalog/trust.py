"""Which models a user of this machine has named in a job: those that a stranger's dataset names are loaded on request.

Known by content (hashes of a folder's files, the commit of a hub model) and never by place, so that a dataset may move;
classes of scores by import path and version. A mirror is part of it: who names one says what a commit's files are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any, Final

from promptmill.pipeline.models.catalog.clips import BUILTIN_CLIPS, ResolvedClip
from promptmill.pipeline.models.catalog.resolve import BUILTIN_MODELS
from promptmill.pipeline.models.catalog.shipped import BUILTIN
from promptmill.pipeline.storage.noted import is_noted, note
from promptmill.schemas.identity import digest
from promptmill.schemas.plan import PythonScore
from promptmill.schemas.resolved import ResolvedAdapter, ResolvedControl, ResolvedIpAdapter, ResolvedModel

_KIND: Final = "models"

Named = ResolvedModel | ResolvedClip | ResolvedAdapter | ResolvedControl | ResolvedIpAdapter | PythonScore


def remember(models: Iterable[Named]) -> str | None:
    """Note that a job of this user's names these. What went wrong, where that cannot be written."""
    own = [model for model in _all(models) if not _is_builtin(model)]
    return note(_KIND, [_digest(each) for model in own for each in (model, _as_older(model))])


def strangers(models: Iterable[Named], given: Iterable[Named] = ()) -> list[str]:
    """Paths of those that are not built in, in no job run here so far, and not among those `given`."""
    known = {_digest(model) for model in _all(given)}
    unknown = (model for model in _all(models) if not _is_builtin(model) and _digest(model) not in known)
    return list(dict.fromkeys(model.path for model in unknown if not is_noted(_KIND, _digest(model))))


def _all(models: Iterable[Named]) -> Iterator[Named]:
    for model in models:
        yield model
        if isinstance(model, ResolvedModel):
            yield from _beside(model)


def _beside(model: ResolvedModel) -> Iterator[Named]:
    """Whatever is loaded onto it: a kind that is added to the model is asked about from its first day."""
    for each in fields(model):
        value = getattr(model, each.name)
        parts: tuple[Any, ...] = value if isinstance(value, tuple) else (value,)
        yield from filter(is_dataclass, parts)


def _is_builtin(model: Named) -> bool:
    if isinstance(model, PythonScore | ResolvedIpAdapter):
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
        # Of the hub its place too: what has another sum is refused only once it was fetched.
        return digest(["adapter", model.sha, *([model.path, model.revision, model.mirror] if model.revision else [])])
    if model.is_local:
        return digest([type(model).__name__, model.revision, sorted(model.files.items())])
    if isinstance(model, ResolvedClip):
        return digest(["clip", model.location, model.tag, model.revision])
    own = [model.weights, model.encoder] if isinstance(model, ResolvedIpAdapter) else []
    return digest([type(model).__name__, model.path, model.revision, *own, *([model.mirror] if model.mirror else [])])


def _as_older(model: Named) -> Named:
    """As a dataset of an older version names it: by its revision, which its files are then held against."""
    return model if isinstance(model, ResolvedAdapter | PythonScore) else replace(model, files={})
