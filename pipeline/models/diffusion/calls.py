"""What a pipeline's call is told beside the sample, read from its own signature and source; and what it answers."""

from __future__ import annotations

import inspect
import re
from typing import Any, Final

import numpy as np
import torch

TOLD: Final[dict[str, Any]] = {
    "clean_caption": False,
    "skip_text_cleaning": True,
    "use_resolution_binning": False,
    "use_pe": False,
    "guidance_schedule": None,  # of Ideogram 4, which has one and refuses a scale beside it
}
"""What some pipelines do to a prompt, a size or a setting unless they are told not to."""
_REWRITES: Final = re.compile(r"rewrit|upsampl|enhanc")
"""In the name of an argument: a language model puts another prompt in place of the one that is recorded."""
_RAW: Final = re.compile(r"output_type\b[^\n]*[\"']pt[\"']")
"""A call that looks for `pt` itself: DeepFloyd IF, Kandinsky 3, LDM and PRX-Pixel then give it in −1 to 1."""


def told(pipe: Any, steps: int) -> dict[str, Any]:
    """Arguments that are the same for every sample."""
    call = inspect.signature(pipe.__call__).parameters
    rewriting = {name: False for name, each in call.items() if _REWRITES.search(name) and each.default is True}
    # Sana-Sprint takes a second step's time by default, and refuses it for any number of steps but two.
    between = {"intermediate_timesteps": None} if steps != 2 else {}
    chosen = {**TOLD, **rewriting, **between}
    raw = _RAW.search(inspect.getsource(type(pipe).__call__).rpartition('"""')[2])
    return {"output_type": "np" if raw else "pt", **{name: chosen[name] for name in chosen if name in call}}


def pixels_of(output: Any) -> torch.Tensor:
    """Float [batch, 3, height, width] in 0 to 1, which most pipelines name `images`, and Kandinsky 5 `image`."""
    images = output.image if hasattr(output, "image") else output.images
    if isinstance(images, np.ndarray):
        return torch.from_numpy(images).permute(0, 3, 1, 2)
    return images  # type: ignore[no-any-return]
