"""What mapped columns hold, looked at before anything starts: wrong numbers, blanks, repeats, other tools' notation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from promptmill.pipeline.prompts.columns import OpenedFile
from promptmill.pipeline.prompts.inputs import locator
from promptmill.pipeline.prompts.judged_lines import Lines
from promptmill.pipeline.prompts.kinds import as_kind, carried, is_text
from promptmill.pipeline.prompts.reach import PACKED
from promptmill.pipeline.prompts.some_columns import column_tables
from promptmill.pipeline.prompts.unicode import mend
from promptmill.pipeline.prompts.values import MAX_TEXT_BYTES, RULES, WrongValueError, adapters_of
from promptmill.pipeline.storage.store import Store
from promptmill.pipeline.storage.urls import is_remote
from promptmill.schemas.errors import Problem
from promptmill.schemas.plan import SourceFile
from promptmill.schemas.prompts import Columns, Prompts
from promptmill.schemas.row_values import values_of

COUNTED_ROWS: Final = 1_000_000
"""Rows whose texts are read, for repeats, notation, length: 3.4 s for so many (measured), and each run does it."""
_SHOWN_ROWS: Final = 3
_FILES_SOUGHT: Final = 1_000
_LONG_TEXTS: Final = ("caption", "negative_prompt")

NOTATION: Final[Mapping[str, str]] = {
    '`--prompt "…"`': r"(^|\s)--(prompt|negative_prompt|steps|cfg_scale|sampler_name|width|height)(\s|=|$)",
    "`--ar` and its kin": r"(^|\s)--(ar|aspect|v|version|niji|no|s|stylize|chaos|c|q|quality|seed|sref|cref|iw|tile|"
    r"style|weird|stop|raw|profile|p)(\s|$)",
    "`__wildcards__`": r"__[A-Za-z0-9_*/\-]+__",
    "choices `{a|b}`": r"\{[^{}]*\|[^{}]*\}",
    "`<lora:…>`": r"<(lora|lyco|locon|hypernet|embedding|wlora):[^<>]+>",
    "weights `(a:1.2)`": r"\([^()]+:\s*[0-9.]+\s*\)|\(\([^()]+\)\)|\[\[[^\[\]]+\]\]|\)(\+|-)+",
    "weights `a::2`": r"::\s*-?[0-9.]*(\s|$)",
    "changes `[a:b:0.5]`": r"\[[^\[\]]*:[^\[\]]*:?\s*[0-9.]+\]",
    "`BREAK`": r"(^|\s)BREAK(\s|$)",
}
"""What other tools read in a prompt, and here are words like others."""
A1111: Final = frozenset(NOTATION) - {"`__wildcards__`", "choices `{a|b}`", "weights `a::2`"}
"""What of it `prompts.syntax: a1111` reads, or says why not."""
WILDCARDS: Final = frozenset({"`__wildcards__`", "choices `{a|b}`"})
"""What of it `prompts.wildcards` reads."""
_HINTS: Final = {
    **dict.fromkeys(A1111, "; `prompts.syntax: a1111` reads it"),
    **dict.fromkeys(WILDCARDS, "; `prompts.wildcards: true` reads it"),
}


@dataclass
class Judged:
    """`problems` are wrong values of mapped columns, `largest` and `least` the right ones' bounds by role.

    `adapters` are those that rows ask for, each with the first place; `emphasised` is the first of a row whose words
    have weights.
    """

    problems: list[Problem] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    adapters: dict[str, str] = field(default_factory=dict)
    emphasised: str | None = None
    largest: dict[str, int | float] = field(default_factory=dict)
    least: dict[str, int | float] = field(default_factory=dict)

    def note(self, role: str, values: Iterable[int | float]) -> None:
        for value in values:
            self.largest[role] = max(value, self.largest.get(role, value))
            self.least[role] = min(value, self.least.get(role, value))


@dataclass
class _Wrong:
    count: int = 0
    shown: list[Problem] = field(default_factory=list)

    def add(self, problem: Problem) -> None:
        self.count += 1
        if len(self.shown) < _SHOWN_ROWS:
            self.shown.append(problem)


def looked_at(prompts: Prompts, schema: pa.Schema) -> list[str]:
    """Columns of the source that are judged: mapped ones, but for images that lie in it."""
    columns = prompts.columns
    roles = (*RULES, *_LONG_TEXTS, "adapter", *(() if prompts.templates else ("prompt",)))
    names = [*(getattr(columns, role) for role in roles), *columns.images.values()]
    there = [name for name in dict.fromkeys(names) if name in schema.names]
    return [name for name in there if name not in columns.images.values() or is_text(schema.field(name).type)]


def judge(store: Store, opened: Sequence[OpenedFile], prompts: Prompts) -> Judged:
    judged, counted = Judged(), 0
    lines = Lines() if prompts.syntax else None
    roles = {role: name for role in RULES if (name := getattr(prompts.columns, role, None)) is not None}
    wrong = {role: _Wrong() for role in (*roles, *_LONG_TEXTS)}
    read = (A1111 if prompts.syntax else frozenset()) | (WILDCARDS if prompts.wildcards else frozenset())
    texts = _Texts(prompts.columns, wrong, lines, read)
    for each in opened:
        first = 0
        every = looked_at(prompts, each.schema)
        for table, broken in _tables(store, each, prompts, every if counted < COUNTED_ROWS else list(roles.values())):
            place = f"{each.file.name} row"
            for role, name in roles.items():
                if name in table.column_names:
                    _look(judged, wrong[role], role, table.column(name), place, first)
            if counted < COUNTED_ROWS:
                texts.look(judged, table, each.file.name, first)
                texts.look_for_files(table, each.file)
                texts.broken += len(broken)
                counted += table.num_rows
            first += table.num_rows
    judged.problems += [problem for role in wrong for problem in _told(wrong[role])]
    judged.problems += texts.nowhere()
    judged.notices += texts.notices()
    if lines is not None:
        judged.adapters = {**lines.adapters, **judged.adapters}
        judged.emphasised = lines.emphasised
        judged.note("seed", lines.seeds)
        judged.notices += lines.notices()
    return judged


def _tables(
    store: Store, each: OpenedFile, prompts: Prompts, names: list[str]
) -> Iterator[tuple[pa.Table, frozenset[int]]]:
    if each.judged is not None:
        yield mend(each.judged)
    elif names:
        yield from (mend(table) for table in column_tables(store, each.file, prompts, names))


def _look(judged: Judged, wrong: _Wrong, role: str, column: pa.ChunkedArray, place: str, first: int) -> None:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    column = as_kind(column, carried(kind))
    if role == "seed" and pa.types.is_integer(column.type):
        bounds = pc.min_max(column).as_py()
        if bounds["min"] is None or bounds["min"] >= -1:
            judged.note(role, [bounds["max"]] if bounds["max"] is not None else [])
            return
    good: list[int | float] = []
    for row, value in enumerate(values_of(column)):
        try:
            number = RULES[role](value)
        except WrongValueError as error:
            wrong.add(Problem(f"prompts.columns.{role}: {place} {first + row}", error.expected, error.got))
        else:
            good += [] if number is None else [number]
    judged.note(role, good)


def _told(wrong: _Wrong) -> list[Problem]:
    more = wrong.count - len(wrong.shown)
    if not more:
        return wrong.shown
    last = wrong.shown[-1]
    return [*wrong.shown[:-1], Problem(last.where, last.expected, last.got, f"{more:,} more rows are wrong so")]


@dataclass
class _Texts:
    """What the texts of rows say of these, row by row; the prompts are held until all are there."""

    columns: Columns
    wrong: Mapping[str, _Wrong]
    lines: Lines | None
    read: frozenset[str] = frozenset()
    prompts: list[pa.ChunkedArray] = field(default_factory=list)
    places: list[pa.ChunkedArray | None] = field(default_factory=list)
    """Where the images of the prompts are; None for images that lie in the source."""
    broken: int = 0
    without_image: dict[str, int] = field(default_factory=dict)
    sought: dict[str, int] = field(default_factory=dict)
    missing: dict[str, list[str]] = field(default_factory=dict)

    def look_for_files(self, table: pa.Table, file: SourceFile) -> None:
        """Whether the first images that lie on this machine are there."""
        for role, name in self.columns.images.items():
            left = _FILES_SOUGHT - self.sought.get(role, 0)
            if name not in table.column_names or left <= 0:
                continue
            texts = as_kind(table.column(name).slice(0, left), pa.large_string()).drop_null().to_pylist()
            places = [locator(text, file, name, 0) or "" for text in texts if text]
            near = [place for place in places if place and not (is_remote(place) or place.startswith(PACKED))]
            self.sought[role] = self.sought.get(role, 0) + len(near)
            self.missing.setdefault(role, []).extend(place for place in near if not Path(place).exists())

    def nowhere(self) -> list[Problem]:
        """Where none of the images is there, their paths mean another folder."""
        hint = "A path is relative to the folder of the file that it stands in"
        return [
            Problem(f"prompts.columns.{role}", "images that are there", f"none at {gone[0]}, nor any other", hint)
            for role, gone in self.missing.items()
            if gone and len(gone) == self.sought[role]
        ]

    def look(self, judged: Judged, table: pa.Table, file: str, first: int) -> None:
        columns = self.columns
        there = {name: table.column(name) for name in table.column_names}
        if columns.prompt in there:
            self.prompts.append(there[columns.prompt])
            self.places.append(self._places(there, table.num_rows))
            if self.lines is not None:
                self.lines.look(there[columns.prompt], f"{file} row", first)
        for role in _LONG_TEXTS:
            if (name := getattr(columns, role)) in there:
                _look_for_long(self.wrong[role], role, there[name], f"{file} row", first)
        if columns.adapter in there:
            for text in pc.unique(as_kind(there[columns.adapter], pa.large_string())).to_pylist():
                for name in adapters_of(text) or ():
                    judged.adapters.setdefault(name, file)
        for role, name in columns.images.items():
            if name in there:
                empty = pc.equal(as_kind(there[name], pa.large_string()).fill_null(""), "")
                self.without_image[role] = self.without_image.get(role, 0) + (pc.sum(empty).as_py() or 0)

    def _places(self, there: Mapping[str, pa.ChunkedArray], rows: int) -> pa.ChunkedArray | None:
        names = list(self.columns.images.values())
        if not all(name in there for name in names):
            return None
        texts = [as_kind(there[name], pa.large_string()).combine_chunks().fill_null("") for name in names]
        none = pa.repeat(pa.scalar("", pa.large_string()), rows)
        return pa.chunked_array([pc.binary_join_element_wise(none, *texts, pa.scalar("\n", pa.large_string()))])

    def _repeated(self, trimmed: pa.ChunkedArray) -> int:
        """Prompts that came before with the same images; 0 where the images themselves would have to be read."""
        known = [chunk for chunked in self.places if chunked is not None for chunk in chunked.chunks]
        if sum(map(len, known)) < len(trimmed):
            return 0
        rows = pa.table({"prompt": trimmed, "places": pa.chunked_array(known, pa.large_string())})
        drawn = rows.filter(pc.not_equal(rows["prompt"], ""))
        return int(drawn.num_rows - drawn.group_by(["prompt", "places"]).aggregate([]).num_rows)

    def notices(self) -> list[str]:
        if not self.prompts:
            return []
        chunks = [as_kind(text, pa.large_string()).combine_chunks() for text in self.prompts]
        whole = pa.chunked_array(chunks, pa.large_string())
        trimmed = pc.utf8_trim_whitespace(whole.fill_null(""))
        blank = pc.sum(pc.equal(trimmed, "")).as_py() or 0
        said = {
            "blank: not drawn": blank,
            f"over {MAX_TEXT_BYTES:,} bytes: not drawn": int(pc.sum(_long(whole)).as_py() or 0),
            "no valid Unicode: not drawn": self.broken,
            **{f"without {role}: not drawn": count for role, count in self.without_image.items()},
            **{f"with {role} at a place where no file is": len(gone) for role, gone in self.missing.items()},
            "repeated": self._repeated(trimmed),
            **{
                f"written for another tool: {name}, read as plain words{_HINTS.get(name, '')}": _rows_with(
                    trimmed, NOTATION[name]
                )
                for name in NOTATION
                if name not in self.read
            },
        }
        return [
            f"prompts.source: of {len(whole):,} prompts {count:,} {_is(count)} {what}"
            for what, count in said.items()
            if count
        ]


def _look_for_long(wrong: _Wrong, role: str, column: pa.ChunkedArray, place: str, first: int) -> None:
    text = as_kind(column, pa.large_string())
    for row in np.flatnonzero(_long(text).to_numpy()):
        size = len(str(text[int(row)].as_py()).encode())
        expected = f"a text of at most {MAX_TEXT_BYTES:,} bytes"
        wrong.add(Problem(f"prompts.columns.{role}: {place} {first + int(row)}", expected, f"{size:,} bytes"))


def _long(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.greater(pc.binary_length(texts).fill_null(0), MAX_TEXT_BYTES)


def _is(count: int) -> str:
    return "is" if count == 1 else "are"


def _rows_with(texts: pa.ChunkedArray, pattern: str) -> Any:
    return pc.sum(pc.match_substring_regex(texts, pattern)).as_py() or 0
