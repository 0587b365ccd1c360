"""How much of what a training sees."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """How a stage is optimised: AdamW, linear warm-up, a constant rate, then linear decay over the last `decay` share.

    The rate depends on step / steps alone, so a longer run of the same command is the same schedule, stretched.
    """

    steps: int
    batch: int
    rate: float
    warmup: int = 100
    decay: float = 0.3
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    clip_norm: float = 1.0
    ema: float = 0.0  # 0 keeps no average

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or not 0 <= self.decay <= 1 or not 0 <= self.ema < 1:
            raise ValueError(f"steps and batch must be at least 1, decay in [0, 1], ema in [0, 1): {self}")

    def rate_at(self, step: int) -> float:
        """The learning rate of `step`, counted from 0."""
        rising = min(1.0, (step + 1) / self.warmup)
        falling = min(1.0, (self.steps - step) / max(1.0, self.decay * self.steps))
        return self.rate * min(rising, falling)
