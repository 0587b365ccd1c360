"""What this machine computes on."""

from __future__ import annotations

from typing import Any


def describe_device() -> dict[str, Any]:
    """Name, memory in bytes and bfloat16 of each GPU; `cpu` where there is none."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return {"kind": "none", "error": f"torch cannot be imported: {error}"}
    if not torch.cuda.is_available():
        return {"kind": "cpu", "threads": torch.get_num_threads()}
    properties = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return {
        "kind": "cuda",
        "gpus": [{"name": p.name, "memory_bytes": p.total_memory} for p in properties],
        "bfloat16": torch.cuda.is_bf16_supported(),
    }
