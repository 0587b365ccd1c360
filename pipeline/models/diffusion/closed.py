"""The bolt behind `door`: while something is loaded, what runs a folder's code or opens a pickle raises.

The doors of the libraries themselves are not enough: transformers asks at the terminal whether code may run, an
argument in open_clip's configuration says yes, and each loader falls back to `torch.load` by the ending of a name.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NoReturn

import diffusers.utils.dynamic_modules_utils
import huggingface_hub.constants
import torch
import transformers.dynamic_module_utils

_ONE_AT_A_TIME = threading.RLock()


class ClosedError(Exception):
    """What a model's folder asked for and does not get."""


@contextmanager
def closed(pickles: bool = False, network: bool = False) -> Iterator[None]:
    """`pickles` are for weights that open_clip itself publishes under a tag; `network` for those, too."""
    code = "run code of the model's folder, which is never done"
    pickle = "open a pickle, which can run code: only safetensors are loaded"
    doors: list[tuple[Any, str, Any]] = [
        (module, name, _refusing(code))
        for module in (transformers.dynamic_module_utils, diffusers.utils.dynamic_modules_utils)
        for name in ("get_class_in_module", "get_cached_module_file")
    ]
    doors += [(torch.hub, "load", _refusing(code))]
    if not pickles:
        doors += [(torch, "load", _refusing(pickle)), (torch.jit, "load", _refusing(pickle))]
    with _ONE_AT_A_TIME, ExitStack() as stack:
        for owner, name, instead in doors:
            stack.enter_context(_instead(owner, name, instead))
        stack.enter_context(_instead(transformers.dynamic_module_utils, "TIME_OUT_REMOTE_CODE", 0))  # 0: never asks
        if not network:
            stack.enter_context(_instead(huggingface_hub.constants, "HF_HUB_OFFLINE", True))
        yield


@contextmanager
def _instead(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _refusing(what: str) -> Callable[..., NoReturn]:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise ClosedError(f"it wants to {what}")

    return refuse
