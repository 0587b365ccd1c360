"""A tiny pipeline of random weights for each text-to-image class of the installed diffusers, a file a kind of family.

Sizes follow what the classes accept, found in their own signatures; those of tests/models/tiny.py are used too. A
class that comes in two kinds (distilled, with a guider) has a row for each: the class, a blank, and the kind.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import diffusers
import torch

from tests.families.builders import flux, language, omni, several, transformers, unets
from tests.families.builders.parts import BUILDERS, FINISHED
from tests.models import tiny

__all__ = ["BUILDERS", "OLDER", "build", "flux", "language", "omni", "several", "transformers", "unets", "wake"]

OLDER: dict[str, Callable[[Path], Path]] = {
    "StableDiffusionPipeline": tiny.build_sd15,
    "StableDiffusionXLPipeline": tiny.build_sdxl,
    "StableDiffusion3Pipeline": tiny.build_sd3,
    "FluxPipeline": tiny.build_flux,
    "FluxPipeline undistilled": tiny.build_flux_undistilled,
    "PixArtSigmaPipeline": tiny.build_pixart,
    "SanaPipeline": tiny.build_sana,
    "LatentConsistencyModelPipeline": tiny.build_lcm,
}
"""Row → what saves it in a folder."""


def build(name: str, folder: Path) -> Path:
    """Saves the pipeline; sd15, sdxl and their kin come from tests/models/tiny.py."""
    if name in OLDER:
        return OLDER[name](folder)
    torch.manual_seed(0)
    pipe = getattr(diffusers, name.split(maxsplit=1)[0])(**BUILDERS[name]())
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            wake(part)
    pipe.save_pretrained(folder)
    FINISHED.get(name, Path)(folder)
    return folder


def wake(module: torch.nn.Module) -> None:
    """Gates that training would open are zero at first: nothing of the prompt would pass them."""
    for _, weights in module.named_parameters():
        if weights.dim() > 1 and not weights.any():
            torch.nn.init.normal_(weights, std=0.2)
