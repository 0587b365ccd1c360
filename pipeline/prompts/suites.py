"""Prompt suites as they are published, with the columns that all have in common. None of their text is in Promptmill.

`prompt` is the text, `category` what the suite sorts by; other columns are carried as they are. Names are in lower
case, because SQL engines take `Category` and `category` for the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from promptmill.pipeline.prompts import suite_formats
from promptmill.pipeline.prompts.formats import decode_text, to_arrow
from promptmill.pipeline.prompts.suite_formats import Lines, Odd, Row
from promptmill.pipeline.shapes.suite import CATEGORIES, suite_rows
from promptmill.schemas.errors import InputError, Problem
from promptmill.schemas.identity import canonical_json
from promptmill.schemas.prompts import ShapesSuite, SuiteName

PUBLISHED: Final[Mapping[str, int]] = {"partiprompts": 1632, "geneval": 553, "drawbench": 200, "dpg": 1065}
"""Prompts of a suite that has one size."""
_FORMATS: Final[Mapping[str, Callable[[str, str], Lines]]] = {
    "partiprompts": suite_formats.partiprompts,
    "geneval": suite_formats.geneval,
    "t2i-compbench": suite_formats.t2i_compbench,
    "drawbench": suite_formats.drawbench,
    "dpg": suite_formats.dpg,
}
_OF_MANY_FILES: Final = ("t2i-compbench", "dpg")
_PROBLEMS_SHOWN: Final = 20


@dataclass(frozen=True)
class SuiteFile:
    """Prompts under the name that enters their ids; `sha256` and `size_bytes` are of the bytes read for them."""

    name: str
    table: pa.Table
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Suite:
    """`sha256` is that of the one file; of several, that of what `sha256sum` prints for them, sorted by name."""

    files: tuple[SuiteFile, ...]
    sha256: str
    notices: tuple[str, ...] = ()


def takes(name: SuiteName, file: str) -> bool:
    """Whether a file of the source can be part of the suite, by its ending; single files may be called anything."""
    return name not in _OF_MANY_FILES or file.lower().endswith(".txt")


def read_suite(name: SuiteName, contents: Mapping[str, bytes]) -> Suite:
    """`contents` by file name. Raises InputError with file and line of all that does not belong into the suite."""
    if len(contents) > 1 and name not in _OF_MANY_FILES:
        raise InputError(Problem("prompts.source", f"the one file of {name}", f"{len(contents)}: {_some(contents)}"))
    problems: list[Problem | str] = []
    rows = {file: list(_good_rows(name, file, data, problems)) for file, data in contents.items()}
    if name == "dpg":
        problems += _same_names(rows)
    if not problems and not any(rows.values()):
        problems.append(Problem(f"prompts.source: {_some(contents)}", "at least one prompt", "none"))
    if problems:
        more = len(problems) - _PROBLEMS_SHOWN
        raise InputError(*problems[:_PROBLEMS_SHOWN], *([f"… and {more:,} more"] if more > 0 else []))
    hashes = {file: hashlib.sha256(data).hexdigest() for file, data in contents.items()}
    whole = next(iter(hashes.values())) if len(hashes) == 1 else _hash_of_all(hashes)
    if name == "dpg":  # a file for each prompt: here they become one
        size = sum(map(len, contents.values()))
        files = [_suite_file("dpg", [row for found in rows.values() for row in found], whole, size)]
    else:
        files = [_suite_file(file, found, hashes[file], len(contents[file])) for file, found in rows.items() if found]
    count = sum(file.table.num_rows for file in files)
    published = PUBLISHED.get(name, count)
    notice = f"{name} is published with {published:,} prompts, this source has {count:,}"
    return Suite(tuple(files), whole, (notice,) if count != published else ())


def shapes_suite(options: ShapesSuite) -> Suite:
    """The built-in suite; its checksum is that of its rows as JSON."""
    rows = suite_rows(options.per_category, options.seed, options.split)
    data = canonical_json(rows).encode()
    file = _suite_file("shapes", rows, hashlib.sha256(data).hexdigest(), len(data))
    counts = {kind: sum(row["category"] == kind for row in rows) for kind in CATEGORIES}
    few = ", ".join(f"{kind} {count}" for kind, count in counts.items() if count < options.per_category)
    notice = f"fewer prompts than prompts.shapes.per_category where there are no more that differ: {few}"
    return Suite((file,), file.sha256, (notice,) if few else ())


def _good_rows(name: SuiteName, file: str, data: bytes, problems: list[Problem | str]) -> Iterator[Row]:
    """What is wrong with the other lines joins `problems`."""
    where = f"prompts.source: {file}"
    try:
        for line, row in _FORMATS[name](decode_text(data, where), file):
            if isinstance(row, Odd):
                hint = f"Is it the file of {name} as published?"
                problems.append(Problem(f"{where}:{line}", row.expected, row.got, hint))
            else:
                yield row
    except InputError as error:
        problems.extend(error.problems)


def _same_names(rows: Mapping[str, Sequence[Row]]) -> Iterator[Problem]:
    first: dict[str, str] = {}
    for file, found in rows.items():
        for row in found:
            other = first.setdefault(row["id"], file)
            if other != file:
                yield Problem(f"prompts.source: {file}", "a file name that comes once", f"that of {other}")


def _suite_file(name: str, rows: Sequence[Row], sha256: str, size_bytes: int) -> SuiteFile:
    names = dict.fromkeys(key for row in rows for key in row)
    table = pa.table({key: to_arrow([row.get(key) for row in rows])[0] for key in names})
    return SuiteFile(name, table, sha256, size_bytes)


def _hash_of_all(hashes: Mapping[str, str]) -> str:
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(hashes.items()))
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()


def _some(contents: Mapping[str, bytes]) -> str:
    return ", ".join(list(contents)[:3]) + (", …" if len(contents) > 3 else "")
