"""Onto devices: weights made small while they are loaded, kept in main memory between their turns, or spread."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import diffusers
import torch

from promptmill.pipeline.models.catalog.components import components
from promptmill.pipeline.models.catalog.quantized import WAYS, denoisers, gguf_file, is_installed
from promptmill.pipeline.models.catalog.weights import read_json
from promptmill.schemas.errors import JobError, ModelLoadError, Problem
from promptmill.schemas.resolved import ResolvedModel

_FORMATS: Final = {"int8": "Int8WeightOnlyConfig", "float8": "Float8WeightOnlyConfig"}


def check_device(model: ResolvedModel, device: torch.device) -> None:
    """What only a worker knows. Raises ModelLoadError."""
    problem = next(_problems(model, device), None)
    if problem is not None:
        raise ModelLoadError(str(JobError(problem)))


def _problems(model: ResolvedModel, device: torch.device) -> Iterator[Problem]:
    on_gpu = device.type == "cuda"
    if model.offload != "none" and not on_gpu:
        hint = "On CPU the weights are in main memory already: remove model.offload"
        yield Problem("model.offload", "a worker with a GPU", str(device), hint)
    if model.device_map is not None and (count := torch.cuda.device_count() if on_gpu else 0) < 2:
        hint = "Start workers with compute.gpus_per_worker 2 on such a machine, or remove model.device_map"
        yield Problem("model.device_map", "two GPUs or more in this worker", str(count), hint)
    way = WAYS.get(model.quantization or "")
    if way is not None and way.needs_gpu and not on_gpu:
        yield Problem("model.quantization", f"a GPU for {model.quantization}", str(device))
    if way is not None and not is_installed(way.module):
        hint = f"pip install {way.package}"
        yield Problem("model.quantization", f"the package {way.package}", "none on this worker", hint)


def loading_options(model: ResolvedModel, root: Path, dtype: torch.dtype) -> dict[str, Any]:
    """Arguments of `from_pretrained`, parts that lie in the folder as GGUF among them."""
    index = read_json(root / "model_index.json")
    options: dict[str, Any] = {} if model.device_map is None else {"device_map": model.device_map}
    for name, _, class_name in components(index):
        if (path := gguf_file(root, name)) is not None:
            options[name] = _from_gguf(path, class_name, dtype)
    if model.quantization is not None:
        config = _config(model.quantization, dtype)
        mapping = dict.fromkeys(denoisers(index), config)
        options["quantization_config"] = diffusers.PipelineQuantizationConfig(quant_mapping=mapping)
    return options


def _from_gguf(path: Path, class_name: str, dtype: torch.dtype) -> Any:
    """The part with the settings that lie beside the file; each layer is widened to `dtype` when it is its turn."""
    config = diffusers.GGUFQuantizationConfig(compute_dtype=dtype)
    root, name = str(path.parent.parent), path.parent.name
    return getattr(diffusers, class_name).from_single_file(
        str(path), config=root, subfolder=name, quantization_config=config, dtype=dtype, local_files_only=True
    )


def _config(name: str, dtype: torch.dtype) -> Any:
    library, _, kind = name.partition("_")
    if library == "torchao":
        formats = import_module("torchao.quantization")
        return diffusers.TorchAoConfig(getattr(formats, _FORMATS[kind])())
    if library == "quanto":
        return diffusers.QuantoConfig(weights_dtype=kind)
    if kind == "int8":
        return diffusers.BitsAndBytesConfig(load_in_8bit=True)
    return diffusers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


def place(pipe: Any, model: ResolvedModel, device: torch.device) -> Any:
    """The pipeline with its parts where they are to wait. One that shares them with another is placed anew."""
    if model.device_map is not None:
        return pipe  # it was loaded onto its devices
    if model.offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif model.offload == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
    else:
        pipe.to(device)
    return pipe


def is_small(modules: Iterable[torch.nn.Module]) -> bool:
    """Whether some of these hold weights that were made small, which have no wider form to compute in."""
    return any(getattr(module, "hf_quantizer", None) is not None for module in modules)
