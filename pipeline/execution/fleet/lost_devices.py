"""Devices that were lost: once may be chance, twice in a window is the device."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from dataclasses import dataclass

WINDOW_S = 600.0
LOSSES = 2


@dataclass(frozen=True)
class Device:
    """`gpus` are Ray's ids of the GPUs that one worker has; empty on CPU, where a node has one such for all workers."""

    node: str
    gpus: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.named(f"node {self.node[:8]}")

    def named(self, node: str) -> str:
        return f"GPU {','.join(self.gpus)} of {node}" if self.gpus else f"a worker's place on {node}"


class LostDevices:
    def __init__(self) -> None:
        self._losses: dict[Device, deque[float]] = defaultdict(lambda: deque(maxlen=LOSSES))

    def lose(self, device: Device) -> bool:
        """Count it; whether this device should be left out from now on."""
        losses = self._losses[device]
        losses.append(time.monotonic())
        return len(losses) == LOSSES and losses[-1] - losses[0] <= WINDOW_S
