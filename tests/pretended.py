"""GPUs that are only said to be there: Ray counts them, and a worker that is given one draws on the CPU."""

from __future__ import annotations

from pathlib import Path

_SITE = """\
import os
from promptmill.pipeline.models import load

meet = load.require_gpu
load.require_gpu = lambda threads: meet(threads) if os.environ.get("CUDA_VISIBLE_DEVICES") in {broken} else None
"""
"""Read by every Python of a node, after its packages are known and before anything else is imported."""


def pretending(folder: Path, *broken: str) -> dict[str, str]:
    """The environment of a node; on devices of these names a worker meets what CUDA has to say of them."""
    (folder / "sitecustomize.py").write_text(_SITE.format(broken=broken))
    return {"PYTHONPATH": str(folder)}
