"""ControlNets held against the model they are for, by their configuration alone."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from promptmill.pipeline.models.catalog.diffusers_source import call_parameters, init_annotations
from promptmill.pipeline.models.catalog.door import folder_problems
from promptmill.pipeline.models.catalog.hub import HUB_ID, open_hub_model
from promptmill.pipeline.models.catalog.resolve import settings_folder
from promptmill.pipeline.models.catalog.shipped import BUILTIN, shipped
from promptmill.pipeline.models.catalog.tasks import class_for
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
from promptmill.schemas.inputs import TaskName
from promptmill.schemas.plan import ResolvedControl, ResolvedModel

CONFIG: Final = "config.json"
_SAME: Final = (
    *("cross_attention_dim", "block_out_channels", "layers_per_block", "addition_embed_type"),
    *("joint_attention_dim", "pooled_projection_dim", "num_attention_heads", "attention_head_dim", "patch_size"),
)
"""What a ControlNet and its base must have in common, where both have it: their layers meet one another."""
_OF_TRANSFORMERS: Final = frozenset({"attention_head_dim", "num_attention_heads", "patch_size"})
"""In U-Nets these say nothing of what meets what."""
CALLED: Final = {"control_start": "control_guidance_start", "control_end": "control_guidance_end"}
"""Fields of `generation`, and the argument of the pipeline's call, which some families lack."""


def resolve_control(net: ControlNet, base: ResolvedModel, task: TaskName, several: bool, where: str) -> ResolvedControl:
    """Raises JobError, by name, for what is no ControlNet or not one for `base`."""
    pipeline = class_for(task, base.pipeline_class, controlled=True)
    if pipeline is None:
        hint = "Stable Diffusion, SDXL, SD 3, Flux, Qwen-Image and Z-Image have them."
        got = f"{base.path}, a {base.pipeline_class}"
        raise JobError(Problem(where, f"a model that does {task} with ControlNets", got, hint))
    if net.preprocess == "canny" and find_spec("cv2") is None:
        hint = "pip install opencv-python-headless"
        raise JobError(Problem(f"{where}.preprocess", "OpenCV, which finds the edges", "none installed", hint))
    folder, is_local = _open(net, where)
    config = _config(folder, where)
    class_name = str(config.get("_class_name"))
    _check_class(class_name, pipeline, base, several, where)
    _check_sides(config, base, where)
    if config.get("extra_conditioning_channels"):
        got = f"{config['extra_conditioning_channels']} in {folder.root}"
        raise JobError(Problem(f"{where}.path", "a ControlNet without channels for a mask", got))
    revision, hashes = str(net.revision), dict[str, str]()
    if is_local:
        whole, hashes = identity_of(folder.root, control_files(folder), where)
        revision = f"{BY_HASH}{whole}"
    return ResolvedControl(
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
    taken = call_parameters(class_for(task, base.pipeline_class, controlled=True) or "")
    if taken and CALLED[field] not in taken:
        raise JobError(Problem(where, f"nothing for `{field}`, which {base.pipeline_class} lacks", f"`{field}`"))


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


def _open(net: ControlNet, where: str) -> tuple[ModelFolder, bool]:
    path = _builtin(net.path) if net.path.startswith(BUILTIN) else at_home(net.path)
    if path.is_dir():
        if net.revision is not None:
            hint = "Remove `revision`; the weights of a folder are identified by their hash."
            raise JobError(Problem(f"{where}.revision", "no revision for a folder", net.revision, hint))
        return list_folder(path.absolute()), True
    if HUB_ID.match(net.path) and not net.path.startswith("."):
        return open_hub_model(net.path, net.revision, where, CONFIG), False
    got = f"a file: {net.path}" if path.exists() else f"nothing at {path.absolute()}"
    hint = "A single file must be converted to a diffusers folder first." if path.is_file() else ""
    expected = "a diffusers folder of a ControlNet, a hub id, or builtin:edges"
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
    taken = init_annotations(pipeline).get("controlnet", "")
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
