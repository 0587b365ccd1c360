"""A denoiser as one GGUF file in place of its safetensors: `transformer/flux1-dev-Q4_K_S.gguf` beside `config.json`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any, Final

from promptmill.pipeline.display import cut
from promptmill.pipeline.models.catalog.diffusers_source import package_root
from promptmill.pipeline.models.catalog.weights import select_weights
from promptmill.schemas.errors import Problem

DENOISER: Final = re.compile(r"(\w+_)?(transformer|unet)(_\d+)?")
"""How pipelines call the part that is made small."""
GGUF: Final = ".gguf"
_ORIGINAL: Final = "FromOriginalModelMixin"


def part_weights(names: Iterable[str]) -> list[str]:
    """Files of a part that are loaded: its safetensors, else what it has as GGUF."""
    names = list(names)
    return select_weights(names)[1] or sorted(name for name in names if name.endswith(GGUF))


def gguf_problems(name: str, class_name: str, files: list[Path], where: str) -> Iterator[Problem]:
    """`files` are those of a part that has GGUF alone."""
    got = ", ".join(path.name for path in files[:3])
    if not DENOISER.fullmatch(name) or class_name not in single_file_classes():
        hint = f"diffusers reads GGUF for {', '.join(sorted(single_file_classes()))}."
        yield Problem(where, f"safetensors for {name} ({class_name})", got, hint)
    elif len(files) > 1:
        yield Problem(where, f"one GGUF file for {name}", got, "Leave the one to draw with.")
    elif find_spec("gguf") is None:
        hint = "pip install 'promptmill[gguf]', here and on the workers"
        yield Problem(where, "the package gguf", f"none installed, to read {got}", hint)
    else:
        yield from (problem for path in files if path.is_file() and (problem := _broken(path, where)))


@cache
def single_file_classes() -> frozenset[str]:
    """Denoisers that diffusers makes of a file of one part."""
    tree = ast.parse((package_root("diffusers") / "loaders" / "single_file_model.py").read_text("utf-8"))
    tables = (node.value for node in ast.walk(tree) if isinstance(node, ast.Assign | ast.AnnAssign))
    keys = (key for table in tables if isinstance(table, ast.Dict) for key in table.keys)
    names = {str(key.value) for key in keys if isinstance(key, ast.Constant)}
    return frozenset(name for name in names if re.search(r"Transformer|UNet2DCondition", name) and "Video" not in name)


def _broken(path: Path, where: str) -> Problem | None:
    try:
        tensors = _tensors(path)
    except Exception as error:  # the reader indexes into the file wherever its header points
        hint = "Copy or download the file again."
        return Problem(where, f"a whole GGUF file in {path}", cut(f"{type(error).__name__}: {error}", 200), hint)
    if not tensors:
        return Problem(where, f"weights in {path}", "a GGUF file without tensors")
    return None


def _tensors(path: Path) -> list[Any]:
    from gguf import GGUFReader

    tensors = GGUFReader(path).tensors
    if any(tensor.n_elements != prod(int(side) for side in tensor.shape) for tensor in tensors):
        raise ValueError("a tensor of other numbers than its shape has")
    return list(tensors)
