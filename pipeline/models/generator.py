"""A diffusers pipeline behind the `Generator` contract."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import numpy.typing as npt
import torch
import transformers

from pipeline.models import installed, weights
from pipeline.models.catalog import BUILTIN, builtin_folder
from pipeline.models.components import component_weights
from pipeline.models.decode import WatchedDecode, finite_rows, in_float32
from pipeline.models.faults import describe, guarded, translate
from pipeline.models.hub import open_hub_model
from pipeline.models.interface import Generated
from pipeline.models.schedulers import FOR_BOTH, find_scheduler, is_flow_config
from pipeline.models.text import Encoded, PromptEncoder
from schemas.errors import DeviceMemoryError, ModelLoadError, SampleError
from schemas.job import Generation
from schemas.plan import ResolvedModel, Sample


@dataclass(frozen=True)
class Outcome:
    """uint8 [batch, height, width, 3], and per sample what is known of it."""

    pixels: npt.NDArray[np.uint8]
    latents_finite: list[bool]
    pixels_finite: list[bool]
    nsfw: list[bool]


class DiffusersGenerator:
    def __init__(self, model: ResolvedModel, device: str = "auto") -> None:
        """Raises ModelLoadError, and DeviceMemoryError when the weights do not fit."""
        self._model = model
        self._device = choose_device(device)
        dtype = choose_dtype(model.dtype, self._device)
        self._pipe = load_pipeline(model, dtype, self._device)
        self._scheduler = self._pipe.scheduler
        self._encoder = PromptEncoder(self._pipe)
        self._call = frozenset(inspect.signature(self._pipe.__call__).parameters)
        self.pipeline_class = type(self._pipe).__name__
        self.dtype = str(dtype).removeprefix("torch.")
        self.device = str(self._device)

    def scheduler_name(self, settings: Generation) -> str:
        return type(self._build_scheduler(settings)).__name__

    def prepare(self, samples: Sequence[Sample], settings: Generation) -> None:
        self._encoder.prepare([sample.prompt for sample in samples])

    def generate(
        self, samples: Sequence[Sample], settings: Generation, on_step: Callable[[], None], full_precision: bool = False
    ) -> list[Generated]:
        refused = self._refused(samples)
        batch = [sample for sample in samples if sample.sample_id not in refused]
        alone = len(batch) == 1
        made: list[Generated] = []
        if batch:
            run = self._run_in_float32 if full_precision else self._run
            outcome = guarded(lambda: run(batch, settings, on_step), alone, "generation")
            made = [self._answer(batch[row], settings, outcome, row, full_precision) for row in range(len(batch))]
        answers = {sample.sample_id: answer for sample, answer in zip(batch, made, strict=True)}
        return [answers.get(sample.sample_id) or Generated(None, error=refused[sample.sample_id]) for sample in samples]

    def _refused(self, samples: Sequence[Sample]) -> dict[str, SampleError]:
        """Samples whose text the pipeline's tokenizers or encoders refuse."""
        refused = {}
        for sample in samples:
            try:
                self._encoder.prompt(sample.prompt)
            except SampleError as error:
                refused[sample.sample_id] = error
        return refused

    def _answer(self, sample: Sample, settings: Generation, outcome: Outcome, row: int, widened: bool) -> Generated:
        flags = [
            ("prompt_truncated", self._encoder.prompt(sample.prompt).truncated),
            ("negative_prompt_truncated", self._uses_negative(sample, settings) and self._negative(sample).truncated),
            ("negative_prompt_ignored", bool(sample.negative_prompt) and not self._uses_negative(sample, settings)),
            ("nsfw", outcome.nsfw[row]),
            ("retried_fp32", widened),
        ]
        names = tuple(name for name, raised in flags if raised)
        if outcome.latents_finite[row] and outcome.pixels_finite[row]:
            return Generated(outcome.pixels[row], names)
        what = "pixels" if outcome.latents_finite[row] else "latents"
        dtype = "float32" if widened else self.dtype
        return Generated(None, names, SampleError("not_finite", f"{what} hold NaN or infinity, in {dtype}"))

    def _run_in_float32(self, batch: list[Sample], settings: Generation, on_step: Callable[[], None]) -> Outcome:
        """The decoder in float32; samples whose latents are not finite even so are denoised in float32 too."""
        vae = getattr(self._pipe, "vae", None)
        with in_float32([vae] if vae is not None else []):
            outcome = self._run(batch, settings, on_step)
        again = [row for row, finite in enumerate(outcome.latents_finite) if not finite]
        if not again or self.dtype == "float32":
            return outcome
        encoder = self._encoder
        modules = [part for part in self._pipe.components.values() if isinstance(part, torch.nn.Module)]
        try:
            with in_float32(modules):
                self._encoder = PromptEncoder(self._pipe)  # embeddings may be where the infinity came from
                widened = self._run([batch[row] for row in again], settings, on_step)
        finally:
            self._encoder = encoder
        return _replaced(outcome, again, widened)

    def _run(self, batch: list[Sample], settings: Generation, on_step: Callable[[], None]) -> Outcome:
        width, height = settings.width or self._model.width, settings.height or self._model.height
        arguments: dict[str, Any] = {
            "num_inference_steps": settings.num_inference_steps,
            "guidance_scale": settings.guidance_scale,
            "width": width,
            "height": height,
            "generator": [torch.Generator("cpu").manual_seed(sample.seed) for sample in batch],
            "output_type": "pt",
            "clean_caption": False,
            "use_resolution_binning": False,
        }
        arguments = {name: value for name, value in arguments.items() if name in self._call}
        arguments |= self._text_arguments(batch, settings)
        self._pipe.scheduler = self._build_scheduler(settings, on_step)
        on_step()
        try:
            with torch.inference_mode(), WatchedDecode(getattr(self._pipe, "vae", None), width * height) as watched:
                output = self._pipe(**arguments)
        finally:
            self._pipe.scheduler = self._scheduler
        outcome = _collect(output, watched, (height, width))
        on_step()
        return outcome

    def _build_scheduler(self, settings: Generation, on_step: Callable[[], None] | None = None) -> Any:
        """A new one for each batch, since schedulers keep state; it calls `on_step` after each of its steps."""
        name, changes = find_scheduler(settings.scheduler) if settings.scheduler else (None, {})
        kind = getattr(diffusers, name) if name else type(self._scheduler)
        config = dict(self._scheduler.config)
        if kind is not type(self._scheduler):
            spacing = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
            changes = {key: False for key in spacing if key in config} | changes
            if name in FOR_BOTH and ("FlowMatch" in config.get("_class_name", "") or is_flow_config(config)):
                shift = {"flow_shift": config.get("shift", config.get("flow_shift", 1.0))}
                changes = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"} | shift | changes
        scheduler = kind.from_config(config, **changes)
        if on_step is not None:
            scheduler.step = _counted(scheduler.step, on_step)
        return scheduler

    def _text_arguments(self, batch: list[Sample], settings: Generation) -> dict[str, Any]:
        if not self._encoder.gives_tensors:
            return self._plain_text(batch, settings)
        arguments: dict[str, Any] = self._stacked([self._encoder.prompt(sample.prompt) for sample in batch], "")
        if self._guides(settings) and (self._is_flux is False or any(sample.negative_prompt for sample in batch)):
            arguments |= self._stacked([self._negative(sample) for sample in batch], "negative_")
            arguments["negative_prompt"] = None
            if self._is_flux:
                arguments["true_cfg_scale"] = settings.guidance_scale
        return arguments

    def _stacked(self, rows: list[Encoded], prefix: str) -> dict[str, torch.Tensor]:
        names = rows[0].tensors
        return {prefix + name: torch.stack([row.tensors[name] for row in rows]).to(self._device) for name in names}

    def _plain_text(self, batch: list[Sample], settings: Generation) -> dict[str, Any]:
        arguments: dict[str, Any] = {"prompt": [sample.prompt for sample in batch]}
        if self._guides(settings) and any(sample.negative_prompt for sample in batch):
            arguments["negative_prompt"] = [sample.negative_prompt for sample in batch]
        return arguments

    def _negative(self, sample: Sample) -> Encoded:
        return self._encoder.negative(sample.negative_prompt)

    def _uses_negative(self, sample: Sample, settings: Generation) -> bool:
        return bool(sample.negative_prompt) and self._guides(settings)

    def _guides(self, settings: Generation) -> bool:
        """Whether a negative prompt has any effect.

        Flux models that were distilled take the scale as an input and know no negative prompt; the others are guided
        by it only when one is given, as in diffusers (`true_cfg_scale`).
        """
        if settings.guidance_scale <= 1 or "negative_prompt" not in self._call:
            return False
        return not (self._is_flux and self._pipe.transformer.config.guidance_embeds)

    @property
    def _is_flux(self) -> bool:
        return "true_cfg_scale" in self._call


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


def _counted(step: Callable[..., Any], on_step: Callable[[], None]) -> Callable[..., Any]:
    @functools.wraps(step)  # pipelines look at the signature to see whether the scheduler takes a generator
    def counted(*args: Any, **options: Any) -> Any:
        result = step(*args, **options)
        on_step()
        return result

    return counted


def _collect(output: Any, watched: WatchedDecode, size: tuple[int, int]) -> Outcome:
    images = output.images  # float [batch, 3, height, width] in 0 to 1
    if tuple(images.shape[-2:]) != size:
        raise RuntimeError(f"asked for height and width {size}, the pipeline made {tuple(images.shape[-2:])}")
    finite = finite_rows(images)
    if watched.pixels_finite is not None:
        finite = [before and after for before, after in zip(watched.pixels_finite, finite, strict=True)]
    pixels = images.float().nan_to_num(0.0).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu()
    nsfw = getattr(output, "nsfw_content_detected", None) or [False] * len(finite)
    return Outcome(
        pixels.numpy(), watched.latents_finite or [True] * len(finite), finite, [bool(flag) for flag in nsfw]
    )


def _replaced(outcome: Outcome, rows: list[int], by: Outcome) -> Outcome:
    pixels = outcome.pixels.copy()
    pixels[rows] = by.pixels
    lists = []
    for name in ("latents_finite", "pixels_finite", "nsfw"):
        values = list(getattr(outcome, name))
        for row, value in zip(rows, getattr(by, name), strict=True):
            values[row] = value
        lists.append(values)
    return Outcome(pixels, *lists)
