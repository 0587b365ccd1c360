"""Values of attributes and lines of wildcard files, read when a job is planned: workers find them in the plan."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Final

import pyarrow as pa

from promptmill.pipeline.prompts.classes import CLASS
from promptmill.pipeline.prompts.files import find_files
from promptmill.pipeline.prompts.formats import decode_text, file_suffix, read_unpacked
from promptmill.pipeline.prompts.kinds import as_kind
from promptmill.pipeline.prompts.texts import read_text
from promptmill.pipeline.storage.listing import find_objects
from promptmill.pipeline.storage.store import Store
from promptmill.pipeline.storage.urls import check_url
from promptmill.schemas.attributes import LARGEST_WEIGHT, AttributeFrom
from promptmill.schemas.errors import InputError, Problem
from promptmill.schemas.prompts import Prompts
from promptmill.schemas.urls import split_query
from promptmill.schemas.wildcards import names_of, pools_of, read_template, read_wildcards
from promptmill.schemas.words import Attribute

MOST_BYTES: Final = 16 << 20
"""Of all values together: they lie in `job.json`, and in the memory of every worker."""
TEMPLATE: Final = "template"
_TABLES: Final = (".csv", ".tsv", ".jsonl", ".json", ".xlsx")
_FOLDER: Final = "wildcards"
_LINE_END: Final = re.compile(r"\r\n|\n|\r")  # and no other sign that str.splitlines takes for one


def read_attributes(prompts: Prompts) -> tuple[Attribute, ...]:
    """Those that the templates may come to. Raises InputError with every problem found."""
    problems: list[Problem | str] = []
    found: dict[str, Attribute] = {}
    for name, given in prompts.attributes.items():
        try:
            found[name] = _attribute(name, given)
        except InputError as error:
            problems += error.problems
    problems += _too_much(found.values(), "prompts.attributes")
    problems = problems or list(_wrong_values(found, prompts))
    problems = problems or list(_cycles(found, bool(prompts.wildcards)))
    if problems:
        raise InputError(*problems)
    used = _reached(
        found, [name for text in prompts.templates for name in _names(text, prompts)], bool(prompts.wildcards)
    )
    return tuple(found[name] for name in found if name in used)


def _attribute(name: str, given: Sequence[str] | Mapping[str, float] | AttributeFrom) -> Attribute:
    if isinstance(given, AttributeFrom):
        if given.file is None:
            return Attribute(name, column=given.column)
        return _from_file(name, given.file)
    if isinstance(given, Mapping):
        return Attribute(name, tuple(given), tuple(given.values()))
    return Attribute(name, tuple(given))


def _from_file(name: str, place: str) -> Attribute:
    where = f"prompts.attributes.{name}"
    check_url(place, where)
    store, entries = find_objects(place)
    if len(entries) != 1:
        raise InputError(Problem(f"{where}: {split_query(place)[0]}", "one file", f"{len(entries)}"))
    file = entries[0].name
    if entries[0].size_bytes > MOST_BYTES:
        raise InputError(
            Problem(f"{where}: {file}", f"at most {MOST_BYTES >> 20} MiB", f"{entries[0].size_bytes:,} bytes")
        )
    if file_suffix(file) in _TABLES:
        return _from_table(name, store, file, place)
    values = lines_of(store, file)
    if not values:
        raise InputError(Problem(f"{where}: {file}", "at least one line with a value", "none"))
    return Attribute(name, tuple(values), origin=file, lines=tuple(values.values()))


def lines_of(store: Store, file: str) -> dict[str, int]:
    """Each line once, with its number; without those that are blank or begin with `#`."""
    text = decode_text(read_unpacked(store, file), file)
    found: dict[str, int] = {}
    for number, line in enumerate(_LINE_END.split(text), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            found.setdefault(line.strip(), number)
    return found


def _from_table(name: str, store: Store, file: str, place: str) -> Attribute:
    where = f"prompts.attributes.{name}: {file}"
    table = read_text(store, file, Prompts(source=place)).table
    if "value" not in table.column_names or not table.num_rows:
        got = f"columns {', '.join(map(repr, table.column_names))}, {table.num_rows} rows"
        raise InputError(Problem(where, "a column 'value' with at least one row, and maybe 'weight'", got))
    values = as_kind(table.column("value"), pa.large_string()).to_pylist()
    weights = table.column("weight").to_pylist() if "weight" in table.column_names else []
    for row, value in enumerate(values):
        weight = weights[row] if weights else 1
        if not value or not isinstance(weight, int | float) or not 0 < weight <= LARGEST_WEIGHT:
            raise InputError(
                Problem(
                    f"{where} row {row}",
                    f"a value, and a weight above 0, at most {LARGEST_WEIGHT:g}",
                    f"{value!r}, {weight!r}",
                )
            )
    return Attribute(name, tuple(values), tuple(map(float, weights)), origin=file, lines=tuple(range(len(values))))


def _too_much(found: Iterable[Attribute], where: str) -> Iterator[Problem]:
    size = sum(len(value) for each in found for value in each.values)
    if size > MOST_BYTES:
        yield Problem(where, f"values of at most {MOST_BYTES:,} signs together", f"{size:,}")


def _names(text: str, prompts: Prompts) -> list[str]:
    return names_of(read_template(text, bool(prompts.wildcards)))


def _wrong_values(found: Mapping[str, Attribute], prompts: Prompts) -> Iterator[Problem]:
    """Names in values that nothing has, and braces that do not belong together."""
    if prompts.draws is None:
        for each in (each for each in found.values() if each.weights):
            hint = "All combinations have each value once: say how many prompts are drawn in `prompts.draws`"
            yield Problem(f"prompts.attributes.{each.name}", "no weights without `prompts.draws`", "weights", hint)
    for each in found.values():
        for place, value in enumerate(each.values):
            if "{" not in value and "}" not in value:
                continue
            try:
                names = names_of(read_template(value, bool(prompts.wildcards)))
            except ValueError as error:
                yield Problem(each.place(place), "braces that hold a name", f"{error} in {value[:80]!r}")
                continue
            known = {*found, *([CLASS] if prompts.labelled else [])}
            # A name that is none of these may be a column of the source, which is looked for with those of templates.
            if prompts.source is None and (strange := [name for name in names if name not in known]):
                there = ", ".join(sorted(known))
                yield Problem(each.place(place), f"one of the names {there}", f"{{{strange[0]}}}")


def _cycles(found: Mapping[str, Attribute], wildcards: bool) -> Iterator[Problem]:
    """The first way round, told with the value that closes it."""
    done: set[str] = set()
    for start in found:
        path: list[str] = []
        stack: list[tuple[str, Iterator[str]]] = [(start, iter(_inside(found, start, wildcards)))]
        while stack:
            name, inner = stack[-1]
            if name not in path:
                path.append(name)
            following = next(inner, None)
            if following is None:
                done.add(name)
                stack.pop()
                path.remove(name)
            elif following in path:
                way = " → ".join([*path[path.index(following) :], following])
                yield Problem(_place_of(found[name], following), "values that end somewhere", f"a cycle: {way}")
                return
            elif following in found and following not in done:
                stack.append((following, iter(_inside(found, following, wildcards))))


def _inside(found: Mapping[str, Attribute], name: str, wildcards: bool) -> list[str]:
    texts = (value for value in found[name].values if "{" in value)
    return list(dict.fromkeys(each for text in texts for each in names_of(read_template(text, wildcards))))


def _place_of(attribute: Attribute, name: str) -> str:
    return next(attribute.place(i) for i, value in enumerate(attribute.values) if f"{{{name}}}" in value)


def _reached(found: Mapping[str, Attribute], names: Iterable[str], wildcards: bool) -> set[str]:
    used: set[str] = set()
    waiting = [name for name in names if name in found]
    while waiting:
        name = waiting.pop()
        if name not in used:
            used.add(name)
            waiting += [each for each in _inside(found, name, wildcards) if each in found]
    return used


def read_pools(prompts: Prompts, asked: Mapping[str, str], output: str | None) -> tuple[Attribute, ...]:
    """The wildcard files that are `asked` for, by name with the place that asks first, and those that their lines do.

    Raises InputError for a file that is not there or empty, and for lines that lead back to their own file.
    """
    if not asked:
        return ()
    store, files = _wildcard_files(prompts, output)
    found: dict[str, Attribute] = {}
    waiting = dict(asked)
    problems: list[Problem | str] = []
    while waiting:
        name, place = waiting.popitem()
        matching = _matching(name, files)
        lines = {line: (file, number) for file in matching for line, number in lines_of(store, file).items()}
        if not lines:
            expected = f"a file {name}.txt with lines in {files_place(prompts)}"
            problems.append(Problem(place, expected, "an empty one" if matching else "none"))
            continue
        file = matching[0] if len(matching) == 1 else f"{name}.txt"
        found[name] = Attribute(name, tuple(lines), origin=file, lines=tuple(number for _, number in lines.values()))
        for i, line in enumerate(lines):
            try:
                inside = pools_of(read_wildcards(line))
            except ValueError as error:
                problems.append(Problem(found[name].place(i), "choices as in `{a|b}`", f"{error} in {line[:80]!r}"))
                continue
            waiting |= {each: found[name].place(i) for each in inside if each not in found}
    problems += [*_too_much(found.values(), "prompts.wildcards"), *_pool_cycles(found)] if not problems else []
    if problems:
        raise InputError(*problems)
    return tuple(found[name] for name in sorted(found))


def files_place(prompts: Prompts) -> str:
    return prompts.wildcards if isinstance(prompts.wildcards, str) else f"{_FOLDER}/"


def _wildcard_files(prompts: Prompts, output: str | None) -> tuple[Store, list[str]]:
    place = prompts.wildcards if isinstance(prompts.wildcards, str) else _FOLDER
    check_url(place, "prompts.wildcards")
    store, entries = find_files(place, output) if isinstance(prompts.wildcards, str) else find_objects(place)
    return store, [entry.name for entry in entries if entry.name.endswith(".txt")]


def _matching(name: str, files: Sequence[str]) -> list[str]:
    """Files of this name below the folder; `*` stands for any part of one."""
    if "*" in name:
        pattern = re.compile("".join(".*" if part == "*" else re.escape(part) for part in re.split(r"(\*)", name)))
        return [file for file in files if pattern.fullmatch(file.removesuffix(".txt"))]
    exact = f"{name}.txt"
    return [exact] if exact in files else [file for file in files if PurePosixPath(file).name == exact][:1]


def _pool_cycles(found: Mapping[str, Attribute]) -> Iterator[Problem]:
    inside = {
        name: {pool: i for i, line in enumerate(each.values) for pool in pools_of(read_wildcards(line))}
        for name, each in found.items()
    }
    for start in found:
        waiting, seen = [start], set[str]()
        while waiting:
            name = waiting.pop()
            for following, line in inside[name].items():
                if following == start:
                    yield Problem(found[name].place(line), "lines that end somewhere", f"a cycle by __{start}__")
                    return
                if following not in seen:
                    seen.add(following)
                    waiting.append(following)
