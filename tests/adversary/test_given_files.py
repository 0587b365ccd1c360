"""Files that somebody else gave to `score`: tables of scores, captions, references, folders of Parquet."""

from __future__ import annotations

import contextlib
import io
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from promptmill.jobs.score import _captions
from promptmill.pipeline.evaluation.brought import _read
from promptmill.pipeline.prompts.bombs import check_strangers
from promptmill.pipeline.prompts.first_look import LookError, first_look
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import JobError
from tests.adversary.test_sources import _dictionary, _flipped, _parquet
from tests.engine.conftest import Answer

Cli = Callable[..., Answer]
DEEP = b"[" * 100_000 + b"]" * 100_000


def _scores() -> bytes:
    table = pa.table({"sample_id": ["0" * 32] * 4, "rating": [1.0, 2.0, 3.0, 4.0], "list": [[i] for i in range(4)]})
    return _parquet(table, write_page_index=True)


def _killer(data: bytes) -> bytes:
    """Bytes that end the native reader of Parquet: found by changing one of a footer at a time."""
    length = int.from_bytes(data[-8:-4], "little")
    with first_look() as look:
        for place in range(length):
            for value in (255, 0, 1):
                spoiled = _flipped(data, [(place, value)])
                try:
                    look.footer(spoiled)
                except LookError as error:
                    if "native reader" in str(error):
                        return spoiled
    pytest.skip("no byte ends the reader any more")


def _images() -> bytes:
    sink = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(sink, "PNG")
    return _parquet(pa.table({"image": [sink.getvalue()] * 8, "caption": ["a"] * 8, "l": [[i] for i in range(8)]}))


@pytest.fixture(scope="module")
def killer() -> bytes:
    return _killer(_images())


def test_tables_of_scores_that_are_none(tmp_path: Path, killer: bytes) -> None:
    files = {
        "killer.parquet": killer,
        "bomb.parquet": _dictionary(65, 64),
        "deep.jsonl": b'{"sample_id": ' + DEEP + b"}",
        "broken.jsonl": b'{"sample_id": "\xff\xfe"',
        "nothing.parquet": b"",
        "twice.csv": b"sample_id,a,a\nx,1,2\n",
        "none.tsv": b"",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    os.mkfifo(tmp_path / "fifo.csv")
    (tmp_path / "zero.jsonl").symlink_to("/dev/zero")
    (tmp_path / "folder.csv").mkdir()
    for name in (*files, "fifo.csv", "zero.jsonl", "folder.csv", "gone.tsv"):
        started = time.monotonic()
        with pytest.raises(JobError, match="--from"):
            _read(str(tmp_path / name), f"--from: {name}")
        assert time.monotonic() - started < 15, name


@pytest.mark.parametrize("form", ["parquet", "csv", "tsv", "jsonl"])
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), min_size=1, max_size=4))
def test_any_bytes_in_a_table_of_scores(form: str, flips: list[tuple[int, int]], tmp_path: Path) -> None:
    texts = {
        "csv": b"sample_id,a\nx,1\ny,2\n",
        "tsv": b"sample_id\ta\nx\t1\n",
        "jsonl": b'{"sample_id": "x", "a": 1}\n',
    }
    data = bytearray(texts.get(form, b""))
    for place, value in flips if data else ():
        data[place % len(data)] = value
    path = tmp_path / f"x.{form}"
    path.write_bytes(bytes(data) or _flipped(_scores(), flips))
    with contextlib.suppress(JobError):
        assert _read(str(path), "--from").num_columns >= 0


def test_captions_that_are_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for name in ("fifo", "zero", "bytes", ".", "gone"):
        with pytest.raises(JobError, match="--distractors"):
            _captions(str(tmp_path / name))
    (tmp_path / "good").write_bytes(b"\xef\xbb\xbfa cat\n\n a dog \n")
    assert _captions(str(tmp_path / "good")) == ["a cat", "a dog"]


def test_parquet_that_others_made_is_met_elsewhere_first(tmp_path: Path, killer: bytes, cli: Cli) -> None:
    for name, data in {"killer": killer, "bomb": _dictionary(65, 64), "text": b"x"}.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "good.parquet").write_bytes(_images())
        (folder / "odd.parquet").write_bytes(data)
        answer = cli("score", folder, "--metric", "image")
        assert answer.code == 2 and "odd.parquet" in answer.err.replace("\n", ""), answer
        assert "Traceback" not in answer.err
        answer = cli("score", folder, "--reference", folder, "--features", "builtin:shapes")
        assert answer.code == 2 and "odd.parquet" in answer.err.replace("\n", ""), answer
        assert sorted(path.name for path in folder.iterdir()) == ["good.parquet", "odd.parquet"]
        store = Store(str(folder))
        check_strangers(store, [entry for entry in store.list("") if "good" in entry.name])


def test_a_folder_that_was_scored_holds_scores_and_nothing_else(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "a.parquet").write_bytes(_images())
    assert cli("score", tmp_path, "--metric", "image").code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.parquet", "scores"]
    assert pq.read_table(next((tmp_path / "scores").iterdir())).num_rows == 8
