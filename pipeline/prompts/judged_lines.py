"""Prompts in another tool's notation (`prompts.syntax`), read before anything starts: what they ask for, and faults."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from promptmill.pipeline.prompts.a1111 import read_line
from promptmill.pipeline.prompts.kinds import as_kind
from promptmill.pipeline.prompts.values import MAX_TEXT_BYTES, WrongValueError, seed_of
from promptmill.schemas.emphasis import is_emphasised

_MARKS: Final = r"[()\[\]\\\\<]|--[A-Za-z]|BREAK|AND"
_SHOWN: Final = 3


@dataclass
class Lines:
    """`adapters` are those that tags name, each with the first row that does."""

    adapters: dict[str, str] = field(default_factory=dict)
    emphasised: str | None = None
    seeds: list[int] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    shown: list[str] = field(default_factory=list)

    def look(self, column: pa.ChunkedArray, place: str, first: int) -> None:
        texts = as_kind(column, pa.large_string())
        marked = pc.and_(
            pc.match_substring_regex(texts, _MARKS), pc.less_equal(pc.binary_length(texts), MAX_TEXT_BYTES)
        )
        for row in np.flatnonzero(marked.fill_null(False).to_numpy()):
            self._read(str(texts[int(row)].as_py()), f"{place} {first + int(row)}")

    def _read(self, text: str, place: str) -> None:
        line = read_line(text)
        if line.wrong is not None:
            self.wrong += 1
            self.shown += [f"{place}: {line.wrong}"] if len(self.shown) < _SHOWN else []
            return
        self.left_out.update(f"--{name}" for name in line.left_out)
        for name, _ in line.adapters:
            self.adapters.setdefault(name, place)
        if self.emphasised is None and (is_emphasised(line.prompt) or is_emphasised(line.negative_prompt or "")):
            self.emphasised = place
        try:
            self.seeds += [seed] if (seed := seed_of(line.seed)) is not None else []
        except WrongValueError as error:
            self.wrong += 1
            self.shown += [f"{place}: --seed: {error}"] if len(self.shown) < _SHOWN else []

    def notices(self) -> list[str]:
        said = [f"prompts.source: {count:,} prompts have `{name}`, left out" for name, count in self.left_out.items()]
        if self.wrong:
            some = "; ".join(self.shown) + (" …" if self.wrong > len(self.shown) else "")
            said.append(f"prompts.source: {self.wrong:,} prompts cannot be read as `prompts.syntax` says: {some}")
        return said
