"""Prompts that break the process which draws them. Installed by the zygote where PROMPTMILL_TEST_FAULTY is set.

A word in a prompt says what happens, and the value `gpu:0` that this GPU breaks whatever it draws, a blank sample too;
everything around it is the real generator with the real pipeline.
"""

from __future__ import annotations

import ctypes
import os
import time
from typing import Any

LARGEST_BATCH = 2
"""Above, a prompt with the word `memory` asks the allocator for more than any machine has."""


def install() -> None:
    from promptmill.pipeline.models.diffusion import generator
    from promptmill.pipeline.worker import context

    draw = generator.DiffusersGenerator._draw

    def faulty_draw(self: Any, batch: Any) -> Any:
        words = {word for sample in batch.samples for word in sample.prompt.split()}
        _break(words, len(batch.samples))
        return draw(self, batch)

    generator.DiffusersGenerator._draw = faulty_draw  # type: ignore[method-assign]
    context.require_gpu = lambda threads: None  # GPUs are only said to be there


def _break(words: set[str], batch_size: int) -> None:
    import torch

    if "segfault" in words:
        ctypes.string_at(0)
    if "hang" in words:
        time.sleep(3600)
    if "slow" in words:
        time.sleep(1)
    if "raise" in words:
        raise ValueError("the pipeline does not like this prompt")
    if "memory" in words and batch_size > LARGEST_BATCH:
        torch.empty(1 << 60, dtype=torch.uint8)
    gpu = f"gpu:{os.environ.get('CUDA_VISIBLE_DEVICES', '')}"
    if "device" in words or os.environ.get("PROMPTMILL_TEST_FAULTY") == gpu:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
