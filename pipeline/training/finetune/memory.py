"""What a training takes, before it starts: weights and optimizer are counted, activations by a walk without numbers."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from promptmill.pipeline.training.finetune.denoiser import Denoiser, Rows
from promptmill.schemas.errors import JobError, Problem

_MOMENTS = {"adamw": 2, "prodigy": 4}
"""Numbers that an optimizer keeps beside each parameter; Prodigy also keeps where it began."""


@dataclass(frozen=True)
class Estimate:
    """Bytes on the device, erring high by what operations between modules make."""

    weights_bytes: int
    adapter_bytes: int
    activations_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.adapter_bytes + self.activations_bytes

    def as_json(self) -> dict[str, int]:
        return {**asdict(self), "total_bytes": self.total_bytes}


def estimate(denoiser: Denoiser, rows: Rows, batch: int, optimizer: str, checkpointing: bool) -> Estimate:
    """`rows` are of one caption."""
    learnt = sum(p.numel() for p in denoiser.module.parameters() if p.requires_grad)
    parts = [part for part in denoiser.pipe.components.values() if isinstance(part, nn.Module)]
    weights = sum(p.numel() * p.element_size() for part in parts for p in part.parameters())
    states = learnt * 4 * (1 + _MOMENTS[optimizer])  # gradients, and what the optimizer keeps, in float32
    kept = _activations(denoiser, rows, batch)
    return Estimate(weights, states, kept // 4 if checkpointing else kept)


def check_fits(needed: Estimate, device: torch.device) -> None:
    """Raises JobError where less memory is free than is needed beyond the weights, which are there already."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    missing = needed.adapter_bytes + needed.activations_bytes
    if missing > free:
        got = f"{free / 1e9:.1f} GB on {device.type}"
        hint = "Lower finetune.batch_size or width and height, or set gradient_checkpointing."
        raise JobError(Problem("finetune", f"{missing / 1e9:.1f} GB of free memory", got, hint))


def _activations(denoiser: Denoiser, rows: Rows, batch: int) -> int:
    """Outputs of all modules without parts, for a batch, counted on the device that holds no numbers."""
    ghost = _likeness(denoiser.module)
    counted = 0

    def count(module: nn.Module, given: Any, output: Any) -> None:
        nonlocal counted
        counted += sum(t.numel() * 4 for t in (output if isinstance(output, tuple) else (output,)) if _is_tensor(t))

    for module in ghost.modules():
        if not list(module.children()):
            module.register_forward_hook(count)
    wide = {name: value[:1].expand(batch, *value.shape[1:]).to("meta") for name, value in rows.items()}
    latents = torch.empty(batch, *denoiser.shape.latents, device="meta")
    denoiser.predict(ghost, latents, wide, torch.ones(batch, device="meta"))
    return counted


def _likeness(module: nn.Module) -> nn.Module:
    """On the device that holds no numbers: a copy of the weights, if only for a moment, would be what does not fit."""
    told: dict[int, Any] = {}
    for parameter in module.parameters():
        told[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
    for buffer in module.buffers():
        told[id(buffer)] = torch.empty_like(buffer, device="meta")
    return deepcopy(module, told)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)
