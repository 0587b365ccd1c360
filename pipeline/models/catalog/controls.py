"""ControlNets and T2I-Adapters held against the model they are for, by their configuration alone."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from promptmill.pipeline.models.catalog.diffusers_source import call_parameters, init_annotations
from promptmill.pipeline.models.catalog.door import folder_problems
from promptmill.pipeline.models.catalog.hub import HUB_ID, open_hub_model
from promptmill.pipeline.models.catalog.licenses import license_of_folder
from promptmill.pipeline.models.catalog.resolve import settings_folder
from promptmill.pipeline.models.catalog.shipped import BUILTIN, shipped
from promptmill.pipeline.models.catalog.tasks import class_for, that_steer
from promptmill.pipeline.models.catalog.weights import (
    BY_HASH,
    ModelFolder,
    identity_of,
    list_folder,
    read_json,
    select_weights,
    weights_problem,
)
from promptmill.pipeline.storage.homes import at_home
from promptmill.schemas.additions import ControlNet
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.inputs import ControlKind, TaskName, control_kind
from promptmill.schemas.resolved import ResolvedControl, ResolvedModel

CONFIG: Final = "config.json"
_SAME: Final = (
    *("cross_attention_dim", "block_out_channels", "layers_per_block", "addition_embed_type"),
    *("joint_attention_dim", "pooled_projection_dim", "num_attention_heads", "attention_head_dim", "patch_size"),
)
"""What a ControlNet and its base must have in common, where both have it: their layers meet one another."""
_TOLD: Final[Mapping[ControlKind, str]] = {
    "controlnet": "ControlNets",
    "controlnet-union": "union ControlNets",
    "adapter": "T2I-Adapters",
}
_HAVE: Final[Mapping[ControlKind, str]] = {
    "controlnet": "Stable Diffusion, SDXL, SD 3, Flux, Qwen-Image and Z-Image have them.",
    "controlnet-union": "SDXL has them; unions of Flux and Qwen-Image are ControlNets of their own class.",
    "adapter": "Stable Diffusion and SDXL have them, from text alone.",
}
MODES: Final[Mapping[str, Mapping[str, int]]] = {
    "ControlNetUnionModel": {
        **{"pose": 0, "openpose": 0, "depth": 1, "scribble": 2, "softedge": 2, "canny": 3, "lineart": 3},
        **{"normal": 4, "segment": 5, "tile": 6, "repaint": 7},
    },
    "FluxControlNetModel": {"canny": 0, "tile": 1, "depth": 2, "blur": 3, "pose": 4, "gray": 5, "low_quality": 6},
}
"""Of unions: kinds of maps by number, as those who published them say (xinsir's for SDXL, InstantX' for Flux)."""
_ANOTHER: Final = "Is it for another base model?"
_OF_TRANSFORMERS: Final = frozenset({"attention_head_dim", "num_attention_heads", "patch_size"})
"""In U-Nets these say nothing of what meets what."""
CALLED: Final = {
    "control_start": ("control_guidance_start",),
    "control_end": ("control_guidance_end", "adapter_conditioning_factor"),
}
"""Fields of `generation`, and the argument of the pipeline's call, which some families lack."""


def resolve_control(net: ControlNet, base: ResolvedModel, task: TaskName, several: bool, where: str) -> ResolvedControl:
    """Raises JobError, by name, for what is no ControlNet or not one for `base`."""
    if not any(class_for(task, base.pipeline_class, kind) for kind in _TOLD):
        raise _unable(task, base, "controlnet", where)
    if net.preprocess == "canny" and find_spec("cv2") is None:
        hint = "pip install opencv-python-headless"
        raise JobError(Problem(f"{where}.preprocess", "OpenCV, which finds the edges", "none installed", hint))
    folder, is_local = _open(net, base.mirror, where)
    config = _config(folder, where)
    class_name = str(config.get("_class_name"))
    pipeline = class_for(task, base.pipeline_class, control_kind(class_name))
    if pipeline is None:
        raise _unable(task, base, control_kind(class_name), where)
    _check_class(class_name, pipeline, base, several, where)
    _check_sides(config, base, where)
    _check_channels(config, base, where)
    if config.get("extra_conditioning_channels"):
        got = f"{config['extra_conditioning_channels']} in {folder.root}"
        raise JobError(Problem(f"{where}.path", "a ControlNet without channels for a mask", got))
    revision, hashes = str(net.revision), dict[str, str]()
    if is_local:
        whole, hashes = identity_of(folder.root, control_files(folder), where)
        revision = f"{BY_HASH}{whole}"
    return ResolvedControl(
        mode=_mode(net, class_name, config, where),
        name=net.name,
        path=net.path,
        location=str(folder.root) if is_local else net.path,
        revision=revision,
        class_name=class_name,
        scale=net.scale,
        preprocess=net.preprocess,
        weights_bytes=sum(folder.files[name] for name in control_files(folder) if name.endswith(".safetensors")),
        is_local=is_local,
        files=hashes,
        mirror=None if is_local else base.mirror,
        license=net.license or license_of_folder(net.path, folder.root),
    )


def check_start_end(base: ResolvedModel, task: TaskName, start: float | None, end: float | None, where: str) -> None:
    """Raises JobError for a time in which nothing is steered, and where the family knows no such time."""
    if (start or 0.0) >= (1.0 if end is None else end):
        raise JobError(Problem(where, "control_start below control_end", f"{start or 0:g} and {end or 1:g}"))
    for field, value in (("control_start", start), ("control_end", end)):
        if value is not None:
            check_time(base, task, field, where)


def check_time(base: ResolvedModel, task: TaskName, field: str, where: str) -> None:
    """Raises JobError where the family knows no such time, whether the job or a column says it."""
    taken = call_parameters(class_for(task, base.pipeline_class, base.control or "controlnet") or "")
    if taken and not taken & {*CALLED[field]}:
        raise JobError(Problem(where, f"nothing for `{field}`, which {base.pipeline_class} lacks", f"`{field}`"))


def _unable(task: TaskName, base: ResolvedModel, kind: ControlKind, where: str) -> JobError:
    hint, got = _HAVE[kind], f"{base.path}, a {base.pipeline_class}"
    if task != "text-to-image" and (able := that_steer(task, kind)):
        hint = f"These do: {', '.join(able)}."
    return JobError(Problem(where, f"a model that does {task} with {_TOLD[kind]}", got, hint))


def control_folder(control: ResolvedControl) -> Path:
    """Of a local one: where it lies here."""
    return _builtin(control.path) if control.path.startswith(BUILTIN) else Path(control.location)


def control_files(folder: ModelFolder) -> list[str]:
    """What of a ControlNet's folder is loaded."""
    return [CONFIG, *select_weights(name for name in folder.files if "/" not in name)[1]]


def look_at(folder: ModelFolder, where: str) -> None:
    """Asked when a job is planned, and by whoever loads the folder. Raises JobError for what may not be loaded."""
    if CONFIG not in folder.files:
        hint = "Save it with `controlnet.save_pretrained(folder)`."
        raise JobError(Problem(f"{where}.path", f"{CONFIG} of a ControlNet in {folder.root}", "none", hint))
    names = control_files(folder)
    problems = folder_problems(folder, [name for name in folder.files if "/" not in name], where)
    if not problems and names == [CONFIG]:
        problems = [Problem(f"{where}.path", f"safetensors in {folder.root}", "none; pickles are never opened")]
    paths = [folder.root / name for name in names[1:] if (folder.root / name).is_file()]
    problems += [problem for path in paths if (problem := weights_problem(path, where))]
    if problems:
        raise JobError(*problems)


def _open(net: ControlNet, mirror: str | None, where: str) -> tuple[ModelFolder, bool]:
    path = _builtin(net.path) if net.path.startswith(BUILTIN) else at_home(net.path)
    if path.is_dir():
        if net.revision is not None:
            hint = "Remove `revision`; the weights of a folder are identified by their hash."
            raise JobError(Problem(f"{where}.revision", "no revision for a folder", net.revision, hint))
        return list_folder(path.absolute()), True
    if HUB_ID.match(net.path) and not net.path.startswith("."):
        return open_hub_model(net.path, net.revision, where, CONFIG, mirror), False
    got = f"a file: {net.path}" if path.exists() else f"nothing at {path.absolute()}"
    hint = "A single file must be converted to a diffusers folder first." if path.is_file() else ""
    expected = "a diffusers folder of a ControlNet or T2I-Adapter, a hub id, or builtin:edges"
    raise JobError(Problem(f"{where}.path", expected, got, hint))


def _builtin(path: str) -> Path:
    return shipped(f"controlnets/{path.removeprefix(BUILTIN)}")


def _config(folder: ModelFolder, where: str) -> dict[str, Any]:
    look_at(folder, where)
    try:
        return read_json(folder.root / CONFIG)
    except ValueError as error:
        raise JobError(Problem(where, f"JSON in {folder.root / CONFIG}", str(error))) from None


def _check_class(class_name: str, pipeline: str, base: ResolvedModel, several: bool, where: str) -> None:
    parts = init_annotations(pipeline)
    taken = parts.get("controlnet") or parts.get("adapter", "")
    names = [word for word in taken.replace("|", " ").split() if word.isidentifier() and "Multi" not in word]
    if class_name not in names:
        got, hint = f"a {class_name}", "Is it for another family?"
        raise JobError(Problem(f"{where}.path", f"a {' or '.join(names)}, as {base.path} takes", got, hint))
    if several and "Multi" not in taken:
        raise JobError(Problem(where, f"one ControlNet, as {pipeline} takes", "several"))


def _check_sides(config: dict[str, Any], base: ResolvedModel, where: str) -> None:
    theirs = _base_config(base)
    for key in _SAME:
        if key in _OF_TRANSFORMERS and "block_out_channels" in config:
            continue
        mine, other = config.get(key), theirs.get(key)
        if None not in (mine, other) and not _equal(mine, other):
            hint = "Is it for another base model?"
            raise JobError(Problem(f"{where}.path", f"`{key}` of {other}, as {base.path} has", f"{mine}", hint))


def _check_channels(config: dict[str, Any], base: ResolvedModel, where: str) -> None:
    """Of a T2I-Adapter: whether its features are as wide as the blocks of the base that they are added to."""
    channels, blocks = config.get("channels"), _base_config(base).get("block_out_channels")
    if config.get("_class_name") != "T2IAdapter" or not isinstance(channels, list) or not isinstance(blocks, list):
        return
    wanted = [*blocks, *[blocks[-1]] * len(channels)][: len(channels)]
    if channels != wanted or (config.get("adapter_type") == "full_adapter_xl") != ("XL" in base.pipeline_class):
        got = f"{channels}, a {config.get('adapter_type')}"
        raise JobError(Problem(f"{where}.path", f"channels {wanted}, as {base.path} has", got, _ANOTHER))


def _mode(net: ControlNet, class_name: str, config: dict[str, Any], where: str) -> int | None:
    """The number of the kind of maps that a union is given."""
    count = config.get("num_control_type") if "Union" in class_name else config.get("num_mode")
    place = f"{where}.mode"
    if not isinstance(count, int):
        if net.mode is not None:
            raise JobError(Problem(place, "no mode, for this is no union ControlNet", repr(net.mode)))
        return None
    known = {name: number for name, number in MODES.get(class_name, {}).items() if number < count}
    number = known.get(net.mode) if isinstance(net.mode, str) else net.mode
    if number is None or number >= count:
        expected = f"a kind of maps: {', '.join(known)}, or a number below {count}"
        raise JobError(Problem(place, expected, repr(net.mode), "It is a union ControlNet."))
    return number


def _equal(mine: Any, other: Any) -> bool:
    """A number stands for a list of it."""
    if isinstance(mine, list) != isinstance(other, list):
        several, one = (mine, other) if isinstance(mine, list) else (other, mine)
        return all(each == one for each in several)
    return bool(mine == other)


def _base_config(base: ResolvedModel) -> dict[str, Any]:
    root = settings_folder(base)
    paths = [root / part / CONFIG for part in ("unet", "transformer")] if root else []
    return next((read_json(path) for path in paths if path.is_file()), {})
