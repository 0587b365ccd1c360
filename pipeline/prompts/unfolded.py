"""What is known of a job's texts before any is drawn: the names in them, the files they ask for, how many repeat."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import pyarrow as pa

from promptmill.pipeline.prompts.classes import CLASS
from promptmill.pipeline.prompts.columns import Named
from promptmill.pipeline.prompts.expansion import Expansion
from promptmill.pipeline.prompts.image_files import is_image
from promptmill.pipeline.prompts.kinds import as_kind
from promptmill.pipeline.prompts.some_columns import column_tables
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.checked import MOST
from promptmill.schemas.errors import InputError, Problem
from promptmill.schemas.identity import derived_prompt_id
from promptmill.schemas.plan import SourceFile
from promptmill.schemas.prompts import Prompts
from promptmill.schemas.wildcards import names_of, pools_of, read_template, read_wildcards
from promptmill.schemas.words import Attribute, ClassNumbers, LabelClass, Words

COUNTED: Final = 10_000
"""Prompts whose texts are made to see how many repeat: half a second (measured), and each run does it."""
Row = tuple[str, Mapping[str, str | None], str, str]
"""Id of a row, the values that templates may ask for, its own prompt, and which images it is drawn from."""


def names_in_texts(prompts: Prompts, attributes: Sequence[Attribute]) -> Named | None:
    """None for a job without templates."""
    if not prompts.templates:
        return None
    wildcards = bool(prompts.wildcards)
    places: dict[str, Sequence[str]] = {
        f"prompts.templates[{i}]": names_of(read_template(text, wildcards)) for i, text in enumerate(prompts.templates)
    }
    for each in attributes:
        if each.column is not None:
            places[f"prompts.attributes.{each.name}.column"] = [each.column]
        for i, value in enumerate(each.values):
            if "{" in value:
                places[each.place(i)] = [
                    *places.get(each.place(i), ()),
                    *names_of(read_template(value, wildcards)),
                ]
    columns = {each.name for each in attributes if each.column == each.name}
    known = [name for name in prompts.attributes if name not in columns]
    return Named(places, [*known, *([CLASS] if prompts.labelled else [])])


def refuse_taken(attributes: Sequence[Attribute], schema: pa.Schema) -> None:
    """Raises InputError for an attribute that is called as a column of the source: records would have two of it."""
    for each in attributes:
        if each.name in schema.names and each.column != each.name:
            hint = "Give it another name, or leave it out: {name} then is the column's value"
            where = f"prompts.attributes.{each.name}"
            raise InputError(Problem(where, "a name that no column of the source has", repr(each.name), hint))


def pools_in_texts(prompts: Prompts, attributes: Sequence[Attribute]) -> dict[str, str]:
    """Wildcard files that templates and values ask for, with the place that does first."""
    if not prompts.wildcards:
        return {}
    texts = [(f"prompts.templates[{i}]", text) for i, text in enumerate(prompts.templates)]
    texts += [(each.place(i), value) for each in attributes for i, value in enumerate(each.values) if "__" in value]
    found: dict[str, str] = {}
    for place, text in texts:
        for name in pools_of(read_template(text, True)):
            found.setdefault(name, place)
    return found


def pools_in_wordings(prompts: Prompts, classes: Sequence[LabelClass]) -> dict[str, str]:
    if not prompts.wildcards or prompts.templates:
        return {}
    return _pools((f"prompts.classes.{each.name}", each.wording) for each in classes)


def pools_in_rows(store: Store, files: Sequence[SourceFile], prompts: Prompts) -> dict[str, str]:
    """Those that prompts of the source ask for."""
    if not prompts.wildcards or prompts.templates:
        return {}
    return _pools(_rows_with_pools(store, files, prompts))


def _rows_with_pools(store: Store, files: Sequence[SourceFile], prompts: Prompts) -> Iterator[tuple[str, str]]:
    for file in files:
        first = 0
        for table in column_tables(store, file, prompts, [prompts.columns.prompt]):
            texts = as_kind(table.column(0), pa.large_string()).to_pylist()
            yield from ((f"{file.name} row {first + i}", text) for i, text in enumerate(texts) if text and "__" in text)
            first += len(texts)


def _pools(texts: Iterable[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for place, text in texts:
        try:
            names = pools_of(read_wildcards(text))
        except ValueError:  # it costs its own prompt
            continue
        for name in names:
            found.setdefault(name, place)
    return found


def class_rows(classes: Sequence[LabelClass]) -> Iterator[Row]:
    for each in classes:
        yield each.name, {CLASS: each.wording, "label": each.name, "prompt": each.wording}, each.wording, ""


def expansion_rows(
    store: Store, files: Sequence[SourceFile], prompts: Prompts, words: Words, schema: pa.Schema
) -> Iterator[Row]:
    """As many as are counted, with the columns that templates name."""
    numbers, columns = ClassNumbers(words.classes), prompts.columns
    expansion = Expansion(prompts, words)
    asked = [name for name in expansion.names if not (name == CLASS and words.classes)]
    own = [] if prompts.templates else [columns.prompt]
    paths = [name for name in columns.images.values() if name in schema.names and _is_text(schema.field(name).type)]
    asked = list(dict.fromkeys([*asked, *own, *paths, *filter(None, (columns.id, columns.label))]))
    for file in files if expansion.acts and asked else ():
        first = 0
        for table in column_tables(store, file, prompts, asked):
            cells = {name: table.column(name).slice(0, COUNTED).to_pylist() for name in asked}
            for i in range(min(table.num_rows, COUNTED)):
                values = {name: _text(cells[name][i]) for name in asked}
                number = numbers.get(cells[columns.label][i]) if columns.label and words.classes else None
                values[CLASS] = values.get(CLASS) if number is None else words.classes[number].wording
                key = derived_prompt_id(file.name, file.first + first + i)
                key = key if columns.id is None else values[columns.id] or key
                yield (
                    key,
                    values,
                    (values[columns.prompt] or "") if own else "",
                    _drawn_from(key, file, values, prompts),
                )
            first += table.num_rows


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _drawn_from(key: str, file: SourceFile, values: Mapping[str, str | None], prompts: Prompts) -> str:
    """Equal for rows with the same images; images that stand in the row itself are its own."""
    columns = prompts.columns.images.values()
    if not columns:
        return ""
    if is_image(file.name):
        return file.name
    return repr([file.name, *(values[name] for name in columns)]) if all(name in values for name in columns) else key


def _text(cell: object) -> str | None:
    if cell is None:
        return None
    return cell.decode("utf-8", "replace") if isinstance(cell, bytes) else str(cell)


def repeated(rows: Iterator[Row], expansion: Expansion) -> tuple[str, ...]:
    """How many of the first prompts are there twice, with the same images where they are drawn from some.

    Raises InputError for more than can be counted exactly.
    """
    if not expansion.columns:
        return ()
    if expansion.each > MOST:
        hint = "Say how many prompts of each row are drawn in `prompts.draws`"
        raise InputError(Problem("prompts.attributes", f"at most 2^53 prompts ({MOST:,})", f"{expansion.each:,}", hint))
    texts: list[tuple[str, str]] = []
    for key, values, prompt, image in rows:
        left = range(min(expansion.each, COUNTED - len(texts)))
        texts += [(expansion.at(key, index, values, prompt).text, image) for index in left]
        if len(texts) >= COUNTED:
            break
    count = len(texts) - len(set(texts))
    first = f"the first {COUNTED:,}" if len(texts) >= COUNTED else f"{len(texts):,}"
    said = f"prompts: of {first} prompts {count:,} {'is' if count == 1 else 'are'} repeated"
    return (said,) if count else ()
