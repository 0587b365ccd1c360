"""The training loop that all stages share: schedule, averaged weights, checkpoints, log.

Batches are drawn from (seed, stage, step) and from nothing else, so a run that was interrupted and resumed has seen
the same batches and, on the same machine with the same number of threads, ends in the same weights.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn

from promptmill.pipeline.training.schedule import Schedule

STAGES = ("vae", "text", "unet", "decoder", "clip", "controlnet", "hollow", "wide")
"""Their place enters the randomness of each step: add at the end."""


@dataclass(frozen=True)
class StepRandom:
    """The randomness of one step: numpy for scenes and captions, torch (on the CPU) for noise."""

    step: int
    numpy: np.random.Generator
    torch: torch.Generator


def rank_and_size() -> tuple[int, int]:
    """This process's number and how many there are: 0 and 1, unless `torchrun` started them."""
    return (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)


def draw(seed: int, stage: str, step: int, rank: int = 0) -> StepRandom:
    words = [seed, STAGES.index(stage), step, *([rank] if rank else [])]
    state = int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)
    return StepRandom(step, np.random.default_rng(words), torch.Generator().manual_seed(state))


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16, where the device computes in it; elsewhere float32.

    On AVX-512-bf16 cores it is twice as fast as float32, as long as the memory format stays contiguous. On a core
    without it a ControlNet's step took 7.1 s and not 0.58 s.
    """
    slow = device.type == "cpu" and not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return torch.autocast(device.type, torch.bfloat16, enabled=not slow)


class Stage:
    """One stage in training: `module` is what learns, `loss` gives the step's losses, of which "loss" is minimised."""

    def __init__(
        self,
        name: str,
        module: nn.Module,
        plan: Schedule,
        seed: int,
        folder: Path,
        device: torch.device,
        stop_at: int | None = None,
    ) -> None:
        self.end = plan.steps if stop_at is None else min(stop_at, plan.steps)
        self.name, self.plan, self.seed, self.device, self.folder = name, plan, seed, device, folder
        self.module = module.to(device)
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=plan.rate, betas=plan.betas, weight_decay=plan.weight_decay, foreach=True
        )
        self.average = deepcopy(self.module).requires_grad_(False) if plan.ema else self.module
        self.step = 0
        self.rank, self.size = rank_and_size()
        self.batch = max(1, plan.batch // self.size)
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def finished(self) -> bool:
        return self.step >= self.plan.steps

    @property
    def checkpoint(self) -> Path:
        return self.folder / f"{self.name}.checkpoint.pt"

    def save(self) -> None:
        if self.rank:
            return
        state = {"step": self.step, "module": self.module.state_dict(), "optimizer": self.optimizer.state_dict()}
        if self.plan.ema:
            state["average"] = self.average.state_dict()
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.checkpoint)

    def restore(self) -> bool:
        """Continue from the checkpoint if there is one."""
        if not self.checkpoint.exists():
            return False
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.plan.ema:
            self.average.load_state_dict(state["average"])
        self.step = int(state["step"])
        return True

    def log(self, row: dict[str, Any]) -> None:
        if self.rank:
            return
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"stage": self.name, "step": self.step, **row}) + "\n")

    def update(self, loss: Tensor) -> None:
        rate = self.plan.rate_at(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.share_gradients()
        nn.utils.clip_grad_norm_(self.parameters, self.plan.clip_norm)
        self.optimizer.step()
        if self.plan.ema:
            # A short memory early, so that the average forgets the initial weights.
            keep = min(self.plan.ema, (1 + self.step) / (10 + self.step))
            with torch.no_grad():
                ours: list[Tensor] = list(self.average.parameters())
                theirs: list[Tensor] = list(self.module.parameters())
                torch._foreach_lerp_(ours, theirs, 1 - keep)
                for our, their in zip(self.average.buffers(), self.module.buffers(), strict=True):
                    our.copy_(their)
        self.step += 1

    def share_gradients(self) -> None:
        """The mean over all processes; two of one thread each outrun one of two threads where cores are shared."""
        if self.size == 1:
            return
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        distributed.all_reduce(flat)
        parts = torch.split(flat / self.size, [g.numel() for g in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def run(
        self,
        losses: Callable[[StepRandom], dict[str, Tensor]],
        measure: Callable[[nn.Module], dict[str, float]] | None = None,
        log_every: int = 50,
        measure_every: int = 500,
        save_every: int = 250,
    ) -> nn.Module:
        """Train to the plan's end (or to `stop_at`), and give the averaged module."""
        sums: dict[str, float] = {}
        since, started = self.step, time.monotonic()
        while self.step < self.end:
            values = losses(draw(self.seed, self.name, self.step, self.rank))
            self.update(values["loss"])
            for key, value in values.items():
                sums[key] = sums.get(key, 0.0) + float(value.detach())
            if self.step % log_every == 0 or self.step == self.end:
                count = max(1, self.step - since)
                row = {k: round(v / count, 5) for k, v in sums.items()}
                self.log({**row, "seconds_per_step": round((time.monotonic() - started) / count, 4)})
                sums, since, started = {}, self.step, time.monotonic()
            if measure and self.rank == 0 and (self.step % measure_every == 0 or self.step == self.end):
                with evaluating(self.average):
                    self.log(measure(self.average))
                started = time.monotonic()
            if self.step % save_every == 0 or self.step == self.end:
                self.save()
        return self.average


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    training = module.training
    module.eval()
    with torch.no_grad():
        yield
    module.train(training)
