"""Weights onto a device: which device, which number format, from which files."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from promptmill.pipeline.models.catalog import installed, weights
from promptmill.pipeline.models.catalog.components import component_weights
from promptmill.pipeline.models.catalog.hub import open_hub_model
from promptmill.pipeline.models.catalog.resolve import BUILTIN, builtin_folder
from promptmill.pipeline.models.diffusion.errors import describe, release_memory, translate
from promptmill.schemas.errors import DeviceMemoryError, ModelLoadError
from promptmill.schemas.plan import ResolvedModel


def choose_device(name: str) -> torch.device:
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    if name != "auto":
        chosen = getattr(torch, name)
        assert isinstance(chosen, torch.dtype)
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
    location = str(builtin_folder(model.path)) if model.path.startswith(BUILTIN) else model.location
    name = model.pipeline_class
    loader = "AutoPipelineForText2Image" if name in installed.text_to_image_classes() else "DiffusionPipeline"
    options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, "local_files_only": model.is_local}
    if not model.is_local:
        options["revision"] = model.revision
    if "add_watermarker" in inspect.signature(getattr(diffusers, name).__init__).parameters:
        options["add_watermarker"] = False
    try:
        options["variant"] = _variant(model, location)
        pipe = getattr(diffusers, loader).from_pretrained(location, **options).to(device)
    except Exception as error:
        failure = translate(error, True, "generation")
        if isinstance(failure, DeviceMemoryError):
            raise failure from error
        tried = f"{loader}.from_pretrained({location!r}, dtype={dtype}, use_safetensors=True) on {device}"
        raise ModelLoadError(f"{model.path} does not load. {describe(error)}. Tried: {tried}") from error
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _variant(model: ResolvedModel, location: str) -> str | None:
    if model.is_local:
        folder = weights.list_folder(builtin_folder(model.path) if model.path.startswith(BUILTIN) else Path(location))
    else:
        folder = open_hub_model(model.path, model.revision, "model", "model_index.json")
    names = component_weights(folder, weights.read_json(folder.root / "model_index.json"))
    variants = {weights.select_weights([name.split("/")[1]])[0] for name in names}
    return next((variant for variant in sorted(filter(None, variants))), None)
