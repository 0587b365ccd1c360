"""The header of a safetensors file: what it holds, and whether the file is as long as that."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any, Final

from promptmill.schemas.json_text import parse_object

MAX_HEADER_BYTES: Final = 100_000_000
"""The limit of the safetensors format itself."""
_MAX_SIDES: Final = 64
_BITS: Final = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}


def parameter_count(path: Path) -> int:
    """Parameters in a safetensors file, from its header, after checking that the file is as long as the header says.

    Raises ValueError with a text fit for a user when the file is truncated or is none.
    """
    return sum(parameters for parameters, _ in map(_tensor, _entries(path).values()))


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name → shape of each tensor. Raises ValueError as `parameter_count` does."""
    return {name: tuple(_counts(entry.get("shape"))) for name, entry in _entries(path).items()}


def metadata_of(path: Path) -> dict[str, Any]:
    """What a safetensors file says of itself, by name. Raises ValueError for a header that cannot be read."""
    said = _header(path)[0].get("__metadata__")
    return said if isinstance(said, dict) else {}


def _entries(path: Path) -> dict[str, Any]:
    """The header's tensors, of a file that is whole."""
    header, begin, size = _header(path)
    try:
        entries = {key: value for key, value in header.items() if key != "__metadata__"}
        tensors = [_tensor(value) for value in entries.values()]
    except ValueError as error:
        raise ValueError(f"a broken safetensors header ({error})") from None
    needed = begin + max((end for _, end in tensors), default=0)
    if size != needed:
        raise ValueError(f"{size:,} bytes where its header says {needed:,}")
    return entries


def _header(path: Path) -> tuple[dict[str, Any], int, int]:
    """With the byte behind it, and how many the file has."""
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
        return parse_object(header), 8 + length, size
    except ValueError as error:
        raise ValueError(f"a broken safetensors header ({error})") from None


def _tensor(entry: Any) -> tuple[int, int]:
    """Parameters, and the byte after the last one. A tensor has as many bytes as its shape says, so no shape lies."""
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        raise ValueError("a tensor without a type")  # noqa: TRY004 - one kind of error for all that is wrong
    shape, offsets = _counts(entry.get("shape")), _counts(entry.get("data_offsets"))
    if len(shape) > _MAX_SIDES or len(offsets) != 2:
        raise ValueError("a tensor without a shape or a place")
    (begin, end), parameters = offsets, prod(shape)
    bits = _BITS.get(entry["dtype"])
    if begin > end or (bits is not None and parameters * bits != 8 * (end - begin)):
        raise ValueError("a tensor of other bytes than its shape has")
    if bits is None and parameters > 8 * (end - begin):
        raise ValueError("a tensor of fewer bytes than its shape has")
    return parameters, end


def _counts(value: Any) -> list[int]:
    if not isinstance(value, list) or not all(type(item) is int and item >= 0 for item in value):
        raise ValueError("no list of numbers where one belongs")
    return value
