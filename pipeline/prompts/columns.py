"""The columns of a source: which are there, of which type, and how files agree on one."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from promptmill.pipeline.prompts.formats import file_suffix, is_parquet
from promptmill.pipeline.prompts.kinds import common, is_binary, is_image_struct, is_text
from promptmill.pipeline.prompts.nested import depth_problems, typed
from promptmill.schemas.errors import InputError, Problem
from promptmill.schemas.inputs import ROLES, STEERING, is_control
from promptmill.schemas.plan import SourceFile
from promptmill.schemas.prompts import Columns


@dataclass(frozen=True)
class OpenedFile:
    file: SourceFile
    schema: pa.Schema
    notices: tuple[str, ...] = ()
    judged: pa.Table | None = None
    """Of a text file the columns whose values are looked at."""


_LOOSE = (".jsonl", ".ndjson", ".json", ".tar")
"""Formats whose rows have each their own names."""


def unify(opened: Sequence[OpenedFile], columns: Columns) -> pa.Schema:
    """Text files do not say their types: a column that looks different in two of them is text in all; and JSON names
    its columns row by row: one that none of a file's rows has is null in all of them.

    Raises InputError where other files differ. Ids are compared as text whatever file they are in.
    """
    too_deep = [problem for one in opened for problem in depth_problems(one.schema, f"prompts.source: {one.file.name}")]
    if too_deep:
        raise InputError(*too_deep)
    first = opened[0]
    fields = {field.name: field.type for field in first.schema}
    needed = {columns.prompt, columns.id, *columns.images.values()}
    loose = [file_suffix(one.file.name) in _LOOSE for one in opened]
    for place, other in enumerate(opened[1:], 1):
        theirs = {field.name: field.type for field in other.schema}
        for name in list(dict.fromkeys([*fields, *theirs])):
            mine, their = fields.get(name), theirs.get(name)
            lacking = [place] if their is None else range(place) if mine is None else ()
            if not lacking:
                met = _met(name, mine, their, (first, other), columns)
            else:
                may_lack = name not in needed and all(loose[each] for each in lacking)
                met = (their if mine is None else mine) if may_lack else None
            if met is None:
                raise _other_columns(name, mine, their, first, other)
            fields[name] = met
    # A column that is null in every row has no type yet; text holds whatever comes later.
    return pa.schema([pa.field(name, typed(kind)) for name, kind in fields.items()])


def _met(
    name: str, mine: pa.DataType, their: pa.DataType, files: Sequence[OpenedFile], columns: Columns
) -> pa.DataType | None:
    """The type of a column that two files have; None where they cannot be read as one."""
    if mine == their or pa.types.is_null(their):
        return mine
    if pa.types.is_null(mine):
        return their
    if (shared := common(mine, their)) is not None:
        return shared
    return pa.string() if _meet_as_text(name, mine, their, files, columns) else None


def _other_columns(name: str, mine: object, their: object, first: OpenedFile, other: OpenedFile) -> InputError:
    expected = f"the columns of {first.file.name}: {name} {mine or '(absent)'}"
    hint = "Give files of one kind, or make one job for each kind"
    return InputError(Problem(f"prompts.source: {other.file.name}", expected, f"{name} {their or '(absent)'}", hint))


def _meet_as_text(
    name: str, mine: pa.DataType, their: pa.DataType, files: Sequence[OpenedFile], columns: Columns
) -> bool:
    if name == columns.id:
        return _fits("id", mine) and _fits("id", their)
    return name != columns.seed and not any(is_parquet(opened.file.name) for opened in files)


_IMAGES = "paths, URLs, bytes, or a struct of bytes and path"
WANTED: Mapping[str, str] = {
    "seed": "a column of integers",
    "id": "a text or integer column",
    "label": "a text or integer column",
    **dict.fromkeys(("strength", *STEERING), "a number column"),
    **dict.fromkeys(ROLES, _IMAGES),
}
"""What a column must hold, by what it is mapped to; text where it is not here."""


def check_columns(schema: pa.Schema, columns: Columns, where: str, named: Named | None = None) -> None:
    """Raises InputError where a column that is mapped, or `named` by a text, is missing or cannot be used so."""
    problems = [] if named is None else list(_wrong_names(schema, named, where))
    for role, name in columns.named.items():
        if name is None or (named is not None and role == "prompt"):
            continue
        place = f"prompts.columns.{role}: {where}"
        if name not in schema.names:
            close = difflib.get_close_matches(name, schema.names, 1)
            hint = f"Did you mean {close[0]!r}?" if close else f"Set prompts.columns.{role} to one of them"
            problems.append(Problem(place, f"a column {name!r}", f"columns {', '.join(map(repr, schema.names))}", hint))
            continue
        kind = schema.field(name).type
        if not _fits(role, kind):
            wanted = WANTED.get(role, _IMAGES if is_control(role) else "a text column")
            problems.append(Problem(place, wanted, f"{name!r} of type {kind}"))
    if problems:
        raise InputError(*problems)


@dataclass(frozen=True)
class Named:
    """Of templates and what they hold: names by the place that has them; `known` are those that are no columns."""

    places: Mapping[str, Sequence[str]]
    known: Collection[str] = ()


def _wrong_names(schema: pa.Schema, named: Named, where: str) -> Iterator[Problem]:
    for place, names in named.places.items():
        for name in (name for name in names if name not in named.known):
            kind = schema.field(name).type if name in schema.names else None
            if kind is None or is_binary(kind) or pa.types.is_nested(kind):
                there = ", ".join(map(repr, [*schema.names, *named.known]))
                got = f"columns {there}" if kind is None else f"{name!r} of type {kind}"
                close = difflib.get_close_matches(name, [*named.known, *schema.names], 1)
                hint = f"Did you mean {close[0]!r}?" if close and kind is None else ""
                yield Problem(f"{place}: {where}", f"a column {name!r} of text or numbers", got, hint)


def _fits(role: str, kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    is_whole = pa.types.is_integer(kind)
    # A whole column with gaps is one of floats to pandas.
    is_number = is_whole or pa.types.is_floating(kind)
    if role in ROLES or is_control(role):
        return is_text(kind) or is_binary(kind) or is_image_struct(kind)
    if role in ("seed", "strength", *STEERING):
        return bool(is_number or pa.types.is_decimal(kind) or (role == "seed" and is_text(kind)))
    return bool(is_text(kind) or (role == "id" and is_whole) or (role == "label" and is_number))
