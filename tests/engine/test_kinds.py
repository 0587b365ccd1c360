"""Files as other tools write them: one kind of thing in many Arrow types."""

from __future__ import annotations

import io
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from promptmill.pipeline.dataset import records as records_module
from promptmill.pipeline.dataset.records import RecordWriter, to_parquet
from promptmill.pipeline.prompts.kinds import as_kind, carried, common
from promptmill.schemas.records import passthrough_names
from tests.engine.conftest import records

TEXTS = ["a red circle", "a blue square"]
IDS = [uuid.UUID(int=1), uuid.UUID(int=2)]
UUIDS = pa.array([one.bytes for one in IDS], pa.uuid())
AS_TEXT = {
    "string_view": pa.array(TEXTS, pa.string_view()),
    "large_string": pa.array(TEXTS, pa.large_string()),
    "dictionary": pa.array(TEXTS).dictionary_encode(),
    "json": pa.array(TEXTS, pa.json_()),
}


@pytest.mark.parametrize("kind", AS_TEXT)
def test_prompts_are_text_in_whatever_type(cli: Any, job: Any, tmp_path: Path, kind: str) -> None:
    pq.write_table(pa.table({"prompt": AS_TEXT[kind], "mine": AS_TEXT[kind]}), tmp_path / "p.parquet")
    answer = cli("run", job(prompts={"source": str(tmp_path / "p.parquet")}), "--in-process")
    assert answer.code == 0, answer.err
    rows = records(tmp_path / "out")
    assert [(row["prompt"], row["mine"]) for row in rows[::2]] == [(text, text) for text in TEXTS]


def test_columns_that_nobody_mapped_are_carried(cli: Any, job: Any, tmp_path: Path) -> None:
    """They were refused, or ended the run in a traceback after the images were made."""
    table = pa.table(
        {
            "key": UUIDS,
            "prompt": pa.array(TEXTS, pa.string_view()),
            "blob": pa.array([b"\x00", None], pa.binary_view()),
            "tags": pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int64())),
            "deep": pa.StructArray.from_arrays([pa.ListArray.from_arrays([0, 1, 1], UUIDS[:1])], ["ids"]),
            "views": pa.array([["x"], []], pa.list_view(pa.string())),
            "Seed": pa.array([7, 8]),
        }
    )
    pq.write_table(table, tmp_path / "p.parquet")
    path = job(prompts={"source": str(tmp_path / "p.parquet"), "columns": {"id": "key"}})
    answer = cli("run", path, "--in-process")
    assert answer.code == 0, answer.err
    assert "'tags' is a map" in answer.err
    first = records(tmp_path / "out")[0]
    assert (first["prompt_id"], first["blob"], first["tags"]) == (str(IDS[0]), b"\x00", [{"key": "a", "value": 1}])
    assert (first["deep"], first["views"], first["input_Seed"]) == ({"ids": [str(IDS[0])]}, ["x"], 7)
    files = str(tmp_path / "out" / "data" / "*.parquet")
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.num_rows == 4


def test_files_of_several_tools_are_one_source(cli: Any, job: Any, tmp_path: Path) -> None:
    """pandas 3 beside DuckDB was refused, also by `--extend`."""
    (tmp_path / "s").mkdir()
    kinds = [(pa.large_string(), pa.int32()), (pa.string(), pa.int64()), (pa.string_view(), pa.uint16())]
    for i, (text, whole) in enumerate(kinds[:2]):
        table = pa.table({"prompt": pa.array([TEXTS[i]], text), "n": pa.array([i], whole)})
        pq.write_table(table, tmp_path / "s" / f"{i}.parquet")
    path = job(prompts={"source": str(tmp_path / "s")})
    assert cli("run", path, "--in-process").code == 0
    table = pa.table({"prompt": pa.array(["a green square"], kinds[2][0]), "n": pa.array([2], kinds[2][1])})
    pq.write_table(table, tmp_path / "s" / "2.parquet")
    assert cli("run", path, "--in-process", "--extend").code == 0
    assert sorted({row["n"] for row in records(tmp_path / "out")}) == [0, 1, 2]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (pa.string(), pa.large_string(), pa.large_string()),
        (pa.dictionary(pa.int8(), pa.string()), pa.string(), pa.string()),
        (pa.int32(), pa.int64(), pa.int64()),
        (pa.uint32(), pa.int8(), pa.int64()),
        (pa.uint64(), pa.int64(), None),
        (pa.float32(), pa.float64(), pa.float64()),
        (pa.int64(), pa.float64(), None),
        (pa.timestamp("ms"), pa.timestamp("us"), pa.timestamp("us")),
        (pa.timestamp("ms"), pa.timestamp("us", "UTC"), None),
        (pa.list_(pa.int32()), pa.large_list(pa.int64()), pa.large_list(pa.int64())),
        (pa.struct([("a", pa.int32())]), pa.struct([("a", pa.int64())]), pa.struct([("a", pa.int64())])),
        (pa.struct([("a", pa.int32())]), pa.struct([("b", pa.int32())]), None),
        (pa.string(), pa.int64(), None),
        (pa.null(), pa.int64(), pa.int64()),
        (pa.decimal32(5, 2), pa.decimal128(12, 3), pa.decimal128(12, 3)),
        (pa.decimal128(38, 0), pa.decimal128(38, 38), pa.decimal256(76, 38)),
        (pa.list_(pa.float32(), 2), pa.list_(pa.float64()), pa.large_list(pa.float64())),
        (pa.binary(4), pa.binary(), pa.large_binary()),
        (pa.date32(), pa.date64(), pa.date32()),
        (pa.bool8(), pa.bool_(), pa.bool_()),
    ],
    ids=str,
)
def test_two_types_meet_where_nothing_is_lost(first: Any, second: Any, expected: Any) -> None:
    assert common(first, second) == expected
    assert common(second, first) == expected


def test_values_keep_themselves_in_the_carried_type() -> None:
    pairs = pa.FixedSizeListArray.from_arrays(UUIDS, 2)
    assert as_kind(pa.chunked_array([pairs]), carried(pairs.type)).to_pylist() == [[str(one) for one in IDS]]
    small = pa.chunked_array([pa.array([Decimal("1.5")], pa.decimal32(5, 2))])
    assert as_kind(small, carried(small.type)).to_pylist() == [Decimal("1.50")]
    assert carried(small.type) == pa.decimal128(5, 2), "`datasets` loads no decimals of 32 bits"
    column = pa.chunked_array([pa.MapArray.from_arrays([0, 1, 1], pa.array(["a"]), UUIDS[:1])])
    plain = as_kind(column, carried(column.type))
    assert plain.to_pylist() == [[{"key": "a", "value": str(IDS[0])}], []]
    with pytest.raises(pa.ArrowInvalid):
        as_kind(pa.chunked_array([[300]]), pa.int8())


@pytest.mark.parametrize(
    ("names", "written"),
    [
        (["Seed", "WIDTH", "tag"], ["input_Seed", "input_WIDTH", "tag"]),
        (["seed", "input_seed"], ["input_input_seed", "input_seed"]),
        (["Tag", "tag"], ["Tag", "input_tag"]),
    ],
)
def test_names_are_told_apart_in_whatever_case(names: list[str], written: list[str]) -> None:
    """Spark could not read the output, and DuckDB gave the wrong column."""
    assert passthrough_names(names) == written


def test_large_columns_are_written_in_row_groups_that_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above 2 GiB in a shard `take` overflowed, after the images were made, and again on each run."""
    monkeypatch.setattr(records_module, "_TAKE_BYTES", 1000)
    monkeypatch.setattr(records_module, "_ROW_GROUP_BYTES", 4000)
    passthrough = pa.table({"blob": [bytes([i]) * 1500 for i in range(6)], "n": list(range(6))})
    taken = records_module._taken(passthrough, [4, 4, 0, 2])
    assert taken.equals(passthrough.take(pa.array([4, 4, 0, 2])))
    data = to_parquet(taken)
    parquet = pq.ParquetFile(pa.BufferReader(data))
    assert parquet.num_row_groups == 2
    assert parquet.read().equals(taken)
    assert RecordWriter(["clip"], passthrough, {}).failed([]).num_rows == 0


def test_images_that_nobody_mapped_are_not_carried(cli: Any, job: Any, tmp_path: Path) -> None:
    """Each record held the images of its prompt besides its own: above 2 GiB a shard the run ended in a traceback."""
    sink = io.BytesIO()
    Image.new("RGB", (8, 8)).save(sink, "PNG")
    photo, hf = sink.getvalue(), pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table(
        {
            "prompt": TEXTS,
            "photo": pa.array([{"bytes": photo, "path": "a.png"}, None], hf),
            "views": pa.array([[{"bytes": photo, "path": None}], []], pa.list_(hf)),
            "raw": pa.array([None, photo], pa.large_binary()),
            "raw_view": pa.array([photo, photo], pa.binary_view()),
            "embedding": pa.array([b"\x00\x01", b"BMW"], pa.binary()),
            "size": pa.array([{"bytes": 3}, {"bytes": 4}]),
        }
    )
    pq.write_table(table, tmp_path / "p.parquet")
    source = {"source": str(tmp_path / "p.parquet")}
    answer = cli("validate", job(prompts=source), "--json")
    told = [notice for notice in answer.json["notices"] if "prompts.carry" in notice]
    assert [notice.split("'")[1] for notice in told] == ["photo", "views", "raw", "raw_view"]
    path = job(prompts={**source, "carry": ["raw"]}, generation={"images_per_prompt": 1})
    assert cli("run", path, "--in-process").code == 0
    rows = records(tmp_path / "out")
    assert [row["raw"] for row in rows] == [None, photo]
    assert rows[0]["embedding"] == b"\x00\x01" and rows[0]["size"] == {"bytes": 3}
    assert not {"photo", "views", "raw_view"} & rows[0].keys()
    answer = cli("validate", job(prompts={**source, "carry": ["foto"]}))
    assert (answer.code, "'foto'" in answer.err) == (2, True)
