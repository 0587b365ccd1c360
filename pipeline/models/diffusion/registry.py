"""The kinds of conditioners, found by lying in `conditioners/`, and what they may use of a loaded model."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import torch

from promptmill.pipeline.models.diffusion.conditioning import Conditioner
from promptmill.pipeline.models.diffusion.controls import Controls
from promptmill.pipeline.models.diffusion.guidance import Guidance
from promptmill.pipeline.models.diffusion.prompt_encoder import PromptEncoder
from promptmill.pipeline.models.diffusion.references import References


@dataclass(frozen=True)
class Parts:
    """Of a loaded model, what conditioners use."""

    pipe: Any
    device: torch.device
    texts: PromptEncoder
    guidance: Guidance
    controls: Controls
    references: References


_FOLDER = "promptmill.pipeline.models.diffusion.conditioners"


def conditioners(parts: Parts) -> list[Conditioner]:
    names = sorted(module.name for module in iter_modules(import_module(_FOLDER).__path__))
    return [import_module(f"{_FOLDER}.{name}").make(parts) for name in names]
