"""JSON as rows: lines of objects, an array, or one object that holds the rows, as pandas and `datasets` write it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from promptmill.schemas.errors import InputError, Problem

Rows = list[dict[str, Any]]


@dataclass
class Repeats:
    """Keys that stand twice in one object: JSON allows it, and the last value counts (RFC 8259, 4)."""

    objects: int = 0
    first: str = ""
    place: str = ""

    def __call__(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            self.first = self.first or f"{json.dumps(twice)[:80]}{self.place}"
            self.objects += 1
        return found

    def notices(self, where: str) -> list[str]:
        said = f"{where}: {self.objects:,} objects have a key twice, such as {self.first}; the last value counts"
        return [said] if self.objects else []


def json_rows(text: str, where: str, prompt: str, whole: bool, repeats: Repeats) -> tuple[Rows, list[int]]:
    """The rows, and the number of each: its line, or of an array its place from 1.

    `whole` is for `.json`, where a string in an array is a prompt; lines may be an array of objects too. Raises
    InputError.
    """
    start = text.lstrip()[:1]
    if start == "[" or (whole and not _has_rows_a_line(text)):
        try:
            rows = _rows_of(json.loads(text, object_pairs_hook=repeats), where, prompt if whole else None)
        except (ValueError, RecursionError) as error:
            if whole:
                line = getattr(error, "lineno", None)
                place = where if line is None else f"{where}:{line}"
                raise InputError(
                    Problem(place, "JSON: an array of objects, or one object a line", f"{error}")
                ) from None
            rows = None
        if rows is not None:
            return rows, list(range(1, len(rows) + 1))
    return _lines(text, where, repeats)


def _has_rows_a_line(text: str) -> bool:
    """Whether the first line is an object by itself, and another follows."""
    first, _, rest = text.strip().partition("\n")
    try:
        return isinstance(json.loads(first), dict) and bool(rest.strip())
    except (ValueError, RecursionError):
        return False


def _rows_of(content: Any, where: str, prompt: str | None) -> Rows | None:
    """None for what is no array of rows where lines are expected."""
    if isinstance(content, list) and content and all(isinstance(item, dict) for item in content):
        return content
    if prompt is None:
        return None
    if isinstance(content, list):
        return [_row(item, i, where, prompt) for i, item in enumerate(content, 1)]
    rows = _rows_inside(content) if isinstance(content, dict) else None
    if rows is None:
        got = "an object without one array of objects" if isinstance(content, dict) else type(content).__name__
        raise InputError(Problem(where, "an array of objects, or columns of one length", got))
    return rows


def _row(item: Any, number: int, where: str, prompt: str) -> dict[str, Any]:
    if isinstance(item, str):
        return {prompt: item}
    if not isinstance(item, dict):
        raise InputError(Problem(f"{where}: item {number}", "an object or a prompt", type(item).__name__))
    return item


def _rows_inside(content: Mapping[str, Any]) -> Rows | None:
    """`{"prompts": [{…}, …]}`, columns as lists or by row number, and pandas' `orient="split"`."""
    if {"columns", "data"} <= content.keys() and isinstance(content["data"], list):
        return _rows_of_split(content["columns"], content["data"])
    inside = [value for value in content.values() if _is_rows(value)]
    if len(inside) == 1:
        return list(inside[0])
    columns = {name: value for name, value in content.items() if isinstance(value, list | dict)}
    if columns and len(columns) == len(content):
        return _rows_of_columns(columns)
    return [dict(content)] if content and not inside else None


def _rows_of_split(names: Any, rows: Sequence[Any]) -> Rows | None:
    """None where the names are none, or a row has not one value for each."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        return None
    if not all(isinstance(row, list) and len(row) == len(names) for row in rows):
        return None
    return [dict(zip(names, row, strict=True)) for row in rows]


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _rows_of_columns(columns: Mapping[str, Any]) -> Rows | None:
    first = next(iter(columns.values()))
    keys: Sequence[Any] = list(first) if isinstance(first, dict) else range(len(first))
    same = (type(value) is type(first) and len(value) == len(keys) for value in columns.values())
    if not all(same) or any(isinstance(value, dict) and list(value) != keys for value in columns.values()):
        return None
    return [{name: value[key] for name, value in columns.items()} for key in keys]


def _lines(text: str, where: str, repeats: Repeats) -> tuple[Rows, list[int]]:
    rows: Rows = []
    numbers: list[int] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            repeats.place = f" in line {number}"
            row = json.loads(line, object_pairs_hook=repeats)
        except (ValueError, RecursionError) as error:
            raise InputError(Problem(f"{where}:{number}", "one JSON object", f"{error}")) from None
        if not isinstance(row, dict):
            raise InputError(Problem(f"{where}:{number}", "one JSON object", f"{type(row).__name__}"))
        rows.append(row)
        numbers.append(number)
    return rows, numbers
