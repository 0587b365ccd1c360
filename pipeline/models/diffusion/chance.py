"""The process's own generators during one call of a pipeline: seeded, watched, and afterwards as before.

Noise is drawn from each sample's own generator. What a pipeline draws besides (tokens that a language model samples)
comes from the process, which has one state for the whole batch: so a sample that needs it is drawn alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


@contextmanager
def process_chance(seed: int, device: torch.device) -> Iterator[Callable[[], bool]]:
    """Yields a question: has anything been drawn from the process's generators?"""
    devices = [torch.cuda.current_device() if device.index is None else device.index] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        before = _states(devices)
        yield lambda: not all(map(torch.equal, before, _states(devices)))


def _states(devices: list[int]) -> list[torch.Tensor]:
    return [torch.random.get_rng_state(), *map(torch.cuda.get_rng_state, devices)]
