"""Model folders read as files: which are there, are they whole, and a hash that tells two of them apart."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import xxhash

from promptmill.schemas.errors import Problem

WHOLE_FILE_BYTES = 64 * 2**20
"""Larger weights are hashed by size, header and samples: 7 GB take 0.1 s and not 10."""
SAMPLES, SAMPLE_BYTES = 64, 64 * 2**10
MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors format itself."""

HASHED_SUFFIXES = (".json", ".txt", ".model", ".jinja", ".safetensors")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5", ".onnx")

_WEIGHTS_NAME = re.compile(
    r"^(?:diffusion_pytorch_model|model)"
    r"(?:\.(?P<before>\w+))?(?:-\d{5}-of-\d{5})?(?:\.(?P<after>\w+))?\.safetensors$"
)


@dataclass(frozen=True)
class ModelFolder:
    """`files` maps paths relative to `root`, with forward slashes, to sizes in bytes.

    A file may be listed and not lie under `root`: of a hub model only the configuration is fetched to look at it.
    """

    root: Path
    files: dict[str, int]

    def names(self, component: str) -> list[str]:
        """File names directly in a subfolder."""
        prefix = f"{component}/"
        return [name[len(prefix) :] for name in self.files if name.startswith(prefix) and name.count("/") == 1]


def list_folder(root: Path) -> ModelFolder:
    files: dict[str, int] = {}
    for folder, subfolders, names in os.walk(root, followlinks=True):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in names:
            path = Path(folder, name)
            if path.is_file():
                files[path.relative_to(root).as_posix()] = path.stat().st_size
    return ModelFolder(root, files)


def read_json(path: Path) -> dict[str, Any]:
    """Raises ValueError with a text fit for a user when the file holds no JSON object."""
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"a file that cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"broken JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"JSON of type {type(value).__name__}")  # noqa: TRY004 - one kind of error for all that is wrong
    return value


def select_weights(names: Iterable[str]) -> tuple[str | None, list[str]]:
    """The variant to load (None: the plain one; `fp16` where there is no other) and its safetensors files."""
    by_variant: dict[str | None, list[str]] = {}
    for name in sorted(names):
        if match := _WEIGHTS_NAME.match(name):
            by_variant.setdefault(match["before"] or match["after"], []).append(name)
    if not by_variant:
        return None, []
    variant = None if None in by_variant else "fp16" if "fp16" in by_variant else min(filter(None, by_variant))
    return variant, by_variant[variant]


def missing_shards(folder: ModelFolder, component: str, present: list[str]) -> list[str]:
    """Weights files that the shard index beside `present` names and that are not there."""
    named: set[str] = set()
    for name in folder.names(component):
        if name.endswith(".json") and ".safetensors.index" in name and (folder.root / component / name).is_file():
            named.update(read_json(folder.root / component / name).get("weight_map", {}).values())
    family = [name for name in named if select_weights([name])[0] == select_weights(present)[0]]
    return sorted(set(family) - set(present))


def parameter_count(path: Path) -> int:
    """Parameters in a safetensors file, from its header, after checking that the file is as long as the header says.

    Raises ValueError with a text fit for a user when the file is truncated or is none.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if start == b"version " or (size < 200 and b"git-lfs" in start + file.read(192)):
            raise ValueError("a Git LFS pointer (run `git lfs pull`)")
        if len(start) < 8 or not 2 <= length <= MAX_HEADER_BYTES:
            raise ValueError(f"no safetensors header in {size} bytes")
        if 8 + length > size:
            raise ValueError(f"a file cut off inside its header ({size} bytes)")
        file.seek(8)
        header = file.read(length)
    try:
        tensors = [value for key, value in json.loads(header).items() if key != "__metadata__"]
        needed = 8 + length + max((int(tensor["data_offsets"][1]) for tensor in tensors), default=0)
        parameters = sum(int(prod(tensor["shape"])) for tensor in tensors)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise ValueError("a broken safetensors header") from error
    if size != needed:
        raise ValueError(f"{size:,} bytes where its header says {needed:,}")
    return parameters


def weights_problem(path: Path, where: str) -> Problem | None:
    try:
        parameter_count(path)
    except (ValueError, OSError) as error:
        return Problem(where, f"whole safetensors in {path}", str(error), "Copy or download the file again.")
    return None


def hash_files(root: Path, names: Iterable[str]) -> str:
    """32 hex digits over relative paths, sizes and content (of weights over 64 MiB: header and samples)."""
    digest = xxhash.xxh3_128()
    for name in sorted(names):
        path = root / name
        digest.update(f"{name}\0{path.stat().st_size}\0".encode())
        for block in _blocks(path):
            digest.update(block)
    return digest.hexdigest()


def _blocks(path: Path) -> Iterator[bytes]:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= WHOLE_FILE_BYTES:
            while block := file.read(2**20):
                yield block
            return
        length = int.from_bytes(file.read(8), "little")
        file.seek(0)
        yield file.read(min(8 + length, MAX_HEADER_BYTES))
        for sample in range(SAMPLES):
            file.seek((size - SAMPLE_BYTES) * sample // (SAMPLES - 1))
            yield file.read(SAMPLE_BYTES)
