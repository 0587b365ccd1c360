"""Which samples of a pipeline are guided away from a negative prompt, and how its call is told."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from promptmill.pipeline.models.catalog.families import NO_SCALE, ONE_TEXT
from promptmill.pipeline.models.diffusion.prompt_encoder import Encoded, PromptEncoder, call_default
from promptmill.schemas.generation import Generation
from promptmill.schemas.plan import Sample

SCALES = ("guidance_scale", "distilled_guidance_scale")
"""As pipelines call what `generation.guidance_scale` says."""


class Guidance:
    """Classifier-free guidance (arXiv:2207.12598) as the pipeline does it.

    Most pipelines guide whenever the scale is above 1, Z-Image above 0, a distilled Flux.2 klein never: they say so by
    themselves. Those with a `true_cfg_scale` differ: distilled ones, such as Flux.1-dev, take the scale as an input and
    know no negative prompt; the others guide where a negative prompt is given, and, if their own default says so
    (Qwen-Image), always. Those with a guider (HunyuanImage) have the scale in its settings, or none when distilled.
    """

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        unheeded = SCALES if type(pipe).__name__ in NO_SCALE else ()
        self._call = frozenset(inspect.signature(pipe.__call__).parameters) - {*unheeded}
        guiders = (getattr(pipe, name, None) for name in ("guider", "ocr_guider"))
        self._guiders = [guider for guider in guiders if guider is not None]
        self._is_text = type(pipe).__name__ in ONE_TEXT
        self._true_cfg = "true_cfg_scale" in self._call
        self._always = not self._true_cfg or (call_default(pipe, "true_cfg_scale") or 0) > 1
        denoiser = getattr(pipe, "transformer", None)
        self._distilled = self._true_cfg and bool(getattr(denoiser and denoiser.config, "guidance_embeds", False))

    def heeds_negative(self, generation: Generation) -> bool:
        return "negative_prompt" in self._call and not self._distilled and self._is_on(generation.guidance_scale)

    def _is_on(self, scale: float) -> bool:
        """As the pipeline itself decides, where it can be asked."""
        if hasattr(self._pipe, "guider"):
            return scale > 1 and bool(self._guiders)
        if not isinstance(getattr(type(self._pipe), "do_classifier_free_guidance", None), property):
            return scale > 1
        image_scale = call_default(self._pipe, "image_guidance_scale")  # of models that edit; no job sets one below 1
        with _instead(self._pipe, "_guidance_scale", scale), _instead(self._pipe, "_image_guidance_scale", image_scale):
            return bool(self._pipe.do_classifier_free_guidance)

    def is_guided(self, sample: Sample, generation: Generation) -> bool:
        return self.heeds_negative(generation) and (self._always or bool(sample.negative_prompt))

    def arguments(
        self, group: Sequence[Sample], generation: Generation, texts: PromptEncoder, device: torch.device
    ) -> dict[str, Any]:
        """The scale and the negative prompts of one group, as the pipeline's call takes them."""
        guided = self.is_guided(group[0], generation)
        scale = generation.guidance_scale
        for guider in self._guiders:
            guider.guidance_scale = max(scale, 1.0)  # below, it would draw the negative prompt
        arguments: dict[str, Any] = {name: scale for name in SCALES if name in self._call}
        if guided and self._true_cfg:
            arguments["true_cfg_scale"] = scale
        if not texts.gives_tensors:
            if guided and (self._true_cfg or group[0].negative_prompt):
                negatives = [texts.worded(sample.negative_prompt) or " " for sample in group]
                arguments["negative_prompt"] = negatives[0] if self._is_text else negatives
        elif guided:
            parts = texts.parts(group[0].prompt, group[0].negative_prompt)
            rows = [texts.filled(texts.negative(sample.negative_prompt), parts) for sample in group]
            arguments |= stacked(rows, "negative_", device)
            # PixArt's default is the empty text, and it refuses text beside tensors.
            arguments["negative_prompt"] = None
        return arguments


@contextmanager
def _instead(pipe: Any, name: str, value: Any) -> Iterator[None]:
    before = vars(pipe).get(name)
    setattr(pipe, name, value)
    try:
        yield
    finally:
        setattr(pipe, name, before)


def stacked(rows: list[Encoded], prefix: str, device: torch.device) -> dict[str, torch.Tensor]:
    """One batch of what was encoded one by one."""
    return {prefix + name: torch.stack([row.tensors[name] for row in rows]).to(device) for name in rows[0].tensors}
