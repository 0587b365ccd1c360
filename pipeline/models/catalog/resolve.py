"""What a job names, looked up before any GPU wakes: configuration files are read, weights only measured.

Imports neither torch nor diffusers: `validate` and `plan` answer in under a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import lcm
from pathlib import Path
from typing import Any, TypeVar

from promptmill.pipeline.models.catalog import diffusers_source
from promptmill.pipeline.models.catalog.components import (
    check_components,
    class_problems,
    component_weights,
    components,
    hashed_files,
    part_files,
)
from promptmill.pipeline.models.catalog.door import folder_problems
from promptmill.pipeline.models.catalog.families import EDITS, INPAINTS, drawn_by
from promptmill.pipeline.models.catalog.hub import HUB_ID, cached_snapshot, download, open_hub_model
from promptmill.pipeline.models.catalog.licenses import license_of_folder
from promptmill.pipeline.models.catalog.mirror import Told, silent
from promptmill.pipeline.models.catalog.pipeline_code import PipelineCode
from promptmill.pipeline.models.catalog.quantized import bytes_of_parts
from promptmill.pipeline.models.catalog.refusals import refused_class, unknown_class
from promptmill.pipeline.models.catalog.settings import Autoencoder, Denoiser, Scheduler, read_settings
from promptmill.pipeline.models.catalog.shipped import BUILTIN, shipped
from promptmill.pipeline.models.catalog.weights import BY_HASH, ModelFolder, identity_of, list_folder, read_json
from promptmill.pipeline.storage.homes import at_home
from promptmill.pipeline.storage.urls import absolute_url
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.generation import Model
from promptmill.schemas.resolved import ResolvedModel

DECODERS = ("vae", "movq", "vqvae", "vqgan")
"""How pipelines call the part that makes pixels of latents."""
BUILTIN_MODELS = {"shapes": "model"}
"""By the name behind `builtin:`, where it lies among what is shipped."""
BUILTIN_MAX_SIZE = 128
"""The built-in model has seen 64 pixels; above twice that it repeats itself."""

DEFAULT_SAMPLE_SIZE = 128
"""Latent side of pipelines whose configuration names none (Flux and its kin write it in their code)."""
PACKED = ("Flux", "QwenImage", "Chroma", "Ovis", "LongCat", "Bria")
"""Pipelines that pack 2×2 latents into a token outside the transformer, so that its `patch_size` is 1."""

PROCESS_BYTES = 950 * 10**6
"""A worker that has imported torch, diffusers, transformers and open_clip and loaded nothing: 919 MB measured."""
BYTES_PER_PIXEL = 6 * 2**10
"""Decoding one image in float32; 4.2 kB to 5.9 kB measured with Stable Diffusion's autoencoder at 384² and 256²."""


def resolve_model(model: Model, where: str) -> ResolvedModel:
    """Everything the plan needs to know of a model. `where` names the place in the job file for messages.

    Raises JobError with all problems found in the folder.
    """
    folder, is_local = _open(model, where)
    index = check_folder(folder, where)
    pipeline_class = pipeline_code(folder.root, index).class_name
    weights = component_weights(folder, index)
    width, height, multiple = _sizes(folder, index, pipeline_class, where)
    builtin = model.path.startswith(BUILTIN)
    revision, files = str(model.revision), dict[str, str]()
    if is_local:
        whole, files = identity_of(folder.root, hashed_files(folder, index), where)
        revision = f"{BY_HASH}{whole}"
    return ResolvedModel(
        path=model.path,
        location=str(folder.root) if is_local else model.path,
        revision=revision,
        dtype=model.dtype,
        pipeline_class=pipeline_class,
        scheduler=_scheduler(folder, index, where),
        width=width,
        height=height,
        size_multiple=multiple,
        max_size=BUILTIN_MAX_SIZE if builtin else None,
        weights_bytes=sum(folder.files[name] for name in weights),
        is_local=is_local,
        files=files,
        quantization=model.quantization,
        offload=model.offload,
        device_map=model.device_map,
        license=model.license or license_of_folder(model.path, folder.root),
        mirror=model.mirror and absolute_url(model.mirror),
    )


def check_folder(folder: ModelFolder, where: str) -> dict[str, Any]:
    """Of a diffusers folder its model_index.json, if the folder is whole and holds nothing that `door` keeps out.

    Asked when a job is planned, and again by whoever loads the folder. Raises JobError with all problems.
    """
    _raise_any(folder_problems(folder, [name for name in ("model_index.json",) if name in folder.files], where))
    index = _read_index(folder, where)
    _pipeline_class(index, where)
    kept_out = [*class_problems(folder, index, where), *folder_problems(folder, part_files(folder, index), where)]
    _raise_any(kept_out or check_components(folder, index, where))
    return index


def _raise_any(problems: Sequence[Problem]) -> None:
    if problems:
        raise JobError(*problems)


def memory_needed_bytes(model: ResolvedModel, pixels: int | None = None) -> int:
    """An estimate of what one worker takes at batch size 1, erring high.

    The process with its libraries, the weights at their width on the device (4 bytes for `auto`: the CPU's, else a
    GPU's where the model needs one), and one image of so many `pixels`, else of the model's own size. On a GPU the
    process's share stays in main memory, so take it off there.
    """
    return PROCESS_BYTES + sum(_weights_bytes(model).values()) + _image_bytes(model, pixels)


def device_bytes(model: ResolvedModel, pixels: int | None = None) -> int:
    """Of that, what lies on a GPU at once: of an offloaded model its largest part, or next to nothing of it."""
    weights = _weights_bytes(model)
    held = {"none": sum(weights.values()), "model": max(weights.values()), "sequential": 0}[model.offload]
    return held + _image_bytes(model, pixels)


def _image_bytes(model: ResolvedModel, pixels: int | None) -> int:
    return (pixels or model.width * model.height) * BYTES_PER_PIXEL


def _weights_bytes(model: ResolvedModel) -> dict[str, int]:
    """By part: counted in the headers of the weights where they lie here, else taken as two bytes a number each."""
    on_gpu = model.offload != "none" or model.device_map is not None
    width = 4 if model.dtype == "float32" or (model.dtype == "auto" and not on_gpu) else 2
    nets = {f"controlnet {net.name}": net.weights_bytes // 2 * width for net in model.controlnets}
    root = Path(model.location)
    if not model.is_local or not root.is_dir():
        return {"weights": model.weights_bytes // 2 * width, **nets}
    return {**bytes_of_parts(root, width, model.quantization), **nets}


def model_folder(model: ResolvedModel) -> Path:
    """Of a local one: where it lies here. That of a built-in model is another on each machine."""
    return builtin_folder(model.path) if model.path.startswith(BUILTIN) else Path(model.location)


def fetch_model(model: ResolvedModel, told: Told = silent) -> Path:
    """Where it lies here; of the hub the files that count are fetched first. Raises as `Mirrored` does."""
    if model.is_local:
        return model_folder(model)
    listed = open_hub_model(model.path, model.revision, "model", "model_index.json", model.mirror)
    names = hashed_files(listed, check_folder(listed, "model"))
    return download(model.path, model.revision, names, model.mirror, told)


def settings_folder(model: ResolvedModel) -> Path | None:
    """Where the settings of its parts lie here; of a hub model they were fetched to look at it."""
    return model_folder(model) if model.is_local else cached_snapshot(model.path, model.revision, model.mirror)


def builtin_folder(path: str, where: str = "model") -> Path:
    """Folder of `builtin:name` in the package as installed here. Raises JobError for an unknown name."""
    name = path.removeprefix(BUILTIN)
    if name not in BUILTIN_MODELS:
        known = ", ".join(BUILTIN + each for each in BUILTIN_MODELS)
        raise JobError(Problem(f"{where}.path", f"one of {known}", path))
    return shipped(BUILTIN_MODELS[name])


def _open(model: Model, where: str) -> tuple[ModelFolder, bool]:
    if model.path.startswith(BUILTIN):
        return _open_local(builtin_folder(model.path, where), where, model.path), True
    path = at_home(model.path)
    if path.is_dir():
        if model.revision is not None:
            hint = "Remove `revision`; the weights of a folder are identified by their hash."
            raise JobError(Problem(f"{where}.revision", "no revision for a folder", model.revision, hint))
        return _open_local(path.absolute(), where, model.path), True
    if HUB_ID.match(model.path) and not model.path.startswith("."):
        return open_hub_model(model.path, model.revision, where, "model_index.json", model.mirror), False
    got = f"a file: {model.path}" if path.exists() else f"nothing at {path.absolute()}"
    hint = ""
    if path.is_file():
        hint = "A single .safetensors or .ckpt file must be converted to a diffusers folder first."
    if path.suffix == ".gguf":
        hint = "Put it beside transformer/config.json of the model it was made of, in place of the safetensors there."
    raise JobError(Problem(f"{where}.path", "a diffusers folder, a hub id, or builtin:shapes", got, hint))


def _open_local(root: Path, where: str, name: str) -> ModelFolder:
    if not root.is_dir():
        raise JobError(Problem(f"{where}.path", f"the folder of {name}", f"nothing at {root}"))
    return list_folder(root)


def _read_index(folder: ModelFolder, where: str) -> dict[str, Any]:
    if "model_index.json" not in folder.files:
        kind = (
            "a single model's folder (config.json)" if "config.json" in folder.files else f"{len(folder.files)} files"
        )
        hint = "Save it with `pipeline.save_pretrained(folder)`."
        raise JobError(Problem(f"{where}.path", f"model_index.json in {folder.root}", f"{kind} without it", hint))
    try:
        return read_json(folder.root / "model_index.json")
    except ValueError as error:
        raise JobError(Problem(where, f"JSON in {folder.root / 'model_index.json'}", str(error))) from error


def _pipeline_class(index: dict[str, Any], where: str) -> str:
    name = index.get("_class_name")
    if not isinstance(name, str):
        got = f"custom code ({name})" if isinstance(name, list) else repr(name)
        raise JobError(
            Problem(
                where,
                "`_class_name` of a diffusers pipeline in model_index.json",
                got,
                "Code from model folders is never run.",
            )
        )
    if name not in diffusers_source.pipeline_modules():
        raise JobError(unknown_class(name, where))
    if not (diffusers_source.makes_images_from_text(name) or name in {*EDITS, *INPAINTS.values()}):
        hint = "Name a text-to-image model, or one of those that edit: " + ", ".join(sorted(EDITS)) + "."
        raise JobError(refused_class(name, where, hint))
    if missing := diffusers_source.missing_package(name):
        expected = f"the package {missing}, without which {name} draws nothing"
        raise JobError(
            Problem(where, expected, "none installed", f"Install it on every machine: pip install {missing}")
        )
    return name


def _scheduler(folder: ModelFolder, index: dict[str, Any], where: str) -> str:
    file = "scheduler/scheduler_config.json"
    return _settings(folder, file, Scheduler, where).class_name or str(index["scheduler"][1])


def _sizes(folder: ModelFolder, index: dict[str, Any], pipeline_class: str, where: str) -> tuple[int, int, int]:
    """Default width and height, and what both must be multiples of, in pixels."""
    part = next((name for name in ("transformer", "unet") if _has(index, name)), "")
    denoiser = _settings(folder, f"{part}/config.json", Denoiser, where)
    decoder = next((name for name in DECODERS if _has(index, name)), None)
    factor = _vae_factor(_settings(folder, f"{decoder}/config.json", Autoencoder, where)) if decoder else 1
    patch = 2 if pipeline_class.startswith(PACKED) else denoiser.patch_size or 1
    patch = patch if isinstance(patch, int) else max(patch)
    code = pipeline_code(folder.root, index)
    multiple = lcm(8, factor * patch, code.multiple())
    if denoiser.sample_size is None:
        height, width = (code.own_side(side) or DEFAULT_SAMPLE_SIZE * factor for side in ("height", "width"))
        return width, height, multiple
    sample = denoiser.sample_size
    height, width = sample if isinstance(sample, list) else (sample, sample)
    return width * factor, height * factor, multiple


def pipeline_code(root: Path, index: dict[str, Any]) -> PipelineCode:
    """With the settings of the parts in the folder; of those that cannot be read, none."""
    paths = {name: root / name / "config.json" for name, _, _ in components(index)}
    settings = {name: read_json(path) if path.is_file() else {} for name, path in paths.items()}
    name = drawn_by(str(index["_class_name"]), settings.get("unet", {}).get("in_channels"))
    return PipelineCode(name, index, settings)


def code_of(model: ResolvedModel) -> PipelineCode | None:
    root = settings_folder(model)
    return pipeline_code(root, read_json(root / "model_index.json")) if root else None


def _vae_factor(vae: Autoencoder) -> int:
    """Pixels per latent: a halving between two levels, as diffusers counts them."""
    levels = vae.block_out_channels or vae.encoder_block_out_channels or vae.dim_mult
    return int(2 ** (len(levels) - 1)) if levels else 8


def _has(index: dict[str, Any], component: str) -> bool:
    return any(name == component for name, _, _ in components(index))


_S = TypeVar("_S", Denoiser, Autoencoder, Scheduler)


def _settings(folder: ModelFolder, name: str, kind: type[_S], where: str) -> _S:
    """Of a part that is there; the defaults where its file is none. Raises JobError naming the keys that are wrong."""
    path = folder.root / name
    try:
        return read_settings(kind, read_json(path) if path.is_file() else {})
    except ValueError as error:
        raise JobError(Problem(where, f"settings of a model in {path}", str(error))) from None
