"""Where an image lies inside a tar: what a cell of the tar's table says, and a locator behind the name of the tar."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import xxhash

_MARK: Final = "member:"
_CELL: Final = re.compile(rf"{_MARK}(\d{{1,18}})\+(\d{{1,18}}):([0-9a-f]{{32}}):([^#]*)", re.DOTALL)


@dataclass(frozen=True)
class Member:
    """`start` and `size` in bytes, `hash` of XXH3 over them."""

    start: int
    size: int
    hash: str
    name: str

    @property
    def cell(self) -> str:
        name = self.name.replace("%", "%25").replace("#", "%23")  # a locator is parted at its last #
        return f"{_MARK}{self.start}+{self.size}:{self.hash}:{name}"

    def holds(self, data: bytes) -> bool:
        return xxhash.xxh3_128_hexdigest(data) == self.hash


def member_of(cell: object) -> Member | None:
    """None for any other text."""
    match = _CELL.fullmatch(cell) if isinstance(cell, str) else None
    return Member(int(match[1]), int(match[2]), match[3], match[4]) if match else None
