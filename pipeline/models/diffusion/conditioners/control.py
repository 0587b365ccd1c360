"""ControlNets and T2I-Adapters."""

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
from promptmill.schemas.plan import Sample
from promptmill.schemas.resolved import ResolvedControl

_SCALE = {
    **dict.fromkeys(("controlnet", "controlnet-union"), "controlnet_conditioning_scale"),
    "adapter": "adapter_conditioning_scale",
}


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
        modules = self._controls.modules
        maps = [self._maps(batch.samples, net, module) for net, module in zip(nets, modules, strict=True)]
        scale, start, end = generation.steering(batch.samples[0].steering)
        scales = [net.scale * scale for net in nets]
        task = task_for(batch.samples[0].inputs, self._base)
        taken = call_parameters(class_for(task, self._base, nets[0].kind) or "")
        several = len(nets) > 1
        arguments: dict[str, Any] = {
            "control_image" if "control_image" in taken else "image": maps if several else maps[0],
            _SCALE[nets[0].kind]: scales if several else scales[0],
        }
        if any(net.mode is not None for net in nets):
            arguments["control_mode"] = [net.mode for net in nets] if several else nets[0].mode
        if "control_guidance_start" in taken:
            arguments |= {"control_guidance_start": start, "control_guidance_end": end}
        if "adapter_conditioning_factor" in taken:
            arguments["adapter_conditioning_factor"] = end
        return arguments

    @staticmethod
    def _maps(samples: Sequence[Sample], net: ResolvedControl, module: torch.nn.Module) -> torch.Tensor:
        """float [batch, 3, height, width] in 0 to 1: the one form that every class takes for a batch.

        T2I-Adapters of sketches and edges have one channel.
        """
        own = control_role(net.name)
        inputs = [sample.inputs.get(own) or sample.inputs[CONTROL] for sample in samples]
        pixels = np.stack([control_map(each.pixels, net.preprocess) for each in inputs])
        maps = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float() / 255
        single = net.kind == "adapter" and getattr(module, "config", {}).get("in_channels") == 1
        return maps.mean(1, keepdim=True) if single else maps


def make(parts: Parts) -> ControlConditioner:
    return ControlConditioner(parts.controls, type(parts.pipe).__name__)
