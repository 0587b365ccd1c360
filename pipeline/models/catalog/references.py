"""IP-Adapters and Flux Redux held against the model they are for, by headers and settings, before any is loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from promptmill.pipeline.models.catalog import keys
from promptmill.pipeline.models.catalog.adapters import Shape, base_shapes
from promptmill.pipeline.models.catalog.diffusers_source import call_parameters, has_loader, pipeline_modules
from promptmill.pipeline.models.catalog.door import folder_problems
from promptmill.pipeline.models.catalog.headers import tensor_shapes
from promptmill.pipeline.models.catalog.hub import COMMIT, HUB_ID, asking, download
from promptmill.pipeline.models.catalog.licenses import license_of_folder
from promptmill.pipeline.models.catalog.redux import (
    PROCESSOR,
    check_redux_base,
    hold_redux,
    redux_files,
    redux_weights,
)
from promptmill.pipeline.models.catalog.tasks import class_for
from promptmill.pipeline.models.catalog.weights import BY_HASH, ModelFolder, identity_of, list_folder, read_json
from promptmill.pipeline.storage.homes import at_home
from promptmill.schemas.additions import IpAdapter
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.inputs import ControlKind, TaskName
from promptmill.schemas.resolved import REDUX_FOLDER, ResolvedIpAdapter, ResolvedModel

ENCODERS: Final[Mapping[str, str]] = {
    "clip_vision_model": "CLIPVisionModelWithProjection",
    "siglip_vision_model": "SiglipVisionModel",
}
"""By the `model_type` of an image encoder, its class in transformers."""
_ENCODER: Final = "image_encoder"
_LINEARS: Final = ("to_k_ip", "to_v_ip", "ip_adapter_double_stream_k_proj", "ip_adapter_double_stream_v_proj")
_LOOKS: Final = ("ip_adapter.", "double_blocks.")
_PROJECTS: Final = ("image_proj.", "ip_adapter_proj_model.")


def resolve_ip_adapter(
    given: IpAdapter, base: ResolvedModel, task: TaskName, where: str, control: ControlKind = ""
) -> ResolvedIpAdapter:
    """Raises JobError, by name and with the first keys, for what would not look at images for `base`."""
    folder, is_local, weights = _open(given, base.mirror, where)
    check_base = check_redux_base if _makes_words(weights) else _check_base
    check_base(base, task, control, where)
    encoder = _encoder(given, folder, weights, where)
    names = _files(weights, encoder, folder)
    if problems := folder_problems(folder, names, where):
        raise JobError(*problems)
    config = _settings(folder, encoder, where)
    encoder_class = _encoder_class(config, folder.root / encoder, where)
    shapes = _shapes(folder.root / weights, where)
    if _makes_words(weights):
        hold_redux(shapes, _settings(folder, REDUX_FOLDER, where), config, base, where)
    else:
        _hold_against(shapes, base, config, where)
    revision, hashes = str(given.revision), dict[str, str]()
    if is_local:
        whole, hashes = identity_of(folder.root, names, where)
        revision = f"{BY_HASH}{whole}"
    return ResolvedIpAdapter(
        path=given.path,
        location=str(folder.root) if is_local else given.path,
        revision=revision,
        weights=weights,
        encoder=encoder,
        encoder_class=encoder_class,
        scale=given.scale,
        weights_bytes=sum(folder.files[name] for name in names if name.endswith(".safetensors")),
        is_local=is_local,
        files=hashes,
        mirror=None if is_local else base.mirror,
        license=given.license or license_of_folder(given.path, folder.root),
    )


def _encoder_class(config: Mapping[str, Any], folder: Path, where: str) -> str:
    name = ENCODERS.get(str(config.get("model_type")))
    if name is None:
        expected = f"an image encoder in {folder}: {' or '.join(ENCODERS)}"
        raise JobError(Problem(f"{where}.image_encoder", expected, repr(config.get("model_type"))))
    return name


def _shapes(path: Path, where: str) -> dict[str, tuple[int, ...]]:
    try:
        return tensor_shapes(path)
    except (ValueError, OSError) as error:
        raise JobError(Problem(f"{where}.path", f"whole safetensors in {path}", str(error))) from None


def ip_adapter_folder(adapter: ResolvedIpAdapter) -> Path:
    """Where it lies here; of the hub it is fetched."""
    if adapter.is_local:
        return Path(adapter.location)
    return download(adapter.path, adapter.revision, _fetched(adapter.weights, adapter.encoder), adapter.mirror)


def ip_adapter_files(adapter: ResolvedIpAdapter, folder: ModelFolder) -> list[str]:
    """What is loaded of its folder."""
    return _files(adapter.weights, adapter.encoder, folder)


def takes_references(base: str, task: TaskName, control: ControlKind = "") -> bool:
    pipeline = class_for(task, base, control)
    return has_loader(base, "IPAdapter") and "ip_adapter_image" in call_parameters(pipeline or "")


def _check_base(base: ResolvedModel, task: TaskName, control: ControlKind, where: str) -> None:
    if not takes_references(base.pipeline_class, task, control):
        able = sorted(name for name in pipeline_modules() if name in _NAMED and takes_references(name, task))
        got = f"{base.path}, a {base.pipeline_class}"
        raise JobError(
            Problem(where, f"a model that takes IP-Adapters for {task}", got, f"These do: {', '.join(able)}.")
        )


_NAMED: Final = (
    *("StableDiffusionPipeline", "StableDiffusionXLPipeline", "StableDiffusion3Pipeline", "FluxPipeline"),
    *("KolorsPipeline", "LatentConsistencyModelPipeline", "ChromaPipeline"),
)
"""Text-to-image classes that are told where another takes none; many others have the methods of these."""


def _open(given: IpAdapter, mirror: str | None, where: str) -> tuple[ModelFolder, bool, str]:
    """The folder, whether it lies here, and the name of its weights."""
    path = at_home(given.path).absolute()
    if path.is_file() or path.is_dir():
        if given.revision is not None:
            raise JobError(Problem(f"{where}.revision", "no revision for a folder or file", given.revision))
        folder = list_folder(path if path.is_dir() else path.parent)
        return folder, True, _weights(given, folder, None if path.is_dir() else path.name, where)
    if not HUB_ID.match(given.path) or given.path.startswith("."):
        expected = "a folder or .safetensors file of an IP-Adapter, or a hub id"
        raise JobError(Problem(f"{where}.path", expected, f"nothing at {path}"))
    if given.revision is None or not COMMIT.match(given.revision):
        hint = f"See https://huggingface.co/{given.path}/commits; a path is looked for first."
        raise JobError(
            Problem(f"{where}.revision", "a commit of 40 hex digits for a hub id", repr(given.revision), hint)
        )
    if given.weight_name is None:
        raise JobError(Problem(f"{where}.weight_name", "the file of a hub id, such as models/….safetensors", "null"))
    encoder = given.image_encoder or _beside(given.weight_name)
    with asking(given.path, where):
        root = download(given.path, given.revision, _fetched(given.weight_name, encoder), mirror)
    folder = list_folder(root)
    return folder, False, _weights(given, folder, None, where)


def _fetched(weights: str, encoder: str) -> list[str]:
    """Of a repository of the hub."""
    beside = [f"{REDUX_FOLDER}/config.json", f"{PROCESSOR}/*"] if _makes_words(weights) else []
    return [weights, f"{encoder}/*", *beside]


def _makes_words(weights: str) -> bool:
    return weights.startswith(f"{REDUX_FOLDER}/")


def _weights(given: IpAdapter, folder: ModelFolder, named: str | None, where: str) -> str:
    name = named or given.weight_name
    place = f"{where}.path" if given.weight_name is None else f"{where}.weight_name"
    name = redux_weights(folder) if name is None else name
    if name is None:
        found = [each for each in folder.files if "/" not in each and each.endswith(".safetensors")]
        if len(found) != 1:
            hint = "Name it in `weight_name`; pickles (.bin, .pt) are never opened."
            raise JobError(Problem(place, f"one .safetensors file in {folder.root}", f"{len(found)}", hint))
        name = found[0]
    if name not in folder.files or not name.endswith(".safetensors"):
        hint = "Pickles (.bin, .pt) are never opened."
        raise JobError(Problem(place, f"a .safetensors file in {folder.root}", name, hint))
    return name


def _beside(weights: str) -> str:
    above = "" if _makes_words(weights) else weights.rpartition("/")[0]
    return f"{above}/{_ENCODER}" if above else _ENCODER


def _encoder(given: IpAdapter, folder: ModelFolder, weights: str, where: str) -> str:
    name = (given.image_encoder or _beside(weights)).rstrip("/")
    if f"{name}/config.json" not in folder.files:
        hint = "Name the folder in `image_encoder`, or put a copy of it there."
        raise JobError(
            Problem(f"{where}.image_encoder", f"an image encoder in {folder.root / name}", "no config.json", hint)
        )
    if not any(each.startswith(f"{name}/") and each.endswith(".safetensors") for each in folder.files):
        expected, got = f"safetensors in {folder.root / name}", "none; pickles are never opened"
        raise JobError(Problem(f"{where}.image_encoder", expected, got))
    return name


def _files(weights: str, encoder: str, folder: ModelFolder) -> list[str]:
    beside = (
        name for name in folder.files if name.rpartition("/")[0] == encoder and name.endswith((".json", ".safetensors"))
    )
    return sorted({weights, *beside, *(redux_files(folder) if _makes_words(weights) else ())})


def _settings(folder: ModelFolder, encoder: str, where: str) -> dict[str, Any]:
    try:
        return read_json(folder.root / encoder / "config.json")
    except ValueError as error:
        raise JobError(Problem(where, f"JSON in {folder.root / encoder / 'config.json'}", str(error))) from None


def _hold_against(shapes: Mapping[str, Shape], base: ResolvedModel, encoder: Mapping[str, Any], where: str) -> None:
    place, hint = f"{where}.path", "Is it for another base model?"
    looks = {key: shape for key, shape in shapes.items() if key.startswith(_LOOKS)}
    projects = {key: shape for key, shape in shapes.items() if key.startswith(_PROJECTS)}
    if strange := [key for key in shapes if key not in looks and key not in projects]:
        got = f"{', '.join(strange[:3])}{', …' if len(strange) > 3 else ''}"
        raise JobError(Problem(place, "keys of an IP-Adapter: image_proj.… and ip_adapter.…", got))
    if not looks or not projects:
        raise JobError(Problem(place, "image_proj.… and ip_adapter.…", f"{len(looks)} and {len(projects)} tensors"))
    if any(key.endswith("norm.weight") for key in projects) and _width_in(projects) is None:
        raise JobError(Problem(place, "an IP-Adapter that looks at images", "one of faces' embeddings (FaceID)"))
    plain = {f"image_proj.{name}" for name in ("proj.weight", "proj.bias", "norm.weight", "norm.bias")}
    if "image_proj.proj.weight" in projects and projects.keys() != plain:
        raise JobError(Problem(place, f"{', '.join(sorted(plain))}", ", ".join(sorted(projects))))
    wide = _width_in(projects)
    if wide not in (None, encoder.get("projection_dim"), encoder.get("hidden_size")):
        got = f"{encoder.get('projection_dim')} and {encoder.get('hidden_size')}"
        raise JobError(Problem(f"{where}.image_encoder", f"one that makes vectors of {wide}", got))
    if base.is_local:
        mine = Counter(shape for key, shape in looks.items() if _is_linear(key))
        theirs = _wanted(base_shapes(base))
        if mine != theirs:
            expected = f"layers beside those of {base.path}: {_told(theirs)}"
            raise JobError(Problem(place, expected, _told(mine), hint))


def _is_linear(key: str) -> bool:
    return any(f".{name}.weight" in key for name in _LINEARS)


def _width_in(projects: Mapping[str, Shape]) -> int | None:
    """How wide the vectors of the image encoder must be; None where its keys do not say."""
    for ending in (".proj.weight", "_model.proj.weight", ".proj_in.weight", ".proj.0.weight"):
        for key, shape in projects.items():
            if key.endswith(ending) and len(shape) == 2:
                faces = ending == ".proj.0.weight" and not any(each.endswith("proj.3.weight") for each in projects)
                return None if faces else shape[1]
    return None


def _wanted(base: Mapping[str, Shape]) -> Counter[Shape]:
    """Of each attention that reads the prompt a layer for keys and one for values, from the images' own width."""
    across = [shape for name, shape in base.items() if name.startswith("unet.") and name.endswith("attn2_to_k")]
    if across:
        return Counter(shape for shape in across for _ in range(2))
    found: Counter[Shape] = Counter()
    joint = next((shape for name, shape in base.items() if name == keys.name("transformer", "context_embedder")), None)
    for name, shape in base.items():
        if _is_joint(name):
            flux = "transformer.single_transformer_blocks_0_attn_to_q" in base
            found[(shape[0], joint[1] if flux and joint else shape[1])] += 2
    return found


def _is_joint(name: str) -> bool:
    return name.startswith("transformer.transformer_blocks_") and name.endswith("_attn_to_k")


def _told(shapes: Counter[Shape]) -> str:
    parts: Sequence[str] = [f"{count} of {list(shape)}" for shape, count in sorted(shapes.items())]
    return ", ".join(parts) or "none"
