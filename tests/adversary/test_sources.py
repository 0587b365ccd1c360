"""Prompt files that are bombs, no files, or end the native reader: refused by name, soon, in little memory."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptmill.pipeline.prompts.first_look import LookError, first_look
from promptmill.pipeline.prompts.source import open_source
from promptmill.schemas.errors import JobError
from promptmill.schemas.prompts import Prompts
from tests.engine.conftest import Answer

LETTERS = b"a" * (72 << 20)


def _parquet(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def _dictionary(megabytes: int, rows: int, letter: str = "x") -> bytes:
    """Rows that all have the one long value."""
    value = pa.array([letter * (megabytes << 20)])
    column = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), value)
    return _parquet(pa.table({"prompt": column}), compression="zstd", dictionary_pagesize_limit=1 << 30)


def _deltas(megabytes: int, rows: int) -> bytes:
    """Values that say only in what they differ from the one before."""
    options = {"use_dictionary": False, "column_encoding": {"prompt": "DELTA_BYTE_ARRAY"}, "compression": "zstd"}
    return _parquet(pa.table({"prompt": ["x" * (megabytes << 20)] * rows}), write_statistics=False, **options)


BOMBS: dict[str, Callable[[], bytes]] = {
    "letters.csv.gz": lambda: gzip.compress(b"prompt\n" + LETTERS, 9),
    "letters.txt.bz2": lambda: bz2.compress(LETTERS, 1),
    "letters.tsv.xz": lambda: lzma.compress(b"prompt\n" + LETTERS, preset=0),
    "letters.jsonl.zst": lambda: bytes(pa.compress(LETTERS, "zstd", asbytes=True)),
    "one-value.parquet": lambda: _dictionary(65, 64),
    "one-value-often.parquet": lambda: _dictionary(1, 4000),
    "deltas.parquet": lambda: _deltas(8, 160),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(name: str, tmp_path: Path, cli: Callable[..., Answer], job: Callable[..., Path]) -> None:
    (tmp_path / name).write_bytes(BOMBS[name]())
    started = time.monotonic()
    answer = cli(
        "validate", job(prompts={"source": str(tmp_path / name)}, score=None, model={"path": "builtin:shapes"})
    )
    assert answer.code == 2, answer
    assert "Traceback" not in answer.err
    assert name in answer.err
    assert time.monotonic() - started < 30


def test_a_bomb_in_little_memory(tmp_path: Path) -> None:
    """64 rows of one value of 200 MiB in 20 kB; the 13 GB of it were taken in one step before.

    The process of the first look is bounded by the system, and is not counted.
    """
    (tmp_path / "bomb.parquet").write_bytes(_dictionary(200, 64))
    assert (tmp_path / "bomb.parquet").stat().st_size < 100_000
    (tmp_path / "job.yaml").write_text(
        f"name: bomb\nprompts: {{source: {tmp_path}/bomb.parquet}}\noutput: {{url: {tmp_path}/out}}\n"
    )
    measure = (
        "import pathlib, sys\n"
        "from promptmill.jobs.cli import main\n"
        "sys.argv = ['promptmill', 'validate', sys.argv[1]]\n"
        "try: main()\n"
        "except SystemExit as end: code = end.code\n"
        "print(code, pathlib.Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", measure, str(tmp_path / "job.yaml")],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    code, kilobytes = answer.stdout.split()[-2:]
    assert code == "2", answer
    assert int(kilobytes) < 600_000


@pytest.mark.parametrize("named", [True, False], ids=["named", "in a folder"])
@pytest.mark.parametrize("suffix", ["csv", "parquet", "txt.gz", "jsonl"])
@pytest.mark.parametrize("kind", ["fifo", "socket", "endless", "folder", "link to a fifo"])
def test_what_is_no_file(
    kind: str, suffix: str, named: bool, tmp_path: Path, cli: Callable[..., Answer], job: Callable[..., Path]
) -> None:
    """A FIFO was waited for and /dev/zero read until memory ended."""
    folder = tmp_path / "odd"
    folder.mkdir()
    path = folder / f"x.{suffix}"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link to a fifo":
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to(tmp_path / "pipe")
    elif kind == "endless":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        here = Path.cwd()
        os.chdir(folder)  # names of sockets are short
        socket.socket(socket.AF_UNIX).bind(path.name)
        os.chdir(here)
    answer = cli("validate", job(prompts={"source": str(path if named else folder)}, score=None))
    assert answer.code == 2, answer
    assert "Traceback" not in answer.err


def test_the_other_files_of_a_folder_are_read(
    tmp_path: Path, cli: Callable[..., Answer], job: Callable[..., Path], source: Path
) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    os.mkfifo(folder / "a.csv")
    (folder / "b.csv").symlink_to("/dev/zero")
    (folder / "c.parquet").write_bytes(source.read_bytes())
    assert cli("plan", job(prompts={"source": str(folder)}, score=None), "--json").json["prompts"] == 4


@pytest.mark.parametrize("kind", ["fifo", "endless"])
@pytest.mark.parametrize("name", ["job.json", "segments/000000002.json", "receipts/part-000000.json"])
def test_objects_of_a_dataset_that_are_no_files(
    kind: str, name: str, tmp_path: Path, cli: Callable[..., Answer], job: Callable[..., Path]
) -> None:
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    os.mkfifo(path) if kind == "fifo" else path.symlink_to("/dev/zero")
    for command in ("status", "verify", "report"):
        assert cli(command, tmp_path / "out").code in (2, 4)


def test_a_job_file_without_end(cli: Callable[..., Answer], tmp_path: Path) -> None:
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    assert cli("validate", tmp_path / "zero.yaml").code == 2


def _flipped(data: bytes, flips: list[tuple[int, int]]) -> bytes:
    """Bytes of the footer, which begins where its length says."""
    length = int.from_bytes(data[-8:-4], "little")
    begin = len(data) - 8 - length
    spoiled = bytearray(data)
    for place, value in flips:
        spoiled[begin + place % (length + 4)] = value
    return bytes(spoiled)


def _table() -> pa.Table:
    return pa.table({"prompt": [f"a red circle {i}" for i in range(50)], "l": [[i] for i in range(50)]})


def _killers() -> list[bytes]:
    """Footers that end the native reader: found by flipping bytes, and by hand from what was found."""
    found = []
    data = _parquet(_table())
    length = int.from_bytes(data[-8:-4], "little")
    for place in range(length):
        for value in (0, 1, 255):
            found.append((place, value))
    return [_flipped(data, [flip]) for flip in found]


def test_bytes_that_end_the_native_reader(tmp_path: Path, cli: Callable[..., Answer], job: Callable[..., Path]) -> None:
    """Each byte of a footer in turn; some ended the process by SIGABRT or SIGSEGV, without a word."""
    ended: list[bytes] = []
    with first_look() as look:
        for data in _killers()[::7]:
            try:
                look.footer(data)
            except LookError as error:
                if "native reader" in str(error):
                    ended.append(data)
            if len(ended) == 2:
                break
    assert ended, "no byte ends the reader any more: this page may be done with"
    folder = tmp_path / "killers"
    folder.mkdir()
    for i, data in enumerate(ended):
        (folder / f"{i}.parquet").write_bytes(data)
    answer = cli("validate", job(prompts={"source": str(folder)}, score=None))
    assert answer.code == 2, answer
    assert "0.parquet" in answer.err
    assert "native reader" in answer.err.replace("\n", " ")


def test_an_answer_that_is_cut_off_is_a_death() -> None:
    """A reader that died while it wrote was taken for one that speaks no JSON: a defect, exit code 1."""
    speaker = [sys.executable, "-c", "import sys; sys.stdin.buffer.readline(); sys.stdout.write('{\"rows')"]
    with first_look() as look:
        look._process = subprocess.Popen(speaker, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        with pytest.raises(LookError, match="end the native reader"):
            look.footer(b"")


def test_a_machine_that_gives_less_memory_than_the_first_look_asks_for(tmp_path: Path) -> None:
    """A hard limit below its own ended it before it had looked, and the file was blamed."""
    (tmp_path / "a.parquet").write_bytes(_parquet(_table()))
    script = (
        "import resource, pathlib; from promptmill.pipeline.prompts.first_look import first_look\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))\n"
        f"data = pathlib.Path({str(tmp_path / 'a.parquet')!r}).read_bytes()\n"
        "with first_look() as look: print(look.footer(data).rows)"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (answer.stdout, answer.stderr) == ("50\n", "")


@settings(max_examples=6, deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), min_size=1, max_size=3), min_size=20))
def test_any_bytes_in_a_footer(files: list[list[tuple[int, int]]]) -> None:
    """In lots: a process meets them all, and each that ends it costs another."""
    with tempfile.TemporaryDirectory() as folder:
        for i, flips in enumerate(files):
            Path(folder, f"{i}.parquet").write_bytes(_flipped(_parquet(_table(), write_page_index=True), flips))
        with contextlib.suppress(JobError):
            open_source(Prompts(source=folder))
