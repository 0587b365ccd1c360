"""The loop of one adapter. What a step sees follows from seed and step alone, so a resume ends in the same bits."""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from promptmill.pipeline.crashpoints import reached
from promptmill.pipeline.storage.local import replace_file
from promptmill.pipeline.training.finetune.denoiser import Denoiser, Rows
from promptmill.pipeline.training.finetune.learnt import Learnt
from promptmill.pipeline.training.loop import autocast
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.tuning import Finetune

CHECKPOINT: Final = "checkpoint.pt"
LOG: Final = "log.jsonl"
_LOG_EVERY = 20
_FEW_TOKENS = 1024
"""Scores of more would take memory that the estimate does not count."""


@dataclass(frozen=True)
class Example:
    """What is learnt of one image; `prior` ones are samples of the model itself."""

    name: str
    caption: str
    latents: Tensor
    prior: bool = False


class Training:
    """`texts` are the cached rows by caption, the empty one among them."""

    def __init__(
        self, denoiser: Denoiser, learns: Learnt, how: Finetune, seed: int, rate: float, identity: str, folder: Path
    ) -> None:
        self.denoiser, self.learns, self.how, self.seed, self.rate = denoiser, learns, how, seed, rate
        self.identity, self.folder, self.step = identity, folder, 0
        self.device = next(denoiser.module.parameters()).device
        self.optimizer = _optimizer(how, learns.parameters, rate)

    def run(
        self, examples: Sequence[Example], texts: Mapping[str, Rows], on_step: Callable[[int, float], None]
    ) -> float:
        """To the last step; the mean loss of the last fifty. Raises JobError at a loss that is no number."""
        own = [each for each in examples if not each.prior]
        prior = [each for each in examples if each.prior]
        losses: list[float] = []
        with _attention(self.device, self.denoiser.shape.latents):
            while self.step < self.how.steps:
                numbers, noise = self._random()
                value = self._losses(own, texts, numbers, noise).mean()
                if prior:
                    value = value + self.how.prior_weight * self._losses(prior, texts, numbers, noise).mean()
                self._update(value)
                losses = [*losses[-49:], float(value.detach())]
                on_step(self.step, losses[-1])
                if self.step % _LOG_EVERY == 0:
                    self._log(losses[-1])
                if self.step % self.how.checkpoint_every == 0 and self.step < self.how.steps:
                    self.save()
        return float(np.mean(losses)) if losses else float("nan")

    def save(self) -> None:
        state = {
            "identity": self.identity,
            "step": self.step,
            "learnt": self.learns.state(),
            "optimizer": self.optimizer.state_dict(),
        }
        data = io.BytesIO()
        torch.save(state, data)
        reached("finetune before checkpoint")
        replace_file(self.folder, CHECKPOINT, data.getvalue())
        reached("finetune after checkpoint")

    def restore(self) -> int:
        """The step from which it goes on. A checkpoint of another training, or none that is whole, is step 0."""
        path = self.folder / CHECKPOINT
        if not path.is_file():
            return 0
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["identity"] != self.identity:
            return 0
        self.learns.restore(state["learnt"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = int(state["step"])
        return self.step

    def _random(self) -> tuple[np.random.Generator, torch.Generator]:
        words = [self.seed, self.step]
        start = int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)
        return np.random.default_rng(words), torch.Generator().manual_seed(start)

    def _losses(
        self,
        examples: Sequence[Example],
        texts: Mapping[str, Rows],
        numbers: np.random.Generator,
        noise: torch.Generator,
    ) -> Tensor:
        """Float32 [batch]."""
        chosen = [examples[i] for i in self._places(len(examples))]
        dropped = numbers.random(len(chosen)) < self.how.caption_dropout
        captions = ["" if drop else each.caption for each, drop in zip(chosen, dropped, strict=True)]
        latents = torch.cat([each.latents for each in chosen])
        drawn = torch.randn(latents.shape, generator=noise)
        times = self._times(len(chosen), noise)
        parts = [self._some(some, captions, texts, latents, drawn, times) for some in _alike(captions, texts)]
        order = torch.tensor([i for some in _alike(captions, texts) for i in some])
        losses = torch.empty(len(chosen), device=self.device).index_copy(0, order.to(self.device), torch.cat(parts))
        self._check(losses.detach(), chosen)
        return losses

    def _some(self, some: list[int], captions: list[str], texts: Mapping[str, Rows], *tensors: Tensor) -> Tensor:
        said = [captions[i] for i in some]
        names = texts[said[0]]
        cached = {name: torch.cat([texts[caption][name] for caption in said]).to(self.device) for name in names}
        latents, noise, times = (each[some].to(self.device) for each in tensors)
        with autocast(self.device):
            return self.denoiser.loss(latents, self.learns.rows(said, cached), noise, times)

    def _places(self, count: int) -> list[int]:
        """Every image once before any comes again, in an order of its own each round."""
        first = self.step * self.how.batch_size
        found = []
        for place in range(first, first + self.how.batch_size):
            turn = np.random.default_rng([self.seed, 1, place // count]).permutation(count)
            found.append(int(turn[place % count]))
        return found

    def _times(self, count: int, noise: torch.Generator) -> Tensor:
        kind = self.how.timesteps
        if kind == "logit_normal" or (kind == "auto" and self.denoiser.is_flow):
            return torch.sigmoid(torch.randn(count, generator=noise))
        return (torch.arange(count) + torch.rand(count, generator=noise)) / count

    def _check(self, losses: Tensor, chosen: Sequence[Example]) -> None:
        bad = [each.name for each, ok in zip(chosen, torch.isfinite(losses).tolist(), strict=True) if not ok]
        if not bad:
            return
        named = ", ".join(dict.fromkeys(bad))[:300]
        every = len(bad) == len(chosen)
        hint = "All at once: lower finetune.learning_rate." if every else "Look at these images, or use dtype float32."
        where = f"finetune, step {self.step}"
        raise JobError(Problem(where, "a loss that is a number", f"NaN or infinity for {named}", hint))

    def _update(self, loss: Tensor) -> None:
        warm = min(1.0, (self.step + 1) / max(1, self.how.warmup_steps))
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * warm
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.learns.parameters, 1.0)
        self.optimizer.step()
        self.step += 1

    def _log(self, loss: float) -> None:
        with (self.folder / LOG).open("a", encoding="utf-8") as file:
            row = {"step": self.step, "loss": round(loss, 6), "at": round(time.time(), 1)}
            file.write(json.dumps(row) + "\n")


def _attention(device: torch.device, latents: tuple[int, ...]) -> AbstractContextManager[None]:
    """On a CPU with all scores at once, as long as they are few: torch's flash attention goes back slowly there. A step
    of the built-in model (batch 16, one core) takes 136 ms so, and 167 with it."""
    tokens = latents[0] if len(latents) == 2 else math.prod(latents[1:])
    few = device.type == "cpu" and tokens <= _FEW_TOKENS
    return sdpa_kernel(SDPBackend.MATH) if few else nullcontext()


def _alike(captions: Sequence[str], texts: Mapping[str, Rows]) -> list[list[int]]:
    """Places of captions whose rows have the same shapes: those go through the denoiser together."""
    groups: dict[Any, list[int]] = {}
    for place, caption in enumerate(captions):
        shape = tuple((name, tuple(value.shape[1:])) for name, value in texts[caption].items())
        groups.setdefault(shape, []).append(place)
    return list(groups.values())


def _optimizer(how: Finetune, parameters: list[nn.Parameter], rate: float) -> torch.optim.Optimizer:
    """Raises JobError where Prodigy is not installed."""
    if how.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.99), weight_decay=how.weight_decay)
    try:
        from prodigyopt import Prodigy
    except ImportError:
        hint = "pip install 'promptmill[tuning]'"
        raise JobError(Problem("finetune.optimizer", "the package prodigyopt for prodigy", "none", hint)) from None
    made: torch.optim.Optimizer = Prodigy(
        parameters, lr=rate, weight_decay=how.weight_decay, safeguard_warmup=True, use_bias_correction=True
    )
    return made
