"""Weights onto a device: which device, which number format, from which files."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from promptmill.pipeline.models.catalog import diffusers_source, weights
from promptmill.pipeline.models.catalog.components import component_weights, components
from promptmill.pipeline.models.catalog.door import NO_CODE
from promptmill.pipeline.models.catalog.families import INPAINTS
from promptmill.pipeline.models.catalog.held import held
from promptmill.pipeline.models.catalog.resolve import check_folder, fetch_model
from promptmill.pipeline.models.diffusion.closed import closed
from promptmill.pipeline.models.diffusion.errors import loading, release_memory
from promptmill.pipeline.models.diffusion.placing import check_device, loading_options, place
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.resolved import ResolvedModel


def choose_device(name: str) -> torch.device:
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    if name != "auto":
        chosen = getattr(torch, name, None)
        if not isinstance(chosen, torch.dtype) or not chosen.is_floating_point:
            raise JobError(Problem("model.dtype", "a number format for weights", repr(name)))
        return chosen
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def load_pipeline(model: ResolvedModel, dtype: torch.dtype, device: torch.device) -> Any:
    """From safetensors alone, without running any code of the model's folder, and without network for a folder."""
    release_memory()  # a model that was just let go of is held by cycles until collected: two need not fit at once
    diffusers.utils.logging.set_verbosity_error()  # truncated prompts become flags, not a line each
    transformers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    name = model.pipeline_class
    if name not in diffusers_source.pipeline_modules():  # a plan that somebody else wrote
        raise JobError(Problem(model.path, "a pipeline class of the installed diffusers", repr(name), NO_CODE))
    loader = "AutoPipelineForText2Image" if name in diffusers_source.text_to_image_classes() else "DiffusionPipeline"
    if name in INPAINTS.values():  # a folder that is saved as the class for text says nothing of its U-Net's channels
        loader = name
    check_device(model, device)
    options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, "local_files_only": True}
    if "add_watermarker" in inspect.signature(getattr(diffusers, name).__init__).parameters:
        options["add_watermarker"] = False
    location = model.location
    call = f"{loader}.from_pretrained({{!r}}, dtype={dtype}, use_safetensors=True) on {device}"
    with loading(model.path, tried=lambda: f"Tried: {call.format(location)}"), held(model):
        root, parts = _look_again(model)
        location, options["variant"] = str(root), _variant(parts)
        with closed():
            options |= loading_options(model, root, dtype)
            pipe = place(getattr(diffusers, loader).from_pretrained(location, **options), model, device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _look_again(model: ResolvedModel) -> tuple[Path, list[str]]:
    """The folder as it is now, and its weights; of a hub model the files that count are fetched first.

    Raises JobError for what must not be loaded.
    """
    root = fetch_model(model)
    folder = weights.list_folder(root)
    index = check_folder(folder, "model")
    _lend_classes(index)
    _check_classes(index)
    return root, component_weights(folder, index)


def _lend_classes(index: dict[str, Any]) -> None:
    """PRX adds its text encoder to `transformers` when it is imported, which then may put another copy of itself in
    its own place (transformers 5, when processors are first asked for). That copy gets it too."""
    package = diffusers_source.pipeline_modules()[str(index["_class_name"])]
    brought = importlib.import_module(f"diffusers.pipelines.{package}")
    for _, library, class_name in components(index):
        if library == "transformers" and not hasattr(_library(library), class_name) and hasattr(brought, class_name):
            setattr(_library(library), class_name, getattr(brought, class_name))


def _library(name: str) -> Any:
    """As diffusers looks it up: what stands in `sys.modules` now."""
    return importlib.import_module(name if name in ("diffusers", "transformers") else f"diffusers.pipelines.{name}")


def _check_classes(index: dict[str, Any]) -> None:
    """The names were looked at when the job was planned; here are the classes themselves."""
    for name, library, class_name in components(index):
        found = getattr(_library(library), class_name, None)
        home = getattr(found, "__module__", "").partition(".")[0]
        if not isinstance(found, type) or home not in ("diffusers", "transformers"):
            raise JobError(Problem("model", f"{name} of diffusers or transformers", f"{library}.{class_name}", NO_CODE))
        if issubclass(found, (diffusers.DiffusionPipeline, diffusers.OnnxRuntimeModel)):
            raise JobError(Problem("model", f"a part that is no pipeline as {name}", class_name, NO_CODE))


def _variant(names: Sequence[str]) -> str | None:
    variants = {weights.select_weights([name.split("/")[1]])[0] for name in names}
    return next((variant for variant in sorted(filter(None, variants))), None)
