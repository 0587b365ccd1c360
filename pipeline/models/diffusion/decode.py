"""The steps between pixels and latents: watched, widened, and drawn from no generator but the samples' own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from types import TracebackType
from typing import Any, Self

import torch
from diffusers.models.autoencoders.vae import DecoderOutput

from promptmill.pipeline.models.catalog.resolve import DECODERS

DECODED_PIXELS = 4 * 2**20
"""At once (four images of 1024×1024): no step takes more memory, in bfloat16 about 2.5 GB for such an image."""


class WatchedDecode:
    """Stands in for `vae.decode` during one call of a pipeline, which so keeps its own scaling and unpacking.

    Notes per sample whether latents and pixels are finite. Pixels that are not become 0, so that what follows neither
    warns nor paints them: the caller leaves them out.
    """

    def __init__(self, vae: Any, pixels: int) -> None:
        """`vae` may be None, for pipelines without; `pixels` is the size of one image."""
        self._vae = vae
        self._chunk = max(1, DECODED_PIXELS // pixels)
        self._decode: Callable[..., Any]
        self.latents_finite: list[bool] | None = None
        self.pixels_finite: list[bool] | None = None

    def __enter__(self) -> Self:
        if self._vae is not None:
            self._decode = self._vae.decode
            self._vae.decode = self._watched
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._vae is not None:
            del self._vae.decode

    def _watched(self, latents: torch.Tensor, *args: Any, **options: Any) -> Any:
        """Latents [batch, …] to pixels [batch, 3, height, width] in −1 to 1."""
        self.latents_finite = finite_rows(latents)
        # Of a model that is spread over GPUs, the decoder may lie on another than the denoiser.
        acts_on = getattr(getattr(self._vae, "_hf_hook", None), "execution_device", None)
        latents = latents.to(latents.device if acts_on is None else acts_on, self._vae.dtype)
        as_object = options.pop("return_dict", True)
        options["return_dict"] = False
        parts = [self._decode(part, *args, **options)[0] for part in torch.split(latents, self._chunk)]
        pixels = parts[0] if len(parts) == 1 else torch.cat(parts)
        self.pixels_finite = finite_rows(pixels)
        if not all(self.pixels_finite):
            pixels = pixels.nan_to_num(0.0, 0.0, 0.0)
        return DecoderOutput(sample=pixels) if as_object else (pixels,)


def decoder_of(pipe: Any) -> Any:
    """None for pipelines that draw pixels."""
    return next((part for name in DECODERS if (part := getattr(pipe, name, None)) is not None), None)


def finite_rows(values: torch.Tensor) -> list[bool]:
    return [bool(row) for row in values.isfinite().flatten(1).all(dim=1).tolist()]


@contextmanager
def in_float32(modules: Iterable[Any]) -> Iterator[None]:
    """Parameters and buffers as float32, afterwards as before, bit for bit.

    Not by `.to`: some text encoders keep a few layers in float32 beside the others, which `.to` would level.
    """
    tensors = chain.from_iterable(chain(module.parameters(), module.buffers()) for module in modules)
    before = {tensor: tensor.dtype for tensor in tensors if tensor.is_floating_point()}
    try:
        for tensor in before:
            tensor.data = tensor.data.float()
        yield
    finally:
        for tensor, dtype in before.items():
            tensor.data = tensor.data.to(dtype)


@contextmanager
def still_encode(vae: Any, always: bool) -> Iterator[None]:
    """During one call, encoded images are the mean of their latents, and not a draw from the process's own generator.

    Stable Diffusion 3 draws its control maps so. `always` is for calls in which only such maps are encoded: Flux draws
    them from the samples' generators, whose noise would then be another than without ControlNets.
    """
    encode = vae.encode

    def still(*args: Any, **options: Any) -> Any:
        encoded = encode(*args, **options)
        spread = getattr(encoded, "latent_dist", None)
        if spread is not None:
            drawn = spread.sample
            spread.sample = lambda generator=None: spread.mode() if always or generator is None else drawn(generator)
        return encoded

    vae.encode = still
    try:
        yield
    finally:
        del vae.encode
