"""A model's folder held against the plan, before and after its weights are loaded. Every loader passes here.

Another kind of folder (adapters, ControlNets) needs a `Part` of its own and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from promptmill.pipeline.models.catalog.clips import ResolvedClip, clip_files, clip_folder, old_clip_files
from promptmill.pipeline.models.catalog.components import hashed_files
from promptmill.pipeline.models.catalog.controls import control_files, control_folder
from promptmill.pipeline.models.catalog.references import ip_adapter_files
from promptmill.pipeline.models.catalog.resolve import model_folder
from promptmill.pipeline.models.catalog.weights import (
    BY_HASH,
    HASHED_SUFFIXES,
    ModelFolder,
    hash_files,
    list_folder,
    read_json,
    sampled_hash,
)
from promptmill.pipeline.storage.digests import ChangedMeanwhileError, Stamp, notes_folder, stamp
from promptmill.pipeline.storage.turns import one_at_a_time
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.resolved import ResolvedControl, ResolvedIpAdapter, ResolvedModel

Resolved = ResolvedModel | ResolvedClip | ResolvedControl | ResolvedIpAdapter

_HINT = (
    "What was made stays. Put the files back as they were and run again, or give what is made with these an output.url "
    "of its own"
)


@dataclass(frozen=True)
class Part:
    """A folder that a plan names. `names` says which of its files are loaded; plans of older versions hold no `files`,
    and their `revision` is a hash of `old_names`."""

    where: str
    root: Path
    revision: str
    files: Mapping[str, str]
    names: Callable[[ModelFolder], list[str]]
    old_names: Callable[[ModelFolder], list[str]]


def part_of(model: Resolved) -> Part | None:
    """None for what is no folder of the user's: of the hub, the commit says what it is."""
    if not model.is_local:
        return None
    if isinstance(model, ResolvedClip):
        root = clip_folder(model)
        return Part(f"score: {model.path}", root, model.revision, model.files, clip_files, old_clip_files)
    if isinstance(model, ResolvedControl):
        root = control_folder(model)
        place = f"model.controlnets: {model.path}"
        return Part(place, root, model.revision, model.files, control_files, control_files)
    if isinstance(model, ResolvedIpAdapter):
        root = Path(model.location)
        names = partial(ip_adapter_files, model)
        return Part(f"model.ip_adapter: {model.path}", root, model.revision, model.files, names, names)
    root = model_folder(model)
    return Part(f"model.path: {model.path}", root, model.revision, model.files, _model_files, _old_model_files)


@contextmanager
def held(model: Resolved) -> Iterator[None]:
    """Raises JobError where what is loaded inside is not what was planned, or was written meanwhile."""
    part = part_of(model)
    if part is None:
        yield
        return
    before = _stamps(part)
    with _turn(part):  # the first to come reads the disk, for all workers of a node
        differing = _differing(part)
    if differing:
        raise JobError(Problem(part.where, f"the files of the plan in {part.root}", differing, _HINT))
    yield
    if _stamps(part) != before:
        got = "files that were written while they were loaded"
        raise JobError(Problem(part.where, f"the files of the plan in {part.root}", got, _HINT))


def lies_at(model: Resolved, root: Path) -> bool:
    """Whether the folder there is the one of the plan."""
    part = part_of(model)
    return part is not None and _is_same(replace(part, root=root))


def is_same(ours: Resolved, theirs: Resolved) -> bool:
    """Whether `ours`, which lies here, is what an older plan means with `theirs`, wherever that lay."""
    part = part_of(ours)
    if part is None or not theirs.is_local:
        return False
    return ours.revision == theirs.revision or _is_same(replace(part, revision=theirs.revision, files={}))


def _model_files(folder: ModelFolder) -> list[str]:
    return hashed_files(folder, read_json(folder.root / "model_index.json"))


def _old_model_files(folder: ModelFolder) -> list[str]:
    return [name for name in _model_files(folder) if name.endswith(HASHED_SUFFIXES)]


def _is_same(part: Part) -> bool:
    try:
        return not _differing(part)
    except JobError:
        return False


def _differing(part: Part) -> str:
    """Empty where the folder is the planned one. Raises JobError where it cannot be read."""
    try:
        folder = list_folder(part.root)
        whole, files = hash_files(part.root, part.names(folder))
        if not part.files:
            is_it = part.revision in (
                f"{BY_HASH}{whole}",
                f"{BY_HASH}{sampled_hash(part.root, part.old_names(folder))}",
            )
            return "" if is_it else f"others (their hash is {whole})"
    except (OSError, ValueError, ChangedMeanwhileError) as error:
        raise _unreadable(part, error) from None
    names = sorted(files.keys() | part.files.keys())
    found = [word for name in names if (word := _word(name, part.files.get(name), files.get(name)))]
    return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")


def _word(name: str, planned: str | None, now: str | None) -> str:
    if planned == now:
        return ""
    return f"{name} {'is new' if planned is None else 'is gone' if now is None else 'has other content'}"


def _turn(part: Part) -> AbstractContextManager[None]:
    try:
        return one_at_a_time(notes_folder(), str(part.root))
    except RuntimeError:  # no home, and so no notes either
        return nullcontext()


def _stamps(part: Part) -> dict[str, Stamp]:
    try:
        return {name: stamp(part.root / name) for name in part.names(list_folder(part.root))}
    except (OSError, ValueError) as error:
        raise _unreadable(part, error) from None


def _unreadable(part: Part, error: Exception) -> JobError:
    got = str(error) if part.root.is_dir() else "nothing there"
    return JobError(Problem(part.where, f"the files of the plan in {part.root}", got, _HINT))
