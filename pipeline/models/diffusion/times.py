"""The time of a step, which a denoiser is given once for each image that it draws."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def a_time_each(denoiser: torch.nn.Module | None) -> Iterator[None]:
    """PRX guides with two times whatever the batch: a batch of two raised, and each sample was drawn alone."""
    if denoiser is None:
        yield
        return
    handle = denoiser.register_forward_pre_hook(_spread, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _spread(module: torch.nn.Module, args: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
    """Left as it is where it broadcasts, or where the times differ."""
    time, drawn = options.get("timestep"), options.get("hidden_states")
    if not isinstance(time, torch.Tensor) or not isinstance(drawn, torch.Tensor) or time.dim() != 1:
        return None
    if not 1 < len(time) < len(drawn) or bool((time != time[0]).any()):
        return None
    return args, options | {"timestep": time[:1].expand(len(drawn))}
