"""Folders that are tables or partitions, and pointers in place of files."""

from __future__ import annotations

import base64
import gzip
import json
import string
import struct
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from promptmill.pipeline.prompts.reader import PromptReader
from promptmill.pipeline.prompts.source import Source, open_source
from promptmill.pipeline.prompts.staging import stage
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import InputError
from promptmill.schemas.prompts import Columns, Prompts


def opened(source: object, **columns: str) -> Source:
    return open_source(Prompts(source=str(source), columns=Columns(**columns)))


def rows(source: object, out: Path, **columns: str) -> list[dict[str, Any]]:
    """As a shard reads them: each prompt with the columns that are carried."""
    prompts = Prompts(source=str(source), columns=Columns(**columns))
    found, store = open_source(prompts), Store(str(out))
    reader = PromptReader(stage(found.files, prompts, store), store, found.schema, prompts.columns)
    block = reader.read(0, found.rows)
    carried = block.passthrough.to_pylist()
    return [{"prompt": prompt.prompt, **more} for prompt, more in zip(block.prompts, carried, strict=True)]


def delta(folder: Path) -> Path:
    """A table with a deleted row, two that were compacted, and a folder with a blank in its name."""
    table = pa.table({"prompt": ["a", "b", "c"], "lang": ["e n", "e n", "de"]})
    write_deltalake(str(folder), table, partition_by=["lang"])
    write_deltalake(str(folder), pa.table({"prompt": ["d"], "lang": ["de"]}), mode="append")
    DeltaTable(str(folder)).delete("prompt = 'a'")
    DeltaTable(str(folder)).optimize.compact()
    return folder


@pytest.mark.parametrize("source", ["t", "t/", "t/**/*.parquet", "t/*/*.parquet", ".", "./t"])
def test_a_delta_table_is_what_its_log_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """Loose files gave deleted rows back, and compacted ones twice."""
    delta(tmp_path / "t")
    monkeypatch.chdir(tmp_path)
    found = sorted((row["prompt"], row["lang"]) for row in rows(source, tmp_path / "out"))
    assert found == [("b", "e n"), ("c", "de"), ("d", "de")]
    assert any("Delta table, read as of its version 3" in notice for notice in opened(source).notices)


def test_a_part_of_a_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a part of a table \(Delta\)"):
        opened(delta(tmp_path / "t") / "lang=de")
    (tmp_path / "t" / "lang=de" / "gone").mkdir()
    for file in (tmp_path / "t" / "lang=de").glob("*.parquet"):
        file.rename(file.parent / "gone" / file.name)
    with pytest.raises(InputError, match="nothing there"):
        (tmp_path / "t" / "lang=de" / "x.parquet").write_bytes(b"")
        opened(tmp_path / "t")


def test_without_deltalake_a_delta_table_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    delta(tmp_path / "t")
    monkeypatch.setitem(sys.modules, "deltalake", None)
    with pytest.raises(InputError, match=r"Install promptmill\[delta\]"):
        opened(tmp_path / "t")


def deletion_of_row_0() -> dict[str, Any]:
    """A deletion vector inside the log: magic number, one bitmap of one container with the value 0, in Z85."""
    bitmap = struct.pack("<iQI2I2HIH", 1681511377, 1, 0, 12346, 1, 0, 0, 16, 0)
    rfc1924 = string.digits + string.ascii_uppercase + string.ascii_lowercase + "!#$%&()*+-;<=>?@^_`{|}~"
    z85 = string.digits + string.ascii_lowercase + string.ascii_uppercase + ".-:+=^!/*?&<>()[]{}@%$#"
    inline = base64.b85encode(bitmap + b"\0\0").decode().translate(str.maketrans(rfc1924, z85))
    return {"storageType": "i", "pathOrInlineDv": inline, "sizeInBytes": len(bitmap), "cardinality": 1}


@pytest.mark.parametrize(
    ("action", "more", "expected"),
    [
        ("metaData", {"configuration": {"delta.columnMapping.mode": "name"}}, "(?i)column mapping"),
        ("add", {"deletionVector": deletion_of_row_0()}, "Purge it"),
    ],
    ids=["mapping", "deletions"],
)
def test_what_the_files_of_a_delta_table_do_not_say(tmp_path: Path, action: str, more: Any, expected: str) -> None:
    """Deletion vectors and mapped columns stand beside the files: read alone, they give rows back or odd names."""
    write_deltalake(str(tmp_path / "t"), pa.table({"prompt": ["a", "b"]}))
    log = tmp_path / "t" / "_delta_log" / f"{0:020d}.json"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    features = {key: ["deletionVectors", "columnMapping"] for key in ("readerFeatures", "writerFeatures")}
    for line in lines:
        if "protocol" in line:
            line["protocol"] = {"minReaderVersion": 3, "minWriterVersion": 7, **features}
        if action in line:
            line[action] |= more
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InputError, match=expected):
        opened(tmp_path / "t")


@pytest.mark.parametrize(
    ("kind", "log", "data"),
    [
        ("Iceberg", "metadata/v1.metadata.json", "data/a.parquet"),
        ("Hudi", ".hoodie/hoodie.properties", "a.parquet"),
        ("Lance", "_versions/1.manifest", "data/a.parquet"),
    ],
)
def test_other_tables_are_refused_by_name(tmp_path: Path, kind: str, log: str, data: str) -> None:
    for name in (log, data):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    pq.write_table(pa.table({"prompt": ["a"]}), tmp_path / data)
    for source in (tmp_path, tmp_path / "**" / "*.parquet", *([tmp_path / "data"] if "/" in data else [])):
        with pytest.raises(InputError, match=kind):
            opened(source)


def test_columns_in_the_names_of_folders(tmp_path: Path) -> None:
    """They were left out without a word."""
    for name, text in {
        "split=train/lang=en/a.csv": "prompt,n\na,1\n",
        "split=train/lang=a%20b/a.csv": "prompt,n\nb,2\n",
        "split=007/lang=__HIVE_DEFAULT_PARTITION__/a.csv": "prompt,n\nc,3\n",
        "z.csv": "prompt,n\nd,4\n",
    }.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text(text)
    (tmp_path / "p" / "lang=en" / "n=9").mkdir(parents=True)
    pq.write_table(pa.table({"prompt": ["a"], "N": [1]}), tmp_path / "p" / "lang=en" / "n=9" / "a.parquet")
    found = {row["prompt"]: (row["split"], row["lang"], row["n"]) for row in rows(tmp_path / "in", tmp_path / "out")}
    assert found == {"a": ("train", "en", 1), "b": ("train", "a b", 2), "c": ("007", None, 3), "d": (None, None, 4)}
    assert rows(tmp_path / "p", tmp_path / "out") == [{"prompt": "a", "N": 1, "lang": "en"}]
    assert rows(tmp_path / "p" / "**" / "*.parquet", tmp_path / "out", caption="lang") == [{"prompt": "a", "N": 1}]


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_a_column_in_the_name_of_a_folder_as_the_id(tmp_path: Path, name: str) -> None:
    """It ended in an IndexError, of text files in a KeyError."""
    folder = tmp_path / "in" / "batch=7"
    folder.mkdir(parents=True)
    table = pa.table({"prompt": ["a", "b"]})
    pq.write_table(table, folder / name) if name == "a.parquet" else (folder / name).write_text("prompt\na\nb\n")
    with pytest.raises(InputError, match="unique over the whole source.*'7', which"):
        opened(tmp_path / "in", id="batch")
    (tmp_path / "in" / f"b{name[1:]}").write_bytes((folder / name).read_bytes())
    with pytest.raises(InputError, match="an id in column 'batch' of every row, got null"):
        opened(tmp_path / "in", id="batch")


def test_a_bucket_that_is_called_data(tmp_path: Path) -> None:
    """It was taken for a folder inside of a table, and what lies above it for a URL: `memory:/`."""
    Store("memory://data").put("a.csv", b"prompt\na red circle\n")
    try:
        assert opened("memory://data/*.csv").rows == 1
    finally:
        Store("memory://data").delete("a.csv")


@pytest.mark.parametrize("name", ["a.parquet", "a.pq", "a.csv", "a.tsv", "a.jsonl", "a.txt", "a.csv.gz", "a.txt.zst"])
def test_pointers_of_git_lfs_are_refused_by_name(tmp_path: Path, name: str) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    (tmp_path / name).write_bytes(pointer)
    with pytest.raises(InputError, match="Git LFS pointer") as caught:
        opened(tmp_path / name)
    assert name in str(caught.value)
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(b"prompt\na\n"))
    assert opened(tmp_path / "b.csv.gz").rows == 1
