"""ControlNets beside a pipeline that is loaded, and the maps that steer them."""

from __future__ import annotations

from collections.abc import Sequence

import diffusers
import torch

from promptmill.pipeline.models.catalog.controls import CONFIG, control_files, control_folder, look_at
from promptmill.pipeline.models.catalog.door import NO_CODE
from promptmill.pipeline.models.catalog.held import held
from promptmill.pipeline.models.catalog.hub import download, open_hub_model
from promptmill.pipeline.models.catalog.weights import list_folder, select_weights
from promptmill.pipeline.models.diffusion.closed import closed
from promptmill.pipeline.models.diffusion.errors import loading
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.resolved import ResolvedControl


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
            listed = open_hub_model(control.path, control.revision, "model.controlnets", CONFIG, control.mirror)
            root = download(control.path, control.revision, control_files(listed), control.mirror)
        folder = list_folder(root)
        look_at(folder, "model.controlnets")
        known = "ControlNet" in control.class_name or control.class_name == "T2IAdapter"
        if not known or not hasattr(diffusers, control.class_name):
            raise JobError(Problem("model.controlnets", "a ControlNet of diffusers", repr(control.class_name), NO_CODE))
        variant = select_weights(name for name in folder.files if "/" not in name)[0]
        options = {"use_safetensors": True, "local_files_only": True, "variant": variant}
        net: torch.nn.Module = getattr(diffusers, control.class_name).from_pretrained(root, dtype=dtype, **options)
        return net.to(device).eval()
