"""Where a model's weights lie and in which form, held against what the job's workers are, before any is started."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any, Final

from promptmill.pipeline.models.catalog.diffusers_source import class_tree
from promptmill.pipeline.models.catalog.quantized import SAVED_BY, WAYS, denoisers, is_installed, saved_small
from promptmill.pipeline.models.catalog.resolve import settings_folder
from promptmill.pipeline.models.catalog.shipped import BUILTIN
from promptmill.pipeline.models.catalog.weights import read_json
from promptmill.schemas.compute import Compute
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.generation import Model
from promptmill.schemas.resolved import ResolvedModel

_GPUS: Final = "compute.gpus_per_worker"


def check_placing(model: Model, resolved: ResolvedModel, compute: Compute, where: str) -> None:
    """Raises JobError for what does nothing, is slower than without, or is refused by who loads it."""
    problems = [
        *_offload(model, resolved, compute, f"{where}.offload"),
        *_device_map(model, resolved, compute, f"{where}.device_map"),
        *_quantization(model, resolved, compute, f"{where}.quantization"),
        *_saved(resolved, compute, f"{where}.path"),
    ]
    if problems:
        raise JobError(*problems)


def _offload(model: Model, resolved: ResolvedModel, compute: Compute, where: str) -> Iterator[Problem]:
    if model.offload == "none":
        return
    expected = "none"
    if model.path.startswith(BUILTIN):
        hint = "It fits every GPU, and moving it to and fro only takes time: remove model.offload"
        yield Problem(where, f"{expected} with a built-in model", model.offload, hint)
    elif compute.gpus_per_worker == 0:
        hint = "On CPU the weights are in main memory already: remove it, or give each worker a GPU"
        yield Problem(where, f"{expected} with {_GPUS} 0", model.offload, hint)
    if model.device_map is not None:
        hint = "diffusers does one of the two: spread the model over GPUs, or keep it in main memory"
        yield Problem(where, f"{expected} with model.device_map", model.offload, hint)
    if model.offload == "sequential" and (model.quantization or _saved_small(resolved)):
        hint = "Layers that are small cannot be moved one by one; `model` moves whole parts"
        yield Problem(where, "none or model with weights that are made small", model.offload, hint)
    if model.offload == "model" and not _constant(resolved.pipeline_class, "model_cpu_offload_seq"):
        hint = "It does not say in which order its parts act; `sequential` needs no order"
        yield Problem(where, f"none or sequential with {resolved.pipeline_class}", model.offload, hint)


def _device_map(model: Model, resolved: ResolvedModel, compute: Compute, where: str) -> Iterator[Problem]:
    if model.device_map is None:
        return
    if model.path.startswith(BUILTIN):
        yield Problem(where, "null with a built-in model", model.device_map, "It fits every GPU: remove it")
    gpus = compute.gpus_per_worker
    if gpus == "auto" or gpus < 2:
        hint = f"One GPU leaves nothing to spread: set {_GPUS} to 2 or more, or remove it"
        yield Problem(where, f"{_GPUS} of 2 or more", f"{gpus}", hint)
    if _constant(resolved.pipeline_class, "_load_connected_pipes"):
        yield Problem(where, "null with a model made of several pipelines", resolved.pipeline_class)
    if model.quantization is not None and model.quantization.startswith("quanto"):
        hint = "Take torchao or bitsandbytes, or one GPU"
        yield Problem(where, f"null with {model.quantization}, which lies on one device", model.device_map, hint)


def _quantization(model: Model, resolved: ResolvedModel, compute: Compute, where: str) -> Iterator[Problem]:
    name = model.quantization
    if name is None:
        return
    way = WAYS[name]
    if model.path.startswith(BUILTIN):
        hint = "Its weights are 20 MB, most of them of convolutions, which stay as they are: remove it"
        yield Problem(where, "null with a built-in model", name, hint)
    if not is_installed(way.module):
        hint = f"pip install {way.package}, here and on the workers"
        yield Problem(where, f"the package {way.package} for {name}", "none installed", hint)
    if way.needs_gpu and compute.gpus_per_worker == 0:
        hint = f"On CPU these do: {', '.join(each for each, its in WAYS.items() if not its.needs_gpu)}"
        yield Problem(where, f"a GPU for {name}", f"{_GPUS} 0", hint)
    if model.dtype not in way.dtypes:
        hint = f"{name} computes in half precision: set model.dtype to {' or '.join(way.dtypes)}"
        yield Problem(where, f"model.dtype {' or '.join(way.dtypes)} with {name}", model.dtype, hint)
    if saved := _saved_small(resolved):
        part, by = next(iter(saved.items()))
        hint = "They are read as they were saved: remove model.quantization, or name the folder of the whole weights"
        yield Problem(where, f"weights that are whole in {model.path}", f"those of {part}, made small by {by}", hint)
    root = settings_folder(resolved)
    if root is not None and not denoisers(read_json(root / "model_index.json")):
        yield Problem(where, f"a denoiser to make small in {model.path}", f"none in a {resolved.pipeline_class}")


def _saved(resolved: ResolvedModel, compute: Compute, where: str) -> Iterator[Problem]:
    for part, by in _saved_small(resolved).items():
        module, needs_gpu = SAVED_BY.get(by, (by, False))
        got = f"{part} in {resolved.path}, made small by {by}"
        if not is_installed(module):
            yield Problem(where, f"the package {module} installed", got, "Install it here and on the workers")
        if needs_gpu and compute.gpus_per_worker == 0:
            yield Problem(where, f"{_GPUS} above 0 for weights that only a GPU reads", got)


def _saved_small(resolved: ResolvedModel) -> dict[str, str]:
    root = settings_folder(resolved)
    return saved_small(root, read_json(root / "model_index.json")) if root else {}


def _constant(class_name: str, name: str) -> Any:
    """What a pipeline class says of itself, of plain values; None where it does not."""
    tree = class_tree(class_name)
    for node in tree[1].body if tree else ():
        if isinstance(node, ast.Assign) and [ast.unparse(each) for each in node.targets] == [name]:
            return node.value.value if isinstance(node.value, ast.Constant) else None
    return None
