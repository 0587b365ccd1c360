"""Commands that read rows, over a dataset of which one object is damaged."""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.adversary.test_objects import _other, check, parquet_of
from tests.engine.conftest import Answer
from tests.heart.conftest import home

Cli = Callable[..., Answer]
Damage = Callable[[bytes], bytes]

__all__ = ["home"]


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    """In the pages, not in the footer."""
    place = len(content) // 3
    return content[:place] + bytes(255 - byte for byte in content[place : place + 64]) + content[place + 64 :]


def nothing(content: bytes) -> bytes:
    return b""


def strange(content: bytes) -> bytes:
    return b"PAR1" + content[4:-4][::-1] + b"PAR1"


def columns_gone(content: bytes) -> bytes:
    table = pq.read_table(io.BytesIO(content))
    return written(table.select([name for name in table.column_names if name in ("sample_id", "prompt_id")]))


def columns_other(content: bytes) -> bytes:
    table = pq.read_table(io.BytesIO(content))
    for place, name in enumerate(table.column_names):
        table = table.set_column(place, name, _other(table.column(name), "struct"))
    return written(table)


def columns_null(content: bytes) -> bytes:
    table = pq.read_table(io.BytesIO(content))
    for place, name in enumerate(table.column_names):
        table = table.set_column(place, name, pa.nulls(len(table)))
    return written(table)


def written(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


DAMAGES: list[Damage] = [half, flipped, nothing, strange, columns_gone, columns_other, columns_null]


@pytest.mark.parametrize("folder", ["data", "rejects", "failures"])
def test_commands_that_read_rows(folder: str, home: Path, cli: Cli) -> None:
    """A retry, a score and a reproduction ended in tracebacks of Arrow's."""
    made, saved = home / "dataset", home / "saved"
    path = parquet_of(made, folder)
    sample = pq.read_table(path, columns=["sample_id"])[0][0]
    commands = (
        ("retry", "dataset", "--in-process", "--trust-dataset"),
        ("reproduce", "dataset", sample.as_py(), "--trust-dataset", "--out", "made.png"),
        ("export", "dataset", "tree", "--layout", "geneval"),
        ("select", "dataset", "--keep", "1", "--by", "clip"),
        ("compare", "dataset", "dataset"),
        ("score", "dataset", "--metric", "image"),
        ("report", "dataset"),
    )
    shutil.copytree(made, saved)
    for position, damage in enumerate(DAMAGES):
        path.write_bytes(damage(path.read_bytes()))
        for command in commands[position % 4 :: 4]:  # each command meets some: all pairs take five minutes
            check(cli(*command), time.monotonic())
            shutil.rmtree(home / "tree", ignore_errors=True)
        shutil.rmtree(made)
        shutil.copytree(saved, made)


def test_a_report_says_whose_images_it_leaves_out(home: Path, cli: Cli) -> None:
    """The rest of the object is whole: its rows count, and their pictures were missing without a word."""
    path = parquet_of(home / "dataset", "data")
    group = pq.read_metadata(path).row_group(0)
    columns = (group.column(place) for place in range(group.num_columns))
    start = next(column.data_page_offset for column in columns if column.path_in_schema == "image.bytes")
    content = bytearray(path.read_bytes())
    content[start : start + 32] = bytes(255 - byte for byte in content[start : start + 32])
    path.write_bytes(content)
    answer = cli("report", "dataset", "--json")
    assert answer.code == 0, answer
    assert [
        problem
        for problem in answer.json["problems"]
        if problem.startswith("images are left out") and path.name in problem
    ]
