"""What this machine computes on."""

from __future__ import annotations

import platform
import re
import resource
import sys
from functools import cache
from pathlib import Path

from promptmill.pipeline.display import first_line
from promptmill.schemas.operations import Device, Gpu


def describe_device() -> Device:
    """Name, memory in bytes and bfloat16 of each GPU; `cpu` where there is none."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return Device("none", error=f"torch cannot be imported: {error}")
    if not torch.cuda.is_available():
        return Device("cpu", threads=torch.get_num_threads())
    properties = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    gpus = [Gpu(each.name, each.total_memory) for each in properties]
    return Device("cuda", gpus=gpus, bfloat16=torch.cuda.is_bf16_supported())


def why_no_gpu() -> str | None:
    """What CUDA says where torch cannot use a GPU; None where it can."""
    import torch

    if torch.cuda.is_available():
        return None
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:  # the latter of a torch that was built without CUDA
        return first_line(error)
    return "torch finds none"


def device_facts(device: str) -> dict[str, str]:
    """Name, CUDA and driver of the device that acts, `cpu` or as in `cuda:0`."""
    if not device.startswith("cuda"):
        return {"device": _processor()}
    import torch

    facts = {"device": torch.cuda.get_device_name(device), "cuda": torch.version.cuda, "driver": _driver()}
    return {name: value for name, value in facts.items() if value}


def peak_memory(device: str) -> int:
    """Bytes since `forget_peak`; on a CPU those of the process since it began."""
    if not device.startswith("cuda"):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    import torch

    return int(torch.cuda.max_memory_reserved(device))


def forget_peak(device: str) -> None:
    if device.startswith("cuda"):
        import torch

        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


@cache
def _processor() -> str:
    """Which vector units it has decides over last bits."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


@cache
def _driver() -> str | None:
    try:
        found = re.search(r"Module(?: for \S+)?\s+(\d[\d.]+)", Path("/proc/driver/nvidia/version").read_text())
    except OSError:
        return None
    return found[1] if found else None
