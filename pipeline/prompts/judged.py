"""What mapped columns hold, looked at before anything starts: wrong numbers, blanks, repeats, other tools' notation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from promptmill.pipeline.prompts.checks import column_tables
from promptmill.pipeline.prompts.columns import OpenedFile
from promptmill.pipeline.prompts.kinds import as_kind, carried
from promptmill.pipeline.prompts.unicode import mend
from promptmill.pipeline.prompts.values import RULES, WrongValueError
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import Problem
from promptmill.schemas.prompts import Prompts

COUNTED_ROWS: Final = 1_000_000
"""Prompts that are read for repeats and notation: 3.4 s for so many (measured), and every run begins with it."""
_SHOWN_ROWS: Final = 3

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


@dataclass
class Judged:
    """`problems` are wrong values of mapped columns, `largest` and `least` the right ones' bounds by role."""

    problems: list[Problem] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
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


def judge(store: Store, opened: Sequence[OpenedFile], prompts: Prompts) -> Judged:
    judged, texts, counted = Judged(), list[pa.ChunkedArray](), 0
    roles = {role: name for role in RULES if (name := getattr(prompts.columns, role, None)) is not None}
    wrong = {role: _Wrong() for role in roles}
    for each in opened:
        names = [*roles.values(), *([prompts.columns.prompt] if counted < COUNTED_ROWS else [])]
        first = 0
        for table in _tables(store, each, prompts, list(dict.fromkeys(names))):
            for role, name in roles.items():
                if name in table.column_names:
                    _look(judged, wrong[role], role, table.column(name), f"{each.file.name} row", first)
            if prompts.columns.prompt in table.column_names and counted < COUNTED_ROWS:
                texts.append(table.column(prompts.columns.prompt))
                counted += table.num_rows
            first += table.num_rows
    judged.problems += [problem for role in roles for problem in _told(wrong[role])]
    judged.notices += _of_texts(texts)
    return judged


def _tables(store: Store, each: OpenedFile, prompts: Prompts, names: list[str]) -> Iterator[pa.Table]:
    if each.judged is not None:
        yield mend(each.judged)[0]
    elif names:
        yield from (mend(table)[0] for table in column_tables(store, each.file, prompts, names))


def _look(judged: Judged, wrong: _Wrong, role: str, column: pa.ChunkedArray, place: str, first: int) -> None:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    column = as_kind(column, carried(kind))
    if role == "seed" and pa.types.is_integer(column.type):
        bounds = pc.min_max(column).as_py()
        if bounds["min"] is None or bounds["min"] >= -1:
            judged.note(role, [bounds["max"]] if bounds["max"] is not None else [])
            return
    good: list[int | float] = []
    for row, value in enumerate(column.to_pylist()):
        try:
            number = RULES[role](value)
        except WrongValueError as error:
            wrong.count += 1
            if len(wrong.shown) < _SHOWN_ROWS:
                where = f"prompts.columns.{role}: {place} {first + row}"
                wrong.shown.append(Problem(where, error.expected, error.got))
        else:
            good += [] if number is None else [number]
    judged.note(role, good)


def _told(wrong: _Wrong) -> list[Problem]:
    more = wrong.count - len(wrong.shown)
    if not more:
        return wrong.shown
    last = wrong.shown[-1]
    return [*wrong.shown[:-1], Problem(last.where, last.expected, last.got, f"{more:,} more rows are wrong so")]


def _of_texts(texts: Sequence[pa.ChunkedArray]) -> list[str]:
    if not texts:
        return []
    chunks = [as_kind(text, pa.large_string()).combine_chunks() for text in texts]
    whole = pa.chunked_array(chunks, pa.large_string())
    trimmed = pc.utf8_trim_whitespace(whole.fill_null(""))
    blank = pc.sum(pc.equal(trimmed, "")).as_py() or 0
    repeated = len(trimmed) - blank - pc.count_distinct(trimmed.filter(pc.not_equal(trimmed, ""))).as_py()
    said = {
        "blank, and fails": blank,
        "repeated": repeated,
        **{
            f"written for another tool: {name}, read as plain words": _rows_with(trimmed, NOTATION[name])
            for name in NOTATION
        },
    }
    return [
        f"prompts.source: of {len(whole):,} prompts {count:,} {_is(count)} {what}"
        for what, count in said.items()
        if count
    ]


def _is(count: int) -> str:
    return "is" if count == 1 else "are"


def _rows_with(texts: pa.ChunkedArray, pattern: str) -> Any:
    return pc.sum(pc.match_substring_regex(texts, pattern)).as_py() or 0
