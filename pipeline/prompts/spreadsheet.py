"""The first sheet of an Excel file as rows: its first line names the columns."""

from __future__ import annotations

import datetime
import io
import zipfile
from importlib.util import find_spec
from typing import Any, Final

from promptmill.pipeline.display import cut
from promptmill.pipeline.prompts.unpacking import is_bomb
from promptmill.schemas.errors import InputError, Problem

MOST_BYTES: Final = 1 << 30


def spreadsheet_rows(data: bytes, where: str) -> tuple[list[str], list[list[Any]]]:
    """Names, and rows of as many values; rows without any value are left out. Raises InputError."""
    if find_spec("python_calamine") is None:
        hint = "Install promptmill[excel], or save the sheet as CSV"
        raise InputError(Problem(where, "python-calamine, to read a spreadsheet", "it is not installed", hint))
    from python_calamine import CalamineError, CalamineWorkbook

    _refuse_bomb(data, where)
    try:
        sheet = CalamineWorkbook.from_filelike(io.BytesIO(data)).get_sheet_by_index(0)
        lines = [[_value(cell) for cell in line] for line in sheet.to_python(skip_empty_area=True)]
    except (CalamineError, OSError, ValueError, IndexError) as error:
        raise InputError(Problem(where, "an Excel file with a sheet", cut(error, 200), "Save it again")) from None
    filled = [line for line in lines if any(cell is not None for cell in line)]
    if len(filled) < 2:
        raise InputError(Problem(where, "a line of column names, and prompts below it", f"{len(filled)} line(s)"))
    width = max(i + 1 for line in filled for i, cell in enumerate(line) if cell is not None)
    header, *rows = ([*line, *[None] * width][:width] for line in filled)
    names = ["" if name is None else str(name) for name in header]
    if len(set(names)) < width or "" in names:
        raise InputError(Problem(where, "each column name once, in the first line", f"columns {names}"))
    return names, rows


def _value(cell: Any) -> Any:
    """Excel holds every number as a float, and no empty text."""
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 1 << 53:
        return int(cell)
    if isinstance(cell, datetime.date | datetime.time | datetime.timedelta):
        return str(cell)
    return None if cell == "" else cell


def _refuse_bomb(data: bytes, where: str) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            size = sum(part.file_size for part in packed.infolist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise InputError(Problem(where, "an Excel file (.xlsx)", cut(error, 200), "Save it again")) from None
    if size > MOST_BYTES or is_bomb(len(data), size):
        got = f"{len(data):,} bytes that unpack to {size:,}"
        raise InputError(Problem(where, "a sheet of prompts", got, "Give such a source as Parquet"))
