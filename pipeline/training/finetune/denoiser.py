"""How a pipeline calls its denoiser, taken from the pipeline itself: its call is begun, and stopped at the first step.

So pooled embeddings, sizes, position ids and the rest come as each class makes them, and no table of ours grows stale.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from promptmill.schemas.errors import JobError, Problem

KNOWN: Final = (
    "StableDiffusionPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusion3Pipeline",
    "FluxPipeline",
    "SanaPipeline",
)
"""Classes whose training target is known: what their prediction means stands in no configuration."""
_TIME: Final = "timestep"
Rows = dict[str, Tensor]


class _Stop(Exception):
    def __init__(self, arguments: dict[str, Any]) -> None:
        self.arguments = arguments


@dataclass(frozen=True)
class Shape:
    """What is the same for all captions: arguments of the call, latents as [channels, height, width] or packed."""

    sample: str
    shared: Mapping[str, Any]
    per_row: tuple[str, ...]
    latents: tuple[int, ...]
    time_factor: float


class Denoiser:
    """The part of a pipeline that learns, and the noise it is trained on: `loss` is one number a sample."""

    def __init__(self, pipe: Any, width: int, height: int, min_snr: float | None) -> None:
        name = type(pipe).__name__
        if name not in KNOWN:
            raise JobError(Problem("model.path", f"a pipeline that finetune trains: {', '.join(KNOWN)}", name))
        self.pipe, self.size, self._min_snr = pipe, (width, height), min_snr
        self.part = "transformer" if getattr(pipe, "transformer", None) is not None else "unet"
        self.module: nn.Module = getattr(pipe, self.part)
        settings = pipe.scheduler.config
        self.is_flow = "FlowMatch" in type(pipe.scheduler).__name__ or bool(settings.get("use_flow_sigmas"))
        self.shift = 1.0 if settings.get("use_dynamic_shifting") else float(settings.get("shift") or 1.0)
        self.prediction = "flow" if self.is_flow else str(settings.get("prediction_type", "epsilon"))
        if self.prediction not in ("flow", "epsilon", "v_prediction"):
            raise JobError(Problem("model.path", "a model that predicts noise, v or a flow", self.prediction))
        self.alphas = None if self.is_flow else DDPMScheduler.from_config(settings).alphas_cumprod
        self.shape = self._shape()

    def rows(self, caption: str) -> Rows:
        """What the denoiser is given of a caption, each tensor [1, …]."""
        given = _flat(self._arguments([caption]))
        return {name: given[name] for name in self.shape.per_row}

    def encoded(self, pixels: Tensor) -> Tensor:
        """Latents float32 [1, …] of float [1, 3, height, width] in [-1, 1], as the denoiser takes them."""
        vae = self.pipe.vae
        with torch.no_grad():
            found = vae.encode(pixels.to(vae.device, vae.dtype))
        latents = found.latent_dist.mean if hasattr(found, "latent_dist") else found.latent
        scaled = (latents.float() - (vae.config.get("shift_factor") or 0.0)) * vae.config.scaling_factor
        ready = scaled if scaled.shape[1:] == self.shape.latents else _packed(scaled)
        if ready.shape[1:] != self.shape.latents:
            got = f"{list(scaled.shape[1:])} where it takes {list(self.shape.latents)}"
            raise JobError(Problem("model.path", "an autoencoder whose latents the denoiser takes", got))
        return ready.cpu()

    def loss(self, latents: Tensor, rows: Rows, noise: Tensor, places: Tensor) -> Tensor:
        """Float32 [n]. `places` in [0, 1) say how far along the noise each sample is."""
        noisy, times, target, weights = self._task(latents, noise, places)
        predicted = self.predict(self.module, noisy, rows, times).float()
        if predicted.shape[1] == 2 * target.shape[1]:  # with a learned variance
            predicted = predicted.chunk(2, dim=1)[0]
        return ((predicted - target) ** 2).flatten(1).mean(1) * weights

    def predict(self, module: nn.Module, noisy: Tensor, rows: Rows, times: Tensor) -> Tensor:
        """As the pipeline calls it; `module` is the denoiser, or its likeness on another device."""
        device = noisy.device
        shared = {n: v.to(device) if isinstance(v, Tensor) else v for n, v in self.shape.shared.items()}
        output = module(**_nested({**shared, **rows, self.shape.sample: noisy, _TIME: times}))
        answer: Tensor = output[0] if isinstance(output, (tuple, list)) else output.sample
        return answer

    def _task(self, latents: Tensor, noise: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wide = (-1, *[1] * (latents.dim() - 1))
        if self.alphas is None:
            sigmas = self.shift * places / (1 + (self.shift - 1) * places)
            spread = sigmas.view(wide)
            times = sigmas * 1000 * self.shape.time_factor
            return (1 - spread) * latents + spread * noise, times, noise - latents, torch.ones_like(sigmas)
        count = len(self.alphas)
        steps = (places * count).long().clamp(0, count - 1)
        kept = self.alphas.to(latents.device)[steps]
        signal, spread = kept.sqrt().view(wide), (1 - kept).sqrt().view(wide)
        target = noise if self.prediction == "epsilon" else signal * noise - spread * latents
        times = (steps * self.shape.time_factor).to(steps.dtype if self.shape.time_factor == 1 else kept.dtype)
        return signal * latents + spread * noise, times, target, self._weights(kept / (1 - kept))

    def _weights(self, snr: Tensor) -> Tensor:
        """Min-SNR-γ (Hang et al. 2023, section 3.4): min(SNR, γ) / SNR for noise, / (SNR + 1) for v."""
        if self._min_snr is None:
            return torch.ones_like(snr)
        least = snr.clamp(max=self._min_snr)
        return least / (snr.clamp(min=1e-8) if self.prediction == "epsilon" else snr + 1)

    def _shape(self) -> Shape:
        one, two = self._arguments([""]), _flat(self._arguments(["", ""]))
        sample = next(iter(inspect.signature(self.module.forward).parameters))
        flat = _flat(one)
        latents, time = flat.pop(sample), flat.pop(_TIME)
        grows = [n for n, v in flat.items() if _is_rows(v) and len(two[n]) == 2 * len(v)]
        first = float(self.pipe.scheduler.timesteps[0])
        factor = float(torch.as_tensor(time).flatten()[0]) / first
        shared = {name: value for name, value in flat.items() if name not in grows}
        return Shape(sample, shared, tuple(grows), tuple(latents.shape[1:]), factor)

    def _arguments(self, captions: Sequence[str]) -> dict[str, Any]:
        """Of the denoiser's first call. Raises JobError where the pipeline never calls it."""
        signature = inspect.signature(self.module.forward)

        def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            raise _Stop(dict(signature.bind(*args, **kwargs).arguments))

        width, height = self.size
        generators = [torch.Generator().manual_seed(0) for _ in captions]
        binned = "use_resolution_binning" in inspect.signature(self.pipe.__call__).parameters
        options: dict[str, Any] = {"use_resolution_binning": False} if binned else {}
        options |= {"num_inference_steps": 2, "guidance_scale": 1.0, "generator": generators, "output_type": "latent"}
        hook = self.module.register_forward_pre_hook(stop, with_kwargs=True)
        try:
            self.pipe(prompt=list(captions), width=width, height=height, **options)
        except _Stop as stopped:
            return stopped.arguments
        finally:
            hook.remove()
        raise JobError(Problem("model.path", "a pipeline that calls its denoiser", type(self.pipe).__name__))


def _packed(latents: Tensor) -> Tensor:
    """2×2 latents as one token, as Flux packs them: [n, height·width / 4, 4·channels]."""
    n, channels, height, width = latents.shape
    if height % 2 or width % 2:
        return latents
    squares = latents.view(n, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return squares.reshape(n, (height // 2) * (width // 2), channels * 4)


def _is_rows(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0


def _flat(arguments: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in arguments.items():
        if isinstance(value, dict):
            flat |= {f"{name}/{key}": part for key, part in value.items()}
        else:
            flat[name] = value
    return flat


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        outer, slash, inner = name.partition("/")
        if slash:
            nested.setdefault(outer, {})[inner] = value
        else:
            nested[outer] = value
    return nested
