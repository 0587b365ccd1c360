"""A diffusers pipeline behind the `Generator` contract."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from promptmill.pipeline.models.catalog.resolve import DECODERS
from promptmill.pipeline.models.diffusion.adapters import ALL, Adapters, Choice, by_choice
from promptmill.pipeline.models.diffusion.calls import pixels_of, told
from promptmill.pipeline.models.diffusion.chance import process_chance
from promptmill.pipeline.models.diffusion.conditioning import (
    Batch,
    call_arguments,
    groups,
)
from promptmill.pipeline.models.diffusion.controls import Controls
from promptmill.pipeline.models.diffusion.decode import (
    WatchedDecode,
    decoder_of,
    finite_rows,
    in_float32,
    still_encode,
)
from promptmill.pipeline.models.diffusion.errors import guarded
from promptmill.pipeline.models.diffusion.guidance import Guidance
from promptmill.pipeline.models.diffusion.images import (
    sibling,
    size_of,
    task_name,
)
from promptmill.pipeline.models.diffusion.masks import closer, paste
from promptmill.pipeline.models.diffusion.pipelines import choose_device, choose_dtype, load_pipeline
from promptmill.pipeline.models.diffusion.placing import is_small, place
from promptmill.pipeline.models.diffusion.prompt_encoder import PromptEncoder
from promptmill.pipeline.models.diffusion.references import References
from promptmill.pipeline.models.diffusion.registry import Parts, conditioners
from promptmill.pipeline.models.diffusion.scheduler import build_scheduler, scheduler_class
from promptmill.pipeline.models.diffusion.times import a_time_each
from promptmill.pipeline.models.interface import Generated, Pixels
from promptmill.schemas.errors import SampleError
from promptmill.schemas.generation import Generation
from promptmill.schemas.inputs import TaskName
from promptmill.schemas.plan import Sample
from promptmill.schemas.resolved import ResolvedAdapter, ResolvedControl, ResolvedIpAdapter, ResolvedModel

TEXTS_KEPT = 256
"""Sets of adapters on text encoders, each with its prompts: rows may choose any weights."""


class Drawn(NamedTuple):
    """What a pipeline made of one sample."""

    pixels: Pixels
    latents_finite: bool
    pixels_finite: bool
    nsfw: bool


class DiffusersGenerator:
    def __init__(self, model: ResolvedModel, device: str = "auto") -> None:
        """Raises ModelLoadError, and DeviceMemoryError when the weights do not fit."""
        self._model = model
        self._device = choose_device(device)
        dtype = choose_dtype(model.dtype, self._device)
        self._pipe = load_pipeline(model, dtype, self._device)
        self._scheduler = self._pipe.scheduler
        self._base_texts = self._texts = PromptEncoder(self._pipe)
        self._texts_with: dict[tuple[ResolvedAdapter, ...], PromptEncoder] = {}
        self._guidance = Guidance(self._pipe)
        self._controls = Controls(dtype, self._device)
        self._references = References(self._pipe, dtype, self._device)
        parts = Parts(self._pipe, self._device, self._texts, self._guidance, self._controls, self._references)
        self._conditioners = conditioners(parts)
        self._siblings: dict[tuple[TaskName, bool], Any] = {}
        self._adapters = Adapters(self._pipe)
        self._given: tuple[ResolvedAdapter, ...] = ()
        self.pipeline_class = type(self._pipe).__name__
        self._precision = str(dtype).removeprefix("torch.")
        self.dtype = "+".join(filter(None, [self._precision, model.quantization]))
        self.device = str(self._device)

    def scheduler_name(self, generation: Generation) -> str:
        return scheduler_class(self._scheduler, generation.scheduler)

    def use(
        self,
        adapters: Sequence[ResolvedAdapter],
        controls: Sequence[ResolvedControl] = (),
        ip_adapter: ResolvedIpAdapter | None = None,
    ) -> None:
        """Raises ModelLoadError. What was encoded with other adapters is let go."""
        if tuple(adapters) != self._given:
            self._given, self._texts_with = tuple(adapters), {}
        self._switch(ALL)
        if self._controls.use(controls):
            self._siblings = {key: pipe for key, pipe in self._siblings.items() if not key[1]}
        if self._references.use(ip_adapter):
            self._siblings = {}

    def _switch(self, choice: Choice) -> None:
        """To what some samples choose."""
        adapters = choice.of(self._given)
        self._adapters.use(adapters)
        on_text = tuple(each for each in adapters if each.on_text)
        if not on_text:
            self._texts = self._base_texts
        elif on_text not in self._texts_with:
            while len(self._texts_with) >= TEXTS_KEPT:
                del self._texts_with[next(iter(self._texts_with))]
            self._texts_with[on_text] = PromptEncoder(self._pipe, self._adapters.words)
        self._texts = self._texts_with.get(on_text, self._base_texts)
        self._texts.read_weights(choice.weighs_words)

    def prepare(self, samples: Sequence[Sample], generation: Generation) -> None:
        """Those of the shard before stay too, for a worker that has two in hand."""
        read: dict[tuple[ResolvedAdapter, ...], tuple[Choice, list[str]]] = {}
        for choice, some in by_choice(samples):
            on_text = tuple(each for each in choice.of(self._given) if each.on_text)
            read.setdefault(on_text, (choice, []))[1].extend(sample.prompt for sample in some)
        for choice, prompts in read.values():
            self._switch(choice)
            self._texts.prepare(prompts)

    def generate(
        self,
        samples: Sequence[Sample],
        generation: Generation,
        on_step: Callable[[], None],
        full_precision: bool = False,
    ) -> list[Generated]:
        answers: dict[str, Generated] = {}
        draw = self._draw_in_float32 if full_precision else self._draw
        for choice, some in by_choice(samples):
            self._switch(choice)
            own = some[0].drawn_with(generation)
            answers |= self._refusals(some)
            wanted = [sample for sample in some if sample.sample_id not in answers]
            for group in groups(self._conditioners, wanted, own, self._texts):
                batch = Batch(group, own, on_step, self._texts)
                drawn = guarded(lambda batch=batch: draw(batch), len(samples) == 1, "generation")  # type: ignore[misc]
                for sample, image in zip(group, drawn, strict=True):
                    answers[sample.sample_id] = self._answer(sample, own, image, full_precision)
        return [answers[sample.sample_id] for sample in samples]

    def _refusals(self, samples: Sequence[Sample]) -> dict[str, Generated]:
        """Samples whose text the pipeline's tokenizers or encoders refuse."""
        refusals = {}
        for sample in samples:
            try:
                self._texts.prompt(sample.prompt)
                self._texts.negative(sample.negative_prompt)
            except SampleError as error:
                refusals[sample.sample_id] = Generated(None, error=error.bare())
        return refusals

    def _answer(self, sample: Sample, generation: Generation, image: Drawn, widened: bool) -> Generated:
        negative, heeded = bool(sample.negative_prompt), self._guidance.heeds_negative(generation)
        cut = self._texts.prompt(sample.prompt).truncated
        negative_cut = self._texts.negative(sample.negative_prompt).truncated if negative and heeded else ()
        raised = {
            **{f"prompt_truncated{which}": True for which in cut},
            **{f"negative_prompt_truncated{which}": True for which in negative_cut},
            "negative_prompt_ignored": negative and not heeded,
            "nsfw": image.nsfw,
            "retried_fp32": widened,
        }
        own = dict.fromkeys(flag for each in sample.inputs.values() for flag in each.flags)
        flags = (*(name for name, is_raised in raised.items() if is_raised), *own)
        if image.latents_finite and image.pixels_finite:
            return Generated(image.pixels, flags)
        what = "pixels" if image.latents_finite else "latents"
        dtype = "float32" if widened else self._precision
        return Generated(None, flags, SampleError("not_finite", f"{what} hold NaN or infinity, in {dtype}"))

    def _draw_in_float32(self, batch: Batch) -> list[Drawn]:
        """The decoder in float32; samples whose latents are not finite even so are denoised in float32 too.

        A model whose layers are streamed or made small has no such second way.
        """
        if self._model.offload == "sequential":
            return self._draw(batch)
        with in_float32(self._modules(*DECODERS)):
            drawn = self._draw(batch)
        again = [row for row, image in enumerate(drawn) if not image.latents_finite]
        if again and self._precision != "float32" and not is_small(self._modules()):
            with in_float32(self._modules()):
                texts = PromptEncoder(self._pipe, self._adapters.words)  # these may hold the infinity
                texts.read_weights(batch.texts.reads_weights)
                samples = [batch.samples[row] for row in again]
                widened = self._draw(Batch(samples, batch.generation, batch.on_step, texts))
            for row, image in zip(again, widened, strict=True):
                drawn[row] = image
        return drawn

    def _draw(self, batch: Batch) -> list[Drawn]:
        """One call of the pipeline; a call a sample where the pipeline draws from the process's generators too."""
        with process_chance(batch.samples[0].seed, self._device) as was_drawn_from:
            drawn = self._call(batch)
            alone = was_drawn_from() and len(batch.samples) > 1
        if not alone:
            return drawn
        return [image for each in batch.samples for image in self._draw(replace(batch, samples=[each]))]

    def _call(self, batch: Batch) -> list[Drawn]:
        """As a user of diffusers would make it with the same generators."""
        generation, pipe, whole = batch.generation, self._pipe_for(batch), batch.samples
        call = inspect.signature(pipe.__call__).parameters
        own = generation.height or self._model.height, generation.width or self._model.width
        batch = replace(batch, samples=[closer(each, generation, (own[1], own[0])) for each in whole])
        height, width = size_of(batch.samples[0]) or own
        # Image-to-image classes of U-Nets know no size: they draw in that of the image, which has the right one.
        sides = {} if batch.samples[0].inputs and "width" not in call else {"width": width, "height": height}
        generators = [torch.Generator("cpu").manual_seed(sample.seed) for sample in batch.samples]
        arguments: dict[str, Any] = {
            "num_inference_steps": generation.num_inference_steps,
            **sides,
            "generator": generators,
            **told(pipe, generation.num_inference_steps),
            **call_arguments(pipe, self._conditioners, batch),
        }
        pipe.scheduler = build_scheduler(self._scheduler, generation.scheduler, batch.on_step, generators)
        batch.on_step()
        try:
            vae = decoder_of(pipe)
            still, times = self._still(vae, batch), a_time_each(getattr(pipe, "transformer", None))
            with torch.inference_mode(), still, times, WatchedDecode(vae, width * height) as watched:
                drawn = _collect(pipe(**arguments), watched, (height, width))
        finally:
            pipe.scheduler = self._scheduler
        batch.on_step()
        return [
            image._replace(pixels=paste(sample, generation, image.pixels))
            for sample, image in zip(whole, drawn, strict=True)
        ]

    def _still(self, vae: Any, batch: Batch) -> AbstractContextManager[None]:
        if not self._controls.in_use or vae is None:
            return nullcontext()
        return still_encode(vae, always=task_name(batch.samples, self._pipe) == "text-to-image")

    def _pipe_for(self, batch: Batch) -> Any:
        nets = self._controls.modules
        key = task_name(batch.samples, self._pipe), bool(nets)
        if key not in self._siblings:
            made = sibling(self._pipe, key[0], nets)
            self._siblings[key] = made if made is self._pipe else place(made, self._model, self._device)
        if self._references.in_use:
            self._references.look(self._siblings[key])
        return self._siblings[key]

    def _modules(self, *names: str) -> list[torch.nn.Module]:
        parts = self._pipe.components
        found = [part for name in names or parts if isinstance(part := parts.get(name), torch.nn.Module)]
        return found if names else [*found, *self._controls.modules]


def _collect(output: Any, watched: WatchedDecode, size: tuple[int, int]) -> list[Drawn]:
    """`size` is height and width, which the pipeline must have kept to."""
    images = pixels_of(output)
    if tuple(images.shape[-2:]) != size:
        raise RuntimeError(f"asked for height and width {size}, the pipeline made {tuple(images.shape[-2:])}")
    shown = finite_rows(images)
    latents = watched.latents_finite or [True] * len(shown)
    decoded = watched.pixels_finite or [True] * len(shown)
    nsfw = getattr(output, "nsfw_content_detected", None) or [False] * len(shown)
    return [
        Drawn(pixels, fine, before and after, bool(flag))
        for pixels, fine, before, after, flag in zip(_to_uint8(images), latents, decoded, shown, nsfw, strict=True)
    ]


def _to_uint8(images: torch.Tensor) -> Any:
    """Rounds as diffusers does for PIL, half to even."""
    values = images.float().nan_to_num(0.0).clamp(0, 1).mul(255).round().to(torch.uint8)
    return np.ascontiguousarray(values.permute(0, 2, 3, 1).cpu().numpy())
