"""The models that say how alike two images are: open_clip's, or a folder of transformers such as DINOv2 or CLIP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from promptmill.pipeline.models.catalog.clips import CONFIG, LOCAL, ResolvedClip, resolve_clip
from promptmill.pipeline.models.catalog.door import folder_problems
from promptmill.pipeline.models.catalog.weights import (
    BY_HASH,
    ModelFolder,
    identity_of,
    list_folder,
    read_json,
    select_weights,
    small_files,
    weights_problem,
)
from promptmill.pipeline.storage.homes import at_home
from promptmill.schemas.errors import JobError, Problem

SETTINGS, PREPROCESSOR = "config.json", "preprocessor_config.json"


@dataclass(frozen=True)
class ResolvedVision:
    """A folder that `AutoModel` of transformers loads; `revision` is a hash of its files."""

    path: str
    location: str
    revision: str
    files: Mapping[str, str] = field(default_factory=dict, compare=False)


Features = ResolvedClip | ResolvedVision


def resolve_features(spec: str, where: str) -> Features:
    """As `resolve_clip`, or the path of a folder of transformers. Raises JobError."""
    folder = at_home(spec.removeprefix(LOCAL)).absolute()
    if folder.is_dir() and (folder / SETTINGS).is_file() and not (folder / CONFIG).is_file():
        files = list_folder(folder)
        check_vision_folder(files, where)
        whole, hashes = identity_of(folder, vision_files(files), where)
        return ResolvedVision(spec, str(folder), f"{BY_HASH}{whole}", hashes)
    return resolve_clip(f"{LOCAL}{spec}" if folder.is_dir() and not spec.startswith(LOCAL) else spec, where)


def vision_files(folder: ModelFolder) -> list[str]:
    """What embeddings depend on: files directly in the folder."""
    return sorted({*(name for name in small_files(folder) if "/" not in name), *_weights(folder)})


def check_vision_folder(folder: ModelFolder, where: str) -> None:
    """Asked before anything is made, and again by whoever loads the folder. Raises JobError with all problems."""
    problems = folder_problems(folder, (name for name in folder.files if "/" not in name), where)
    problems = problems or [*_missing(folder, where), *_broken(folder.root, _weights(folder), where)]
    if problems:
        raise JobError(*problems)


def _weights(folder: ModelFolder) -> list[str]:
    return select_weights(name for name in folder.files if "/" not in name)[1]


def _missing(folder: ModelFolder, where: str) -> list[Problem]:
    hint = "Pickles can run code and are never loaded."
    found = [] if _weights(folder) else [Problem(where, f"safetensors in {folder.root}", "none", hint)]
    if PREPROCESSOR not in folder.files:
        hint = "It says how images are resized: save it with `AutoImageProcessor`"
        found.append(Problem(where, f"{PREPROCESSOR} in {folder.root}", "no such file", hint))
    if not isinstance(read_json(folder.root / SETTINGS).get("model_type"), str):
        found.append(Problem(where, f"`model_type` in {folder.root / SETTINGS}", "none"))
    return found


def _broken(root: Path, names: list[str], where: str) -> list[Problem]:
    return [problem for name in names if (problem := weights_problem(root / name, where))]
