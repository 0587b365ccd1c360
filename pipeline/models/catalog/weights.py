"""Model folders read as files: which are there, are they whole, and a hash that tells two of them apart."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from promptmill.pipeline.models.catalog.headers import MAX_HEADER_BYTES, parameter_count
from promptmill.pipeline.storage.digests import PIECE_BYTES, ChangedMeanwhileError, file_digest, read_blocks
from promptmill.pipeline.storage.local import read_regular_file
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.json_text import parse_object

SAMPLES, SAMPLE_BYTES = 64, 64 * 2**10
MAX_JSON_BYTES = 32 << 20
"""Of settings; the largest index of a model of today has 0.3 MB. Vocabularies are not read here."""
MAX_FILES = 100_000

BY_HASH = "local-"
"""Begins the revision of a folder, which is a hash of what is in it."""

HASHED_SUFFIXES = (".json", ".txt", ".model", ".jinja", ".safetensors")
NEVER_LOADED = (".md", ".rst", ".png", ".jpg", ".jpeg", ".webp", ".gif", ".pdf")
ONNX = ".onnx"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5", ONNX)

_WEIGHTS_NAME = re.compile(
    r"^(?:diffusion_pytorch_model|model)"
    r"(?:\.(?P<before>\w+))?(?:-\d{5}-of-\d{5})?(?:\.(?P<after>\w+))?\.safetensors$"
)

_INDEX_NAME = re.compile(
    r"^(?:diffusion_pytorch_model|model)(?:\.(?P<before>\w+))?\.safetensors\.index(?:\.(?P<after>\w+))?\.json$"
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
    """Links are followed, but those to folders only within the root, and each folder is entered once."""
    files: dict[str, int] = {}
    home = os.path.realpath(root)
    entered = {home}
    for folder, subfolders, names in os.walk(root, followlinks=True):
        subfolders[:] = [name for name in sorted(subfolders) if _may_enter(Path(folder, name), home, entered)]
        for name in names:
            path = Path(folder, name)
            if path.is_file():
                files[path.relative_to(root).as_posix()] = path.stat().st_size
        if len(files) > MAX_FILES:
            break
    return ModelFolder(root, files)


def _may_enter(path: Path, home: str, entered: set[str]) -> bool:
    real = os.path.realpath(path)
    if path.name.startswith(".") or real in entered or os.path.commonpath([real, home]) != home:
        return False
    entered.add(real)
    return True


def small_files(folder: ModelFolder, below: Iterable[str] | None = None) -> list[str]:
    """Everything that a loader might read beside weights: not hidden files, documents and pictures.

    `below` are folders directly in the root; None means the whole folder.
    """
    tops = None if below is None else set(below)
    return [
        name
        for name in folder.files
        if (tops is None or name.split("/")[0] in tops)
        and not name.rpartition("/")[2].startswith(".")
        and not name.lower().endswith((".safetensors", *PICKLES, *NEVER_LOADED))
    ]


def onnx_name(folder: ModelFolder) -> str | None:
    """The ONNX file of a folder without safetensors; None where there is none, or which one is unclear."""
    names = [name for name in folder.files if "/" not in name]
    found = [name for name in names if name.endswith(ONNX)]
    return found[0] if len(found) == 1 and not any(name.endswith(".safetensors") for name in names) else None


def read_json(path: Path) -> dict[str, Any]:
    """Raises ValueError with a text fit for a user when the file holds no JSON object."""
    try:
        return parse_object(read_regular_file(path, MAX_JSON_BYTES), finite=False)  # diffusers writes -Infinity
    except OSError as error:
        raise ValueError(f"a file that cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ValueError(f"broken JSON ({error})") from error


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
    """Weights files that the index beside `present` names and that would not be loaded with them.

    That index is of their variant; those of others are not read. `door` has looked at what kind of names it holds.
    """
    variant = select_weights(present)[0]
    named: set[str] = set()
    for name in folder.names(component):
        match = _INDEX_NAME.match(name)
        if match and (match["before"] or match["after"]) == variant and (folder.root / component / name).is_file():
            named.update(read_json(folder.root / component / name)["weight_map"].values())
    return sorted(named - set(present))


def weights_problem(path: Path, where: str) -> Problem | None:
    try:
        parameter_count(path)
    except (ValueError, OSError) as error:
        return Problem(where, f"whole safetensors in {path}", str(error), "Copy or download the file again.")
    return None


def hash_files(root: Path, names: Iterable[str]) -> tuple[str, dict[str, str]]:
    """A hash over relative paths, sizes and every byte, and that of each file by its name; 32 hex digits each.

    A file of more than 64 MiB goes into the first by its own hash, which is remembered. Raises OSError, and
    ChangedMeanwhileError where somebody writes there.
    """
    whole = xxhash.xxh3_128()
    files: dict[str, str] = {}
    for name in sorted(names):
        path = root / name
        size = path.stat().st_size
        whole.update(_head(name, size))
        if size > PIECE_BYTES:
            files[name] = file_digest(path)
            whole.update(bytes.fromhex(files[name]))
        else:
            own = xxhash.xxh3_128()
            for block in read_blocks(path):
                whole.update(block)
                own.update(block)
            files[name] = own.hexdigest()
    return whole.hexdigest(), files


def identity_of(root: Path, names: Iterable[str], where: str) -> tuple[str, dict[str, str]]:
    """As `hash_files`. Raises JobError for files that cannot be read, or are written meanwhile."""
    try:
        return hash_files(root, names)
    except (OSError, ChangedMeanwhileError) as error:
        raise JobError(Problem(where, f"files in {root} that can be read", str(error))) from None


def sampled_hash(root: Path, names: Iterable[str]) -> str:
    """As older versions hashed, which of large weights took header and samples: for the plans that they wrote."""
    digest = xxhash.xxh3_128()
    for name in sorted(names):
        path = root / name
        digest.update(_head(name, path.stat().st_size))
        for block in _samples(path) if path.stat().st_size > PIECE_BYTES else read_blocks(path):
            digest.update(block)
    return digest.hexdigest()


def _head(name: str, size_bytes: int) -> bytes:
    return f"{name}\0{size_bytes}\0".encode("utf-8", "surrogateescape")


def _samples(path: Path) -> Iterator[bytes]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        file.seek(0)
        yield file.read(min(8 + length, MAX_HEADER_BYTES))
        for sample in range(SAMPLES):
            file.seek((size - SAMPLE_BYTES) * sample // (SAMPLES - 1))
            yield file.read(SAMPLE_BYTES)
