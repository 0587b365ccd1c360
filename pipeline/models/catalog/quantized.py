"""Weights that are made small while they are loaded: which ways there are, what each needs, and what it leaves.

Only the denoiser's are: it is the largest part of most models, and the one that every library here was tried on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any, Final

from promptmill.pipeline.models.catalog.components import components
from promptmill.pipeline.models.catalog.gguf import DENOISER, GGUF, part_weights
from promptmill.pipeline.models.catalog.headers import tensor_shapes
from promptmill.pipeline.models.catalog.weights import list_folder, read_json


@dataclass(frozen=True)
class Way:
    """`package` is what pip installs and `module` what is imported; `bits` are those of a weight that is made small."""

    package: str
    module: str
    bits: int
    needs_gpu: bool = False
    dtypes: tuple[str, ...] = ("auto", "float32", "bfloat16", "float16")


_HALF: Final = ("auto", "bfloat16", "float16")
WAYS: Final[Mapping[str, Way]] = {
    "torchao_int8": Way("torchao", "torchao", 8),
    "torchao_float8": Way("torchao", "torchao", 8),
    "quanto_int8": Way("optimum-quanto", "optimum.quanto", 8),
    "quanto_float8": Way("optimum-quanto", "optimum.quanto", 8),
    "bitsandbytes_int8": Way("bitsandbytes", "bitsandbytes", 8, needs_gpu=True, dtypes=_HALF),
    "bitsandbytes_nf4": Way("bitsandbytes", "bitsandbytes", 4, needs_gpu=True),
}
"""By the value of `model.quantization`.

Left out: quanto's int4 (saved and loaded again it drew others, 16 of 255 in SD 3; its first use compiles C++ for
minutes) and torchao's (it needs `mslk`).
"""
SAVED_BY: Final[Mapping[str, tuple[str, bool]]] = {
    **{name.partition("_")[0]: (way.module, way.needs_gpu) for name, way in WAYS.items()},
    "gguf": ("gguf", False),
}
"""By `quant_method` of a folder whose weights were saved small: what that reads them, and whether only on GPUs."""


def is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def denoisers(index: Mapping[str, Any]) -> list[str]:
    return [
        name for name, library, _ in components(dict(index)) if library != "transformers" and DENOISER.fullmatch(name)
    ]


def saved_small(root: Path, index: Mapping[str, Any]) -> dict[str, str]:
    """Parts whose weights lie there small already, and by which library."""
    found = {}
    for name, _, _ in components(dict(index)):
        path = root / name / "config.json"
        settings = read_json(path).get("quantization_config") if path.is_file() else None
        if isinstance(settings, dict):
            found[name] = str(settings.get("quant_method"))
        elif gguf_file(root, name) is not None:
            found[name] = "gguf"
    return found


def gguf_file(root: Path, part: str) -> Path | None:
    """Of a part that has its weights in one."""
    place = root / part
    weights = part_weights(path.name for path in place.iterdir()) if place.is_dir() else []
    return place / weights[0] if weights and weights[0].endswith(GGUF) else None


def bytes_of_parts(root: Path, width: int, quantization: str | None) -> dict[str, int]:
    """What the weights of each part take on their device, `width` bytes a number, counted in their headers."""
    folder = list_folder(root)
    index = read_json(root / "model_index.json")
    small = denoisers(index) if quantization else []
    saved = saved_small(root, index)
    found = {}
    for name, _, _ in components(index):
        files = [root / name / file for file in part_weights(folder.names(name))]
        if name in saved:
            found[name] = sum(path.stat().st_size for path in files)
        else:
            bits = WAYS[quantization].bits if quantization and name in small else None
            found[name] = sum(_bytes(shape, width, bits) for path in files for shape in tensor_shapes(path).values())
    return found


def _bytes(shape: tuple[int, ...], width: int, bits: int | None) -> int:
    """Linear layers alone are made small, each output with a scale beside it."""
    if bits is None or len(shape) != 2:
        return prod(shape) * width
    return prod(shape) * bits // 8 + shape[0] * width
