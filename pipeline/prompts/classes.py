"""Classes and labels: which there are, how they are worded, and whether each row's label is one of them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from promptmill.pipeline.display import redact, shown
from promptmill.pipeline.prompts.formats import file_suffix
from promptmill.pipeline.prompts.image_files import image_label, is_image
from promptmill.pipeline.prompts.kinds import as_kind, is_text
from promptmill.pipeline.prompts.some_columns import column_tables
from promptmill.pipeline.prompts.suites import SuiteFile
from promptmill.pipeline.prompts.texts import read_text
from promptmill.pipeline.storage.listing import find_objects, would_name
from promptmill.pipeline.storage.store import Store
from promptmill.pipeline.storage.urls import check_url
from promptmill.schemas.errors import InputError, Problem
from promptmill.schemas.identity import canonical_json
from promptmill.schemas.plan import SourceFile
from promptmill.schemas.prompts import CLASS_FILE, Prompts
from promptmill.schemas.words import MOST_CLASSES, ClassNumbers, LabelClass, plain_label

CLASS: Final = "class"
"""In a template of a job with labels, the wording of the row's class."""
_TABLES: Final = (".csv", ".tsv", ".jsonl", ".json", ".xlsx")
_NAMES: Final = ("name", "class", "label", "label_name")
_WORDINGS: Final = ("wording", "text", "prompt", "caption")
_SHOWN_ROWS: Final = 3
_LONGEST_NAME: Final = 200


@dataclass(frozen=True)
class Classes:
    """`counts` is rows, or images of a folder, by name of a class; empty where nothing was counted."""

    classes: tuple[LabelClass, ...]
    notices: tuple[str, ...] = ()
    wrong: tuple[Problem, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)


def find_classes(prompts: Prompts, output: str | None = None) -> Classes:
    """Those that the job names, itself or by a table or a folder of images, in which `output` may not lie.

    Raises InputError.
    """
    given = prompts.classes
    if given is None:
        return Classes(())
    if isinstance(given, str):
        if output is not None and would_name(given, output):
            got = f"{redact(output)}, which the next run would take for a class"
            raise InputError(Problem("output.url", "a place outside prompts.classes", got, "Choose another"))
        return _from_place(given)
    pairs = given.items() if isinstance(given, dict) else ((name, _worded(name)) for name in given)
    return Classes(_checked("prompts.classes", pairs))


def class_file(classes: Sequence[LabelClass], prompts: Prompts) -> SuiteFile:
    """A row for each class, as the source of a job that names no other; templates are in the place of its prompt."""
    rows = [[each.name, each.wording] for each in classes]
    data = canonical_json(rows).encode()
    columns = {"label": [each.name for each in classes]}
    columns |= {} if prompts.templates else {"prompt": [each.wording for each in classes]}
    table = pa.table(columns)
    return SuiteFile(CLASS_FILE, table, hashlib.sha256(data).hexdigest(), len(data))


def labelled(store: Store, files: Sequence[SourceFile], prompts: Prompts, named: Classes) -> Classes:
    """The classes with what the rows of the source say: labels that are none, classes of which no row is drawn.

    Without classes of the job, those are the values of its label column, in their order.
    """
    column = prompts.mapped.label
    if column is None:
        return named
    values: Counter[Any] = Counter()
    counts: Counter[Any] = Counter()  # of the rows that are drawn
    left = prompts.limit
    wrong: list[Problem] = []
    known = named.classes and ClassNumbers(named.classes)
    for file in files:
        first = 0
        for table in column_tables(store, file, prompts, [column]):
            found = _counted(table.column(0))
            values.update(found)
            counts.update(found if left is None else _counted(table.column(0).slice(0, left)))
            left = None if left is None else max(0, left - table.num_rows)
            bad = [value for value in found if (known.get(value) if known else value) is None]
            wrong += [_no_class(named.classes, file, table.column(0), value, first) for value in bad]
            first += table.num_rows
    if not named.classes:
        named = Classes(_checked(f"prompts.columns.label: {column!r}", _in_order(values)))
    numbers = ClassNumbers(named.classes)
    rows = Counter({named.classes[place].name: 0 for place in range(len(named.classes))})
    for value, count in counts.items():
        place = numbers.get(value)
        if place is not None:
            rows[named.classes[place].name] += count
    return Classes(named.classes, (*named.notices, *_few(rows, "prompt")), _told(wrong), rows)


def _from_place(place: str) -> Classes:
    check_url(place, "prompts.classes")
    store, entries = find_objects(place)
    if not entries:
        expected = "a folder with a folder of images for each class, or a table of classes"
        raise InputError(Problem(f"prompts.classes: {place}", expected, "nothing there"))
    if len(entries) == 1 and file_suffix(entries[0].name) in _TABLES and place.endswith(entries[0].name):
        return Classes(_from_table(store, entries[0].name, place))
    return _from_folder(store, [entry.name for entry in entries], place)


def _from_table(store: Store, name: str, place: str) -> tuple[LabelClass, ...]:
    table = read_text(store, name, Prompts(source=place)).table
    columns = {column.lower(): column for column in table.column_names}
    key = next((columns[each] for each in _NAMES if each in columns), None)
    if key is None:
        got = f"columns {', '.join(map(repr, table.column_names))}"
        raise InputError(Problem(f"prompts.classes: {name}", f"a column {' or '.join(_NAMES)}", got))
    wording = next((columns[each] for each in _WORDINGS if each in columns), None)
    names = as_kind(table.column(key), pa.large_string()).to_pylist()
    texts = [None] * len(names) if wording is None else as_kind(table.column(wording), pa.large_string()).to_pylist()
    where = f"prompts.classes: {name}"
    for row, each in enumerate(names):
        if not each:
            raise InputError(Problem(f"{where} row {row}", f"a class in column {key!r}", "nothing"))
    return _checked(where, ((each, text or _worded(each)) for each, text in zip(names, texts, strict=True)))


def _from_folder(store: Store, names: Iterable[str], place: str) -> Classes:
    images = [name for name in names if is_image(name)]
    where = f"prompts.classes: {place}"
    loose = next((name for name in images if image_label(name) is None), None)
    if not images or loose is not None:
        got = "no image" if not images else f"{loose!r} beside them"
        hint = "Its name is the folder's: `cross/a.png`, `ring/b.png`"
        raise InputError(Problem(where, "images in a folder for each class", got, hint))
    counts = Counter(str(image_label(name)) for name in images)
    empty = [name for name in _folders(store) if not any(image.startswith(f"{name}/") for image in images)]
    if empty:
        hint = "Put images there, or take the folder away"
        raise InputError(Problem(f"{where}/{empty[0]}", "at least one image of the class", "none", hint))
    classes = _checked(where, ((name, _worded(name)) for name in sorted(counts)))
    return Classes(classes, tuple(_few(counts, "image")), counts=dict(counts))


def _folders(store: Store) -> list[str]:
    """On disk; object storage has no empty folders."""
    root = store.local_path()
    found = [] if root is None else [each.name for each in Path(root).iterdir() if each.is_dir()]
    return sorted(name for name in found if not name.startswith((".", "_")))


def _few(counts: Mapping[str, int], what: str) -> Iterator[str]:
    for count, told in ((0, f"no {what}"), (1, f"one {what}")):
        few = [name for name, number in counts.items() if number == count]
        if few and (what == "image" or count == 0):
            more = f" and {len(few) - _SHOWN_ROWS:,} more" if len(few) > _SHOWN_ROWS else ""
            yield f"prompts.classes: {', '.join(map(repr, map(shown, few[:_SHOWN_ROWS])))}{more}: {told}"


def _worded(name: str) -> str:
    return name.replace("_", " ")


def _checked(where: str, pairs: Iterable[tuple[str, str]]) -> tuple[LabelClass, ...]:
    """Raises InputError for what cannot be classes."""
    classes = tuple(LabelClass(name, wording) for name, wording in pairs)
    if not classes or len(classes) > MOST_CLASSES:
        raise InputError(Problem(where, f"1 to {MOST_CLASSES:,} classes", f"{len(classes):,}"))
    twice = next((name for name, count in Counter(each.name for each in classes).items() if count > 1), None)
    if twice is not None:
        raise InputError(Problem(where, "names that differ", f"{twice!r} twice"))
    bad = next((each.name for each in classes if len(each.name) > _LONGEST_NAME or not each.name.isprintable()), None)
    if bad is not None:
        raise InputError(Problem(where, f"names of at most {_LONGEST_NAME} printable signs", repr(bad[:80])))
    return classes


def _counted(column: pa.ChunkedArray) -> dict[Any, int]:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    plain = as_kind(column, pa.large_string() if is_text(kind) else kind)
    found: Counter[Any] = Counter()
    for each in pc.value_counts(plain).to_pylist():
        found[plain_label(each["values"])] += each["counts"]
    return found


def _no_class(
    classes: Sequence[LabelClass], file: SourceFile, column: pa.ChunkedArray, value: Any, first: int
) -> Problem:
    names = [each.name for each in classes]
    few = ", ".join(map(repr, names[:8])) + (", …" if len(names) > 8 else "")
    row = first + next(i for i, each in enumerate(column.to_pylist()) if plain_label(each) == value)
    return Problem(f"prompts.columns.label: {file.name} row {row}", f"one of the classes {few}".strip(), repr(value))


def _in_order(counts: Mapping[Any, int]) -> list[tuple[str, str]]:
    values = [value for value in counts if value is not None]
    numbers = all(isinstance(value, int | float) for value in values)
    return [(str(each), _worded(str(each))) for each in (sorted(values) if numbers else sorted(map(str, values)))]


def _told(wrong: Sequence[Problem]) -> tuple[Problem, ...]:
    more = len(wrong) - _SHOWN_ROWS
    if more <= 0:
        return tuple(wrong)
    last = wrong[_SHOWN_ROWS - 1]
    told = Problem(last.where, last.expected, last.got, f"{more:,} more labels are wrong so")
    return (*wrong[: _SHOWN_ROWS - 1], told)
