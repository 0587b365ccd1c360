"""CSV, TSV, JSON, Excel and plain text as other tools write them."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from promptmill.pipeline.prompts.reader import PromptReader
from promptmill.pipeline.prompts.source import Source, open_source
from promptmill.pipeline.prompts.staging import stage
from promptmill.pipeline.prompts.values import seed_of, strength_of
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import InputError
from promptmill.schemas.prompts import Columns, Format, Prompts

ODD = 'a "red", round; circle'


def prompts_of(path: object, **declared: str) -> Prompts:
    return Prompts(source=str(path), format=Format(**declared))


def texts(path: Path, **declared: str) -> list[str]:
    """As a shard reads them."""
    prompts = prompts_of(path, **declared)
    source, store = open_source(prompts), Store(str(path.parent / "out"))
    reader = PromptReader(stage(source.files, prompts, store), store, source.schema, prompts.columns)
    return [prompt.prompt for prompt in reader.read(0, source.rows).prompts]


def told(path: Path, **declared: str) -> str:
    return " ".join(open_source(prompts_of(path, **declared)).notices)


def written(**how: Any) -> str:
    sink = io.StringIO()
    rows = [("prompt", "n"), (ODD, 1), ("it's a C:\\new \"", 2), ("a\nb\tc", 3), ("plain", 4)]
    csv.writer(sink, **how).writerows(rows)
    return sink.getvalue()


SAME = [ODD, "it's a C:\\new \"", "a\nb\tc", "plain"]
SPARK = '"prompt","n"\n"a \\"red\\", round; circle",1\n"it\'s a C:\\new \\"",2\n"a\nb\tc",3\nplain,4\n'


@pytest.mark.parametrize(
    ("name", "text", "notice"),
    [
        ("usual.csv", written(), ""),
        ("windows.csv", written(lineterminator="\r\n"), ""),
        ("excel.csv", written(delimiter=";"), "; between fields"),
        ("sep.csv", "sep=;\r\n" + written(delimiter=";"), "; between fields"),
        ("sep-tab.csv", '"sep=\t"\r\n' + written(delimiter="\t"), "a tab between fields"),
        ("pipe.csv", written(delimiter="|"), "| between fields"),
        ("pandas.tsv", written(delimiter="\t"), "quotation marks around fields"),
        ("all.tsv", written(delimiter="\t", quoting=csv.QUOTE_ALL), "quotation marks around fields"),
        ("spark.csv", SPARK, '\\" for a quotation mark'),
        ("mysql.csv", SPARK.replace(",", ";").replace('\\";', '\\",').replace("plain;4", "plain;\\N"), "; between"),
        ("spark-crlf.csv", SPARK.replace("\n", "\r\n").replace("a\r\nb", "a\nb"), '\\" for a quotation mark'),
    ],
    ids=lambda value: value if "." in str(value)[-5:] else "",
)
def test_a_dialect_is_found_out_and_told(tmp_path: Path, name: str, text: str, notice: str) -> None:
    """Spark's gave damaged prompts with exit code 0, semicolons one column."""
    (tmp_path / name).write_bytes(text.encode())
    assert texts(tmp_path / name) == SAME
    assert notice in told(tmp_path / name)
    assert bool(notice) == ("read with" in told(tmp_path / name))


def test_columns_keep_their_types_in_every_dialect(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('prompt,n,zip,gap,empty\n"a \\"b\\"",1,007,,""\n"c",2,1,\\N,x\n')
    source = open_source(prompts_of(tmp_path / "a.csv"))
    kinds = {field.name: field.type for field in source.schema}
    assert (kinds["n"], kinds["zip"]) == (pa.int64(), pa.string())
    prompts = prompts_of(tmp_path / "a.csv")
    store = Store(str(tmp_path / "out"))
    rows = PromptReader(stage(source.files, prompts, store), store, source.schema, prompts.columns).read(0, 2)
    assert rows.passthrough.to_pylist() == [
        {"n": 1, "zip": "007", "gap": None, "empty": ""},
        {"n": 2, "zip": "1", "gap": None, "empty": "x"},
    ]


@pytest.mark.parametrize(
    ("declared", "text"),
    [
        ({"delimiter": "|"}, "prompt|a;b\n{}|1\n"),
        ({"delimiter": "tab", "quoting": "none"}, "prompt\tn\n{}\t1\n"),
        ({"quoting": "'"}, "prompt,n\n'{}',1\n"),
        ({"escape": "\\"}, "prompt,n\n{},1\n".replace("{}", 'a "red"\\, round; circle')),
        ({"escape": "^", "quoting": '"'}, 'prompt,n\n"a ^"red^", round; circle",1\n'),
        ({"delimiter": "§"}, "prompt§n\n{}§1\n"),
    ],
)
def test_what_is_declared_wins(tmp_path: Path, declared: dict[str, str], text: str) -> None:
    (tmp_path / "a.csv").write_text(text.replace("{}", ODD))
    assert texts(tmp_path / "a.csv", **declared) == [ODD]
    assert "read with" not in told(tmp_path / "a.csv", **declared)


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("a.csv", 'prompt,n\n"a",1\n"b" and "c",2\n', 3),
        ("a.csv", 'prompt,n\n"a\nb",1\n"c"d,2\n', 4),
        ("a.csv", 'sep=;\nprompt;n\n"a";1\n"b"c;2\n', 4),
        ("a.csv", 'prompt,n\n"a \\"b\\"",1\n"c "d" e",2\n', 3),
        ("a.csv", "prompt,n\na,1\nb,c,2\n", 3),
        ("a.csv", 'prompt,n\n"a, b",1\n"c,2\n', 3),
        ("a.tsv", "prompt\tn\na\t1\n\nb\n", 4),
    ],
)
def test_a_row_that_fits_no_dialect_is_named(tmp_path: Path, name: str, text: str, line: int) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=rf"{name}:{line}: expected the same number of fields"):
        open_source(prompts_of(tmp_path / name))


def test_a_tsv_as_iana_has_it_keeps_its_marks(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('prompt\tn\n"hello" on a sign\t1\n"all of it"\t2\n5" disk\t3\n')
    assert texts(tmp_path / "a.tsv") == ['"hello" on a sign', '"all of it"', '5" disk']


def test_a_format_of_several_signs_is_refused() -> None:
    with pytest.raises(ValueError, match="one sign"):
        Format(delimiter="||")
    assert Format(delimiter="tab").separator == "\t"


FRAME = pd.DataFrame({"prompt": SAME[:2], "n": [1, 2]})


@pytest.mark.parametrize(
    "text",
    [
        FRAME.to_json(orient="records"),
        FRAME.to_json(orient="records", indent=2),
        FRAME.to_json(orient="records", lines=True),
        FRAME.to_json(),
        FRAME.to_json(orient="split"),
        json.dumps(FRAME.to_dict(orient="list")),
        json.dumps({"version": 1, "prompts": FRAME.to_dict(orient="records")}, indent=1),
        json.dumps(SAME[:2]),
    ],
    ids=["array", "pretty", "lines", "columns", "split", "lists", "inside", "texts"],
)
def test_json_in_every_form(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    assert texts(tmp_path / "a.json") == SAME[:2]


@pytest.mark.parametrize(
    ("text", "got"),
    [
        *(("3", "int"), ('{"a": "b", "c": [1]}', "columns"), ("[1]", "item 1"), ("[", "1")),
        *(('{"columns": 5, "data": [[1]]}', "columns"), ('{"columns": ["prompt"], "data": [3]}', "columns")),
        *(
            ('{"columns": [["a"]], "data": [["b"]]}', "columns"),
            ('{"columns": ["a", "a"], "data": [["b", "c"]]}', "columns"),
        ),
    ],
)
def test_json_that_is_no_prompts(tmp_path: Path, text: str, got: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=got):
        open_source(prompts_of(tmp_path / "a.json"))


def test_an_array_in_a_file_of_lines(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(FRAME.to_json(orient="records", indent=2))
    assert texts(tmp_path / "a.jsonl") == SAME[:2]


def test_what_describes_a_folder_is_no_prompt(tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text('{"a": 1}')
    (tmp_path / "a.csv").write_text("prompt\na\n")
    assert open_source(prompts_of(tmp_path)).rows == 1
    (tmp_path / "a.csv").unlink()
    (tmp_path / "dataset_info.json").write_text('[{"prompt": "b"}]')
    assert open_source(prompts_of(tmp_path)).rows == 1


def test_a_spreadsheet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book = openpyxl.Workbook()
    for row in (["prompt", "n", "share", "gap"], [ODD, 1, 0.5, None], [None] * 4, ["a\nb", 2, 1.5, "x"]):
        book.active.append(row)
    book.save(tmp_path / "a.xlsx")
    source = open_source(prompts_of(tmp_path / "a.xlsx"))
    assert source.schema.types == [pa.string(), pa.int64(), pa.float64(), pa.string()]
    assert texts(tmp_path / "a.xlsx") == [ODD, "a\nb"]
    (tmp_path / "b.xlsx").write_bytes(b"no sheet")
    with pytest.raises(InputError, match="an Excel file"):
        open_source(prompts_of(tmp_path / "b.xlsx"))
    monkeypatch.setitem(sys.modules, "python_calamine", None)
    with pytest.raises(InputError, match=r"promptmill\[excel\]"):
        open_source(prompts_of(tmp_path / "a.xlsx"))


def test_plain_text_without_blanks_and_comments(tmp_path: Path) -> None:
    """Blank lines were prompts that failed: exit code 3, or a stopped run."""
    (tmp_path / "a.txt").write_bytes("# mine\r\na red circle\r\n\r\n  \na blue \u2028square\n\n".encode())
    assert texts(tmp_path / "a.txt") == ["# mine", "a red circle", "a blue \u2028square"]
    assert "3 blank lines left out" in told(tmp_path / "a.txt")
    assert texts(tmp_path / "a.txt", comment="#") == ["a red circle", "a blue \u2028square"]
    assert "1 comments left out" in told(tmp_path / "a.txt", comment="#")
    (tmp_path / "b.txt").write_text("\n# mine\n")
    with pytest.raises(InputError, match="blank lines or comments"):
        open_source(prompts_of(tmp_path / "b.txt", comment="#"))


def test_repeats_blanks_and_notation_are_counted(tmp_path: Path) -> None:
    lines = [
        *("a red circle", "a red circle", "a red circle ", "a red circle"),
        '--prompt "a cat" --steps 30',
        "a cat --ar 16:9 --v 6",
        "a __colour__ cat",
        "a {red|blue} cat",
        "a cat <lora:fur:0.8>",
        "a (red:1.2) cat, ((blue))",
        "a cat::2 dog::-1",
        "a cat [red:blue:0.5]",
        "a cat BREAK a dog",
        "a well-known cat: the (old) one [sic] a_b -- 50% of it, C++",
    ]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    notices = told(tmp_path / "a.txt")
    assert "of 14 prompts 3 are repeated" in notices
    for name in ('--prompt "…"', "--ar", "__wildcards__", "{a|b}", "<lora:…>", "(a:1.2)", "a::2", "[a:b:0.5]", "BREAK"):
        assert re.search(rf"1 is written for another tool: [^;]*{re.escape(name)}", notices), name
    table = pa.table({"prompt": ["x", "", None, " ", "x"]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert "of 5 prompts 3 are blank" in told(tmp_path / "a.parquet")
    assert "of 5 prompts 1 is repeated" in told(tmp_path / "a.parquet")


LARGEST = 2**64 - 1


@pytest.mark.parametrize(
    ("value", "seed"),
    [(0, 0), (LARGEST, LARGEST), (-1, None), (None, None), (float("nan"), None), (7.0, 7), (-1.0, None)]
    + [(b"18446744073709551615", LARGEST), ("-1", None), (" 7 ", 7), ("7.0", 7), ("", None)],
)
def test_seeds(value: Any, seed: int | None) -> None:
    assert seed_of(value) == seed


@pytest.mark.parametrize("value", [-2, LARGEST + 1, 1.5, 2.0**60, "x", True, "1e30", float("inf"), [1]])
def test_no_seeds(value: Any) -> None:
    with pytest.raises(ValueError, match=r"from 0 to 18446744073709551615, or -1"):
        seed_of(value)


@pytest.mark.parametrize("value", [0, -0.5, 1.01, "0.5", True, float("inf")])
def test_no_strengths(value: Any) -> None:
    assert strength_of(None) is None and strength_of(1) == 1.0
    with pytest.raises(ValueError, match="above 0, at most 1"):
        strength_of(value)


def seeds(path: Path) -> tuple[Source, list[int | None]]:
    prompts = Prompts(source=str(path), columns=Columns(seed="seed"))
    source, store = open_source(prompts), Store(str(path.parent / "out"))
    reader = PromptReader(stage(source.files, prompts, store), store, source.schema, prompts.columns)
    return source, [prompt.seed for prompt in reader.read(0, source.rows).prompts]


def lines_with(*values: int | None) -> str:
    return "".join(
        json.dumps({"prompt": prompt, "seed": seed}) + "\n" for prompt, seed in zip("abcd", values, strict=True)
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", f"prompt,seed\na,{LARGEST}\nb,-1\nc,\nd,7\n"),
        ("a.jsonl", lines_with(LARGEST, -1, None, 7)),
        ("u.jsonl", lines_with(LARGEST, None, None, 7)),
        ("a.parquet", pa.array([str(LARGEST), "-1", None, "7"])),
        ("u.parquet", pa.array([LARGEST, None, None, 7], pa.uint64())),
        ("d.parquet", pa.array([LARGEST, -1, None, 7], pa.decimal128(20, 0))),
    ],
)
def test_seeds_of_64_bits_are_read_exactly(tmp_path: Path, name: str, content: Any) -> None:
    if isinstance(content, str):
        (tmp_path / name).write_text(content)
    else:
        pq.write_table(pa.table({"prompt": list("abcd"), "seed": content}), tmp_path / name)
    source, found = seeds(tmp_path / name)
    assert found == [LARGEST, None, None, 7]
    assert (source.wrong, source.largest["seed"]) == ((), LARGEST)


def test_wrong_values_are_all_known_before_anything_starts(tmp_path: Path) -> None:
    """They failed row by row in workers."""
    values = pa.array([5, -2, -3, -4, -5, None])
    pq.write_table(pa.table({"prompt": list("abcdef"), "seed": values}), tmp_path / "a.parquet")
    source = open_source(Prompts(source=str(tmp_path / "a.parquet"), columns=Columns(seed="seed")))
    assert [problem.where for problem in source.wrong] == [
        f"prompts.columns.seed: a.parquet row {i}" for i in (1, 2, 3)
    ]
    assert "1 more rows are wrong so" in str(source.wrong[-1])


def test_texts_that_are_too_long_and_rows_without_image_are_known_before_anything_starts(tmp_path: Path) -> None:
    """They failed row by row in workers, after `validate` had said ok."""
    long = "é" * 40_000  # 80,000 bytes
    columns = {"prompt": ["a", "b", long, "d"], "c": ["x", long, None, "y"], "n": [None, None, "x", long]}
    table = pa.table({**columns, "i": ["1.png", "", None, "4.png"]})
    (tmp_path / "4.png").write_bytes(b"x")
    for kind in (pa.string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())):
        pq.write_table(_with(table, kind), tmp_path / "a.parquet")
        found = Columns(caption="c", negative_prompt="n", image="i")
        source = open_source(Prompts(source=str(tmp_path / "a.parquet"), columns=found))
        assert [str(problem) for problem in source.wrong] == [
            f"prompts.columns.{role}: a.parquet row {row}: expected a text of at most 65,536 bytes, got 80,000 bytes"
            for role, row in (("caption", 1), ("negative_prompt", 3))
        ]
        notices = "; ".join(source.notices)
        assert "of 4 prompts 1 is over 65,536 bytes: not drawn" in notices
        assert "of 4 prompts 2 are without image: not drawn" in notices
        assert "1 is with image at a place where no file is" in notices
    (tmp_path / "c.jsonl").write_text(json.dumps({"prompt": "a", "i": "images/1.png"}))
    source = open_source(Prompts(source=str(tmp_path / "c.jsonl"), columns=Columns(image="i")))
    assert f"none at {tmp_path}/images/1.png, nor any other. A path is relative to" in str(source.wrong[0])
    (tmp_path / "b.jsonl").write_text(json.dumps({"prompt": "a", "c": long}))
    source = open_source(Prompts(source=str(tmp_path / "b.jsonl"), columns=Columns(caption="c")))
    assert len(source.wrong) == 1


def _with(table: pa.Table, kind: pa.DataType) -> pa.Table:
    return table.set_column(1, "c", pa.array(table.column("c").to_pylist(), pa.string()).cast(kind))


def test_broken_texts_are_counted(tmp_path: Path) -> None:
    broken = pa.array([b"fine", b"\xed\xa0\x80", b"\xff\xfe"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"prompt": broken}), tmp_path / "a.parquet")
    assert "of 3 prompts 2 are no valid Unicode: not drawn" in told(tmp_path / "a.parquet")


def test_pointers_of_git_annex_and_lines_of_old_macs(tmp_path: Path) -> None:
    """The first was a prompt, the second one prompt of many lines, both with exit code 0."""
    for name in ("a.txt", "a.parquet"):
        (tmp_path / name).write_text("/annex/objects/MD5E-s123--0cc175b9c0f1b6a831c399e269772661.parquet\n")
        with pytest.raises(InputError, match="git annex get"):
            open_source(Prompts(source=str(tmp_path / name)))
    (tmp_path / "mac.txt").write_bytes(b"a cat\ra dog\r")
    assert open_source(Prompts(source=str(tmp_path / "mac.txt"))).rows == 2


def test_urls_of_this_machine_in_all_their_forms(tmp_path: Path) -> None:
    (tmp_path / "br[1]").mkdir()
    (tmp_path / "br[1]" / "a.txt").write_text("a cat\n")
    for start in ("file://", "file://localhost", "file:", "local://"):
        for name in ("br[1]", "br[1]/*.txt", "br%5B1%5D/a.txt"):
            assert open_source(Prompts(source=f"{start}{tmp_path}/{name}")).rows == 1, (start, name)
