"""The open_clip models that a job scores with, looked up without importing torch or open_clip."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from promptmill.pipeline.models.catalog import diffusers_source
from promptmill.pipeline.models.catalog.door import folder_problems
from promptmill.pipeline.models.catalog.headers import parameter_count
from promptmill.pipeline.models.catalog.hub import COMMIT, HUB_ID, newest_commit, open_hub_model
from promptmill.pipeline.models.catalog.settings import ClipSettings, read_settings
from promptmill.pipeline.models.catalog.shipped import BUILTIN, shipped
from promptmill.pipeline.models.catalog.weights import (
    BY_HASH,
    PICKLES,
    ModelFolder,
    identity_of,
    list_folder,
    onnx_name,
    read_json,
    small_files,
    weights_problem,
)
from promptmill.pipeline.storage.homes import at_home
from promptmill.schemas.errors import JobError, Problem

BUILTIN_CLIPS = {f"{BUILTIN}shapes": "clip"}
LOCAL, HUB = "local-dir:", "hf-hub:"
CONFIG = "open_clip_config.json"
PREFERRED_BY_OPEN_CLIP = (
    *("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors"),
    *("open_clip_pytorch_model.bin", "open_clip_pytorch_model.pth"),
    *("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth"),
)
"""The order in which open_clip 3.3 looks for weights in a folder (`factory._find_checkpoint_in_dir`)."""
SLACK = 1_000_000
"""Parameters that towers may lack of what their numbers say: projections and positions come in several forms."""


@dataclass(frozen=True)
class ResolvedClip:
    """`location` is what open_clip takes: `local-dir:`, `hf-hub:` or an architecture, the last with a `tag`.

    `revision` is a hash of a folder's files, the commit of a hub model, or the name of what open_clip publishes, whose
    `weights_bytes` is 0.
    """

    path: str
    location: str
    tag: str | None
    revision: str
    weights_bytes: int
    files: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Hashes of a folder's files by name, as in ResolvedModel."""

    @property
    def is_local(self) -> bool:
        return self.location.startswith(LOCAL)

    @property
    def identity(self) -> str:
        """What a job's fingerprint holds: a branch of a hub model may move, and the same job must still continue.

        Which commit a dataset is scored with stands in the plan that claimed it.
        """
        return self.revision if self.is_local else self.path


def resolve_clip(spec: str, where: str) -> ResolvedClip:
    """`builtin:shapes`, `local-dir:folder`, `hf-hub:org/name[@commit]` or `architecture/tag`. Raises JobError."""
    if spec.startswith(BUILTIN):
        if spec not in BUILTIN_CLIPS:
            raise JobError(Problem(where, f"one of {', '.join(BUILTIN_CLIPS)}", spec))
        return _resolve_folder(spec, builtin_clip_folder(spec), where)
    if spec.startswith(LOCAL):
        return _resolve_folder(spec, at_home(spec.removeprefix(LOCAL)).absolute(), where)
    if spec.startswith(HUB):
        return _resolve_hub(spec, where)
    return _resolve_published(spec, where)


def clip_folder(clip: ResolvedClip) -> Path:
    """Of a local one: where it lies here."""
    return builtin_clip_folder(clip.path) if clip.path in BUILTIN_CLIPS else Path(clip.location.removeprefix(LOCAL))


def builtin_clip_folder(spec: str) -> Path:
    return shipped(BUILTIN_CLIPS[spec])


def _resolve_hub(spec: str, where: str) -> ResolvedClip:
    hub_id, at, commit = spec.removeprefix(HUB).partition("@")
    if not HUB_ID.match(hub_id) or (at and not COMMIT.match(commit)):
        expected = "hf-hub:organisation/name, if wanted with @ and a commit of 40 hex digits"
        raise JobError(Problem(where, expected, spec))
    commit = commit or newest_commit(hub_id, where)
    folder = open_hub_model(hub_id, commit, where, CONFIG)
    check_clip_folder(folder, f"{hub_id} at {commit[:12]}", where)
    weights = _weights(folder)
    return ResolvedClip(spec, f"{HUB}{hub_id}", None, commit, sum(folder.files[name] for name in weights))


def _weights(folder: ModelFolder) -> list[str]:
    return [name for name in folder.files if name.endswith(".safetensors") and "/" not in name]


def _no_safetensors(folder: ModelFolder, place: str, where: str) -> Problem:
    pickles = [name for name in folder.files if name.endswith(PICKLES)]
    got = f"only {', '.join(pickles[:3])}" if pickles else "no weights"
    return Problem(where, f"safetensors in {place}", got, "Pickles can run code and are never loaded.")


def _resolve_published(spec: str, where: str) -> ResolvedClip:
    architecture, slash, tag = spec.rpartition("/")
    known = diffusers_source.clip_tags()
    expected = "name/tag of open_clip, hf-hub:org/name, local-dir:folder, or builtin:shapes"
    if not slash or architecture not in known:
        hint = (
            f"`{LOCAL}{spec}` names a folder."
            if Path(spec).is_dir()
            else _did_you_mean(architecture or spec, list(known))
        )
        raise JobError(Problem(where, expected, repr(spec), hint))
    if tag not in known[architecture]:
        close = _did_you_mean(tag, list(known[architecture]))
        raise JobError(
            Problem(where, f"a tag of {architecture}", repr(tag), close or f"Tags: {', '.join(known[architecture])}.")
        )
    return ResolvedClip(spec, architecture, tag, spec, 0)


def _did_you_mean(name: str, known: list[str]) -> str:
    close = get_close_matches(name, known, n=3)
    return f"Did you mean {' or '.join(close)}?" if close else ""


def _resolve_folder(spec: str, root: Path, where: str) -> ResolvedClip:
    if not root.is_dir():
        raise JobError(Problem(where, "an open_clip folder", f"nothing at {root}"))
    folder = list_folder(root)
    check_clip_folder(folder, str(root), where)
    weights = _weights(folder)
    size = sum(folder.files[name] for name in weights)
    whole, files = identity_of(root, clip_files(folder), where)
    return ResolvedClip(spec, f"{LOCAL}{root}", None, f"{BY_HASH}{whole}", size, files)


def clip_files(folder: ModelFolder) -> list[str]:
    """What scores depend on: of a classifier as ONNX that file."""
    onnx = onnx_name(folder)
    return sorted({*small_files(folder), *_weights(folder), *(() if onnx is None else (onnx,))})


def old_clip_files(folder: ModelFolder) -> list[str]:
    """What older versions hashed."""
    weights = _weights(folder)
    return [name for name in folder.files if name in weights or name.endswith((".json", ".txt", ".model"))]


def check_clip_folder(folder: ModelFolder, place: str, where: str) -> None:
    """Whether open_clip can load it, and finds nothing there that `door` keeps out.

    Asked when a job is planned, and again by whoever loads the folder. Raises JobError with all problems.
    """
    problems = folder_problems(folder, (name for name in folder.files if "/" not in name), where)
    problems = problems or _weights_problems(folder, place, where) + _config_problems(folder, where)
    if problems:
        raise JobError(*problems)


def _weights_problems(folder: ModelFolder, place: str, where: str) -> list[Problem]:
    weights = _weights(folder)
    if not weights:
        return [_no_safetensors(folder, place, where)]
    if first := _pickle_first(folder):
        hint = "Pickles can run code and are never loaded."
        return [Problem(where, f"safetensors in {place}", f"{first}, which open_clip takes first", hint)]
    here = [folder.root / name for name in weights if (folder.root / name).is_file()]
    return [problem for path in here if (problem := weights_problem(path, where))]


def _pickle_first(folder: ModelFolder) -> str:
    """The pickle that open_clip would choose although there are safetensors; empty where it would not."""
    chosen = next((name for name in PREFERRED_BY_OPEN_CLIP if name in folder.files), "")
    return "" if chosen.endswith(".safetensors") else chosen


def _config_problems(folder: ModelFolder, where: str) -> list[Problem]:
    path = folder.root / CONFIG
    if CONFIG not in folder.files:
        return [Problem(where, f"{CONFIG} in {folder.root}", "no such file")]
    try:
        model = read_settings(ClipSettings, read_json(path)).model_cfg
    except ValueError as error:
        return [Problem(where, f"model_cfg with embed_dim, vision_cfg and text_cfg in {path}", str(error))]
    held = max(map(_parameters, (folder.root / name for name in _weights(folder))), default=0)
    if held and model.least_parameters > held + SLACK:
        got = f"{model.least_parameters:,} in {path}"
        return [Problem(where, f"towers of the {held:,} parameters that the weights have", got)]
    return []


def _parameters(path: Path) -> int:
    """0 where the file is not here, or broken, which others tell."""
    try:
        return parameter_count(path)
    except (ValueError, OSError):
        return 0
