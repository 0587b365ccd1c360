"""What torch raises, in the words of `promptmill.schemas.errors`."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from promptmill.pipeline.display import cut
from promptmill.schemas.errors import (
    DeviceLostError,
    DeviceMemoryError,
    JobError,
    ModelLoadError,
    PromptmillError,
    SampleError,
    WorkerError,
)

Result = TypeVar("Result")

MEMORY = re.compile(
    r"out of memory|can't allocate memory|not enough memory|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)
LOST = re.compile(r"CUDA error|HIP error|device-side assert|CUBLAS_STATUS_|CUDNN_STATUS_|NCCL error", re.IGNORECASE)
"""A CUDA error other than memory poisons the context: every later call in the process fails too."""


def guarded(call: Callable[[], Result], alone: bool, kind: str) -> Result:
    """`call()`, its errors translated; `alone` says that it is about one sample, whose failure kind is then `kind`.

    Errors of Promptmill itself, raised by the caller's own hooks, pass as they are.
    """
    try:
        return call()
    except PromptmillError:
        raise
    except Exception as error:
        failure = translate(error, alone, kind)
        if not isinstance(failure, DeviceMemoryError):
            raise failure from error
    # Only here, outside the block, is the traceback gone that holds the tensors of the failed batch.
    release_memory()
    raise failure


def translate(error: Exception, alone: bool, kind: str) -> WorkerError:
    message = describe(error)
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or (_is_torch(error) and MEMORY.search(message)):
        return DeviceMemoryError(message)
    if isinstance(error, torch.AcceleratorError) or (_is_torch(error) and LOST.search(message)):
        return DeviceLostError(message)
    return SampleError(kind, message) if alone else WorkerError(message)


@contextmanager
def loading(what: str, kind: str = "generation", tried: Callable[[], str] = str) -> Iterator[None]:
    """Raises ModelLoadError for what loading raises, and DeviceMemoryError where it does not fit the device.

    `tried` says, after the fact, what was called.
    """
    try:
        yield
    except JobError as error:
        raise ModelLoadError(f"{what} is not what it was when the job was planned. {error}") from error
    except Exception as error:
        failure = translate(error, True, kind)
        if isinstance(failure, DeviceMemoryError):
            raise failure from error
        raise ModelLoadError(". ".join(filter(None, [f"{what} does not load", describe(error), tried()]))) from error


def describe(error: BaseException) -> str:
    """One line of at most 500 characters; CUDA's advice on debugging that follows is left out."""
    lines = str(error).strip().splitlines()
    return cut(f"{type(error).__name__}: {lines[0] if lines else 'no message'}", 500)


def release_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _is_torch(error: Exception) -> bool:
    return isinstance(error, RuntimeError)
