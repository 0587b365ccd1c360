"""ControlNets beside a pipeline that is loaded, and the maps that steer them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import diffusers
import numpy as np
import torch

from promptmill.pipeline.models.catalog.controls import CONFIG, control_files, control_folder, look_at
from promptmill.pipeline.models.catalog.diffusers_source import call_parameters
from promptmill.pipeline.models.catalog.door import NO_CODE
from promptmill.pipeline.models.catalog.held import held
from promptmill.pipeline.models.catalog.hub import download, open_hub_model
from promptmill.pipeline.models.catalog.tasks import class_for
from promptmill.pipeline.models.catalog.weights import list_folder, select_weights
from promptmill.pipeline.models.diffusion.closed import closed
from promptmill.pipeline.models.diffusion.conditioning import Batch
from promptmill.pipeline.models.diffusion.errors import loading
from promptmill.pipeline.models.diffusion.maps import control_map
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.generation import Generation
from promptmill.schemas.inputs import CONTROL, control_role, task_of
from promptmill.schemas.plan import ResolvedControl, Sample


class Controls:
    """Those in use; the ones that are not are let go, since each weighs as much as half a U-Net."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype, self._device = dtype, device
        self._loaded: dict[str, torch.nn.Module] = {}
        self.in_use: tuple[ResolvedControl, ...] = ()

    def use(self, controls: Sequence[ResolvedControl]) -> bool:
        """Whether other networks are in use. Raises ModelLoadError and DeviceMemoryError."""
        wanted = [_key(each) for each in controls]
        changed = wanted != [_key(each) for each in self.in_use]
        self._loaded = {key: net for key, net in self._loaded.items() if key in wanted}
        for key, control in zip(wanted, controls, strict=True):
            if key not in self._loaded:
                self._loaded[key] = _load(control, self._dtype, self._device)
        self.in_use = tuple(controls)
        return changed

    @property
    def modules(self) -> list[torch.nn.Module]:
        """In the order of the job."""
        return [self._loaded[_key(each)] for each in self.in_use]


def _key(control: ResolvedControl) -> str:
    return f"{control.location}@{control.revision}"


def _load(control: ResolvedControl, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
    with loading(f"ControlNet {control.name} ({control.path})"), held(control), closed():
        root = control_folder(control)
        if not control.is_local:
            listed = open_hub_model(control.path, control.revision, "model.controlnets", CONFIG)
            root = download(control.path, control.revision, control_files(listed))
        folder = list_folder(root)
        look_at(folder, "model.controlnets")
        if "ControlNet" not in control.class_name or not hasattr(diffusers, control.class_name):
            raise JobError(Problem("model.controlnets", "a ControlNet of diffusers", repr(control.class_name), NO_CODE))
        variant = select_weights(name for name in folder.files if "/" not in name)[0]
        options = {"use_safetensors": True, "local_files_only": True, "variant": variant}
        net: torch.nn.Module = getattr(diffusers, control.class_name).from_pretrained(root, dtype=dtype, **options)
        return net.to(device).eval()


class ControlConditioner:
    """The maps, and how strongly and how long they steer, which is one value a call."""

    def __init__(self, controls: Controls, base: str) -> None:
        self._controls, self._base = controls, base

    def group(self, sample: Sample, generation: Generation) -> Hashable:
        return None

    def arguments(self, batch: Batch) -> Mapping[str, Any]:
        nets, generation = self._controls.in_use, batch.generation
        if not nets:
            return {}
        maps = [self._maps(batch.samples, net) for net in nets]
        scale, start, end = generation.steering
        scales = [net.scale * scale for net in nets]
        taken = call_parameters(class_for(task_of(batch.samples[0].inputs).name, self._base, controlled=True) or "")
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
