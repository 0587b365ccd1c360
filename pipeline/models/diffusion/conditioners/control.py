"""ControlNets."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from promptmill.pipeline.models.catalog.diffusers_source import call_parameters
from promptmill.pipeline.models.catalog.tasks import class_for, task_for
from promptmill.pipeline.models.diffusion.conditioning import Batch
from promptmill.pipeline.models.diffusion.controls import Controls
from promptmill.pipeline.models.diffusion.maps import control_map
from promptmill.pipeline.models.diffusion.registry import Parts
from promptmill.schemas.generation import Generation
from promptmill.schemas.inputs import CONTROL, control_role
from promptmill.schemas.plan import ResolvedControl, Sample


class ControlConditioner:
    """The maps, and how strongly and how long they steer, which is one value a call."""

    def __init__(self, controls: Controls, base: str) -> None:
        self._controls, self._base = controls, base

    def group(self, sample: Sample, generation: Generation) -> Hashable:
        return generation.steering(sample.steering) if self._controls.in_use else None

    def arguments(self, batch: Batch) -> Mapping[str, Any]:
        nets, generation = self._controls.in_use, batch.generation
        if not nets:
            return {}
        maps = [self._maps(batch.samples, net) for net in nets]
        scale, start, end = generation.steering(batch.samples[0].steering)
        scales = [net.scale * scale for net in nets]
        taken = call_parameters(
            class_for(task_for(batch.samples[0].inputs, self._base), self._base, controlled=True) or ""
        )
        several = len(nets) > 1
        arguments: dict[str, Any] = {
            "control_image" if "control_image" in taken else "image": maps if several else maps[0],
            "controlnet_conditioning_scale": scales if several else scales[0],
        }
        if "control_guidance_start" in taken:
            arguments |= {"control_guidance_start": start, "control_guidance_end": end}
        return arguments

    @staticmethod
    def _maps(samples: Sequence[Sample], net: ResolvedControl) -> torch.Tensor:
        """float [batch, 3, height, width] in 0 to 1: the one form that every class takes for a batch."""
        own = control_role(net.name)
        inputs = [sample.inputs.get(own) or sample.inputs[CONTROL] for sample in samples]
        pixels = np.stack([control_map(each.pixels, net.preprocess) for each in inputs])
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float() / 255


def make(parts: Parts) -> ControlConditioner:
    return ControlConditioner(parts.controls, type(parts.pipe).__name__)
