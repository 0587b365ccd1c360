"""How a CSV or TSV file is written: declared, or found out from its text and told; a row that fits neither has a name.

Spark and MySQL write `\\"` for a quotation mark, Excel in many countries semicolons and a first line `sep=;`, pandas
quotes fields of a TSV. Read as plain CSV each gives damaged prompts, and no error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from promptmill.schemas.errors import InputError, Problem
from promptmill.schemas.prompts import Format

_SEP_LINE: Final = re.compile(r'"?sep=(.)"?\r?\n', re.IGNORECASE)
_DELIMITERS: Final = (",", ";", "\t", "|")
_SHOWN: Final = {"\t": "a tab", " ": "a blank"}


@dataclass(frozen=True)
class Dialect:
    """`quote` and `escape` are None where nothing is quoted or escaped; a quotation mark may always be doubled.

    `everywhere` is whether something is escaped outside of quotes too.
    """

    delimiter: str
    quote: str | None = '"'
    escape: str | None = None
    everywhere: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether Arrow reads it: it drops the sign before every escaped letter, `C:\\new` becomes `C:new`."""
        return self.escape is None and self.delimiter.isascii() and (self.quote or '"').isascii()

    def field(self) -> str:
        delimiter, nothing = re.escape(self.delimiter), r"(?!)"
        escaped = re.escape(self.escape) if self.escape else nothing
        outside = escaped if self.everywhere else nothing
        plain = rf"(?:{outside}[\s\S]|[^{delimiter}\n{re.escape(self.escape or '') if self.everywhere else ''}])*+"
        if self.quote is None:
            return plain
        quote = re.escape(self.quote)
        inside = rf"(?:{escaped}[\s\S]|{quote}{quote}|[^{quote}{re.escape(self.escape or '')}])*+"
        return rf"(?:{quote}{inside}{quote}|(?!{quote}){plain})"

    def record(self) -> re.Pattern[str]:
        """A row with the end of its line."""
        field = self.field()
        return re.compile(rf"{field}(?:{re.escape(self.delimiter)}{field})*+(?:(?<=\r)\n|\r?\n|\Z)")

    def cells(self) -> re.Pattern[str]:
        """A field as it is written, and what ends it."""
        return re.compile(rf"({self.field()})({re.escape(self.delimiter)}|\r?\n|\Z)")


@dataclass(frozen=True)
class Separated:
    """Text as `dialect` writes it. `skipped` lines stood before it; `notices` say what was found out."""

    text: str
    dialect: Dialect
    skipped: int = 0
    notices: tuple[str, ...] = ()


def find_dialect(text: str, tabs: bool, prompt: str, declared: Format, where: str) -> Separated:
    """Raises InputError, with the line, for text that is written in no way that is known or declared."""
    usual = Dialect("\t", None) if tabs else Dialect(",")
    skipped, told = 0, []
    sep = _SEP_LINE.match(text)
    if sep is not None and declared.separator in (None, sep[1]):
        text, skipped = text[sep.end() :], 1
    delimiter = declared.separator or (sep[1] if sep else _delimiter(text, usual.delimiter, prompt))
    if delimiter != usual.delimiter and declared.separator is None:
        told.append(f"{_SHOWN.get(delimiter, delimiter)} between fields")
    found = _with_quoting(text, replace(usual, delimiter=delimiter), declared, where, skipped)
    if found.quote != usual.quote and declared.quoting is None:
        told.append("quotation marks around fields")
    if found.escape is not None and declared.escape is None:
        told.append(f"{found.escape}{found.quote} for a quotation mark")
    notices = (f"{where}: read with {' and '.join(told)}; prompts.format says otherwise if that is wrong",)
    return Separated(text, found, skipped, notices if told else ())


def _delimiter(text: str, usual: str, prompt: str) -> str:
    """The one that gives the header a column of prompts, else most columns; the usual one where none is better."""
    line = text.lstrip("\n").partition("\n")[0].rstrip("\r")
    candidates = [usual, *(each for each in _DELIMITERS if each != usual)]
    names = {each: [name.strip().strip("\"'") for name in line.split(each)] for each in candidates}
    return max(candidates, key=lambda each: (prompt in names[each], prompt in names[usual] or len(names[each])))


def _with_quoting(text: str, usual: Dialect, declared: Format, where: str, skipped: int) -> Dialect:
    quote = usual.quote if declared.quoting is None else declared.quote
    if declared.escape is not None or declared.quoting is not None:
        escape = declared.escape
        tries = [Dialect(usual.delimiter, quote, None if escape == quote else escape, everywhere=escape is not None)]
    elif quote is None:
        return _of_tsv(text, usual)
    else:
        tries = [replace(usual, quote=quote)]
        tries += [replace(tries[0], escape="\\")] if f"\\{quote}" in text else []
    if tries[0].is_plain and (tries[0].quote is None or tries[0].quote not in text):
        return tries[0]
    bad = [first_bad(text, each) for each in tries]
    fitting = next((each for each, place in zip(tries, bad, strict=True) if place is None), None)
    if fitting is None:
        raise _no_row(text, max(place for place in bad if place is not None), tries[0], where, skipped)
    return fitting


def _of_tsv(text: str, usual: Dialect) -> Dialect:
    """IANA's text/tab-separated-values has no quoting; pandas quotes fields that need it, and doubles marks in them."""
    quoted = replace(usual, quote='"')
    if '"' not in text or first_bad(text, quoted) is not None:
        return usual
    rows = rows_of(text, quoted)
    header = next(rows, [])
    proof = any(cell.startswith('"') for cell in header) or any(map(_needs_quotes, (c for row in rows for c in row)))
    return quoted if proof else usual


def _needs_quotes(cell: str) -> bool:
    return cell.startswith('"') and any(sign in cell[1:-1] for sign in ('""', "\t", "\n"))


def first_bad(text: str, dialect: Dialect) -> int | None:
    """Where the first row begins that the dialect cannot have written, or that has other fields than the header."""
    record, place, width = dialect.record(), 0, None
    cells = dialect.cells()
    while place < len(text):
        found = record.match(text, place)
        if found is None or found.end() == place:
            return place
        if found[0].strip("\r\n"):
            here = _width(found[0], cells, dialect.delimiter)
            width = here if width is None else width
            if here != width:
                return place
        place = found.end()
    return None


def _width(row: str, cells: re.Pattern[str], delimiter: str) -> int:
    count, place = 1, 0
    while (found := cells.match(row, place)) is not None and found[2] == delimiter:
        count, place = count + 1, found.end()
    return count


def rows_of(text: str, dialect: Dialect) -> Iterator[list[str]]:
    """The fields of each row as they are written."""
    cells, place, row = dialect.cells(), 0, list[str]()
    while place < len(text):
        found = cells.match(text, place)
        if found is None:
            return
        place = found.end()
        row.append(found[1].removesuffix("\r") if found[2] != dialect.delimiter else found[1])
        if found[2] != dialect.delimiter:
            yield row
            row = []
    if row:
        yield [*row, ""]


def as_plain_csv(text: str, dialect: Dialect) -> str:
    """The same rows as Arrow reads them: commas, and marks that are doubled."""
    return "".join(
        ",".join(_plain(cell, dialect) for cell in row) + "\n" for row in rows_of(text, dialect) if row != [""]
    )


def _plain(cell: str, dialect: Dialect) -> str:
    quote, escape = dialect.quote or "", dialect.escape
    is_quoted = bool(quote) and cell.startswith(quote)
    if not is_quoted and cell == "\\N" and escape == "\\":
        return ""  # as MySQL writes NULL
    value = cell[1:-1] if is_quoted else cell
    pairs = [re.escape(quote * 2)] if is_quoted else []
    if escape and (is_quoted or dialect.everywhere):
        pairs += [rf"{re.escape(escape)}{re.escape(sign)}" for sign in (quote, escape, dialect.delimiter, "\n") if sign]
    if pairs:
        value = re.sub("|".join(pairs), lambda found: found[0][1], value)
    if not is_quoted and not re.search(r'[",\n\r]', value):
        return value
    return '"' + value.replace('"', '""') + '"'


def _no_row(text: str, place: int, dialect: Dialect, where: str, skipped: int, said: str = "") -> InputError:
    line = text.count("\n", 0, place) + 1 + skipped
    got = text[place : place + 120].partition("\n")[0].rstrip("\r")
    between = _SHOWN.get(dialect.delimiter, repr(dialect.delimiter))
    expected = (
        f"the same number of fields in every row, {between} between them, marks in quoted ones doubled or escaped"
    )
    hint = "Mend the row, or say in prompts.format: {delimiter, quoting, escape} how the file is written"
    return InputError(Problem(f"{where}:{line}", expected, repr(got) + said, hint))


def refuse_row(separated: Separated, where: str, said: str) -> None:
    """Raises InputError with the line of a row that Arrow did not take; `said` is what it has against the text."""
    place = first_bad(separated.text, separated.dialect)
    if place is not None:
        raise _no_row(separated.text, place, separated.dialect, where, separated.skipped, f" ({said})")
