"""Prompts of every form become rows with the same ids and types wherever they are read."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from promptmill.pipeline.prompts.formats import to_arrow
from promptmill.pipeline.prompts.reader import PromptReader
from promptmill.pipeline.prompts.source import Source, open_source
from promptmill.pipeline.prompts.staging import stage
from promptmill.pipeline.prompts.unicode import mend
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import InputError, PromptmillError
from promptmill.schemas.plan import STAGED
from promptmill.schemas.prompts import Columns, Prompts
from tests.engine.conftest import Answer, records

Cli = Callable[..., Answer]
MakeJob = Callable[..., Path]
SUITES = Path(__file__).parents[3] / "shared" / "prompts"
needs_suites = pytest.mark.skipif(not SUITES.is_dir(), reason="the prompt suites are not here")


def opened(source: object, **columns: str) -> Source:
    return open_source(Prompts(source=str(source), columns=Columns(**columns)))


@needs_suites
def test_parti_prompts() -> None:
    source = opened(SUITES / "PartiPrompts.tsv", prompt="Prompt")
    assert source.rows == 1632
    assert source.schema.names == ["Prompt", "Category", "Challenge", "Note"]


@needs_suites
def test_geneval_keeps_its_nested_column(cli: Cli, job: MakeJob, tmp_path: Path) -> None:
    made = job(
        prompts={"source": str(SUITES / "geneval.jsonl"), "limit": 400},
        generation={"images_per_prompt": 1, "num_inference_steps": 1, "batch_size": 50},
        score=None,
        output={"images_per_shard": 400},
    )
    assert cli("run", made, "--in-process").code == 0
    rows = records(tmp_path / "out")
    lines = [json.loads(line) for line in (SUITES / "geneval.jsonl").read_text().splitlines()[:400]]
    assert [row["prompt"] for row in rows] == [line["prompt"] for line in lines]
    for row, line in zip(rows, lines, strict=True):
        kept = [{name: value for name, value in item.items() if value is not None} for item in row["include"]]
        asked = [
            {**item, "position": [str(value) for value in item["position"]]} if "position" in item else item
            for item in line["include"]
        ]
        assert kept == asked


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.csv", 'prompt,n\n"a, ""quoted"" one",1\n007,2\n'),
        ("p.tsv", 'prompt\tn\na, "quoted" one\t1\n007\t2\n'),
        ("p.jsonl", '{"prompt": "a, \\"quoted\\" one", "n": 1}\n\n{"prompt": "007", "n": 2}\n'),
    ],
)
def test_text_formats_agree(cli: Cli, job: MakeJob, tmp_path: Path, name: str, text: str) -> None:
    for path, content in (
        (tmp_path / name, text.encode()),
        (tmp_path / f"bom-{name}", b"\xef\xbb\xbf" + text.encode()),
    ):
        path.write_bytes(content)
        source = opened(path)
        assert source.rows == 2
        assert source.schema == pa.schema([("prompt", pa.string()), ("n", pa.int64())])
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    assert opened(tmp_path / f"{name}.gz").rows == 2
    assert cli("run", job(prompts={"source": str(tmp_path / name)}), "--in-process").code == 0
    rows = records(tmp_path / "out")
    assert [(row["prompt"], row["n"], row["prompt_id"]) for row in rows[::2]] == [
        ('a, "quoted" one', 1, f"{name}:0"),
        ("007", 2, f"{name}:1"),
    ]
    # The text is read once: what was staged is what a later run goes on with.
    (tmp_path / "out" / "data" / "part-000000.parquet").unlink()
    assert cli("run", job(prompts={"source": str(tmp_path / name)}), "--in-process").code == 0


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [
        ("gz", gzip.compress),
        ("bz2", bz2.compress),
        ("XZ", lzma.compress),
        ("zst", lambda data: pa.compress(data, "zstd", asbytes=True)),
    ],
)
def test_packed_text(tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / f"p.csv.{suffix}"
    path.write_bytes(pack(b"prompt\na red circle\na blue square\n"))
    assert opened(path).rows == 2


def test_plain_text_is_one_prompt_a_line(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_bytes("a red circle\r\n\r\na blue \u2028square\n".encode())
    source = opened(path)
    assert source.rows == 2


@pytest.mark.parametrize(("suffix", "separator"), [("csv", ","), ("tsv", "\t")])
def test_columns_of_text_files_are_unchanged(
    cli: Cli, job: MakeJob, tmp_path: Path, suffix: str, separator: str
) -> None:
    columns = {
        "zip": (["007", "10115"], pa.string()),
        "version": (["1.10", "1.2"], pa.string()),
        "order": (["12345678901234567890", "1"], pa.string()),
        "shout": (["TRUE", "false"], pa.string()),
        "day": (["2024-01-02", "2024-01-03"], pa.string()),
        "padded": ([" 1", "2"], pa.string()),
        "odd": (["nan", "1.5"], pa.string()),
        "gap": (["", "x"], pa.string()),
        "n": (["1", "-20"], pa.int64()),
        "share": (["0.25", ""], pa.float64()),
        "flag": (["true", "false"], pa.bool_()),
        "seed": (["007", "8"], pa.int64()),
    }
    lines = [["prompt", *columns], *(["a red circle", *(v[row] for v, _ in columns.values())] for row in (0, 1))]
    path = tmp_path / f"p.{suffix}"
    path.write_text("\n".join(separator.join(line) for line in lines))
    mapped = {"seed": "seed"}
    source = opened(path, **mapped)
    assert {name: source.schema.field(name).type for name in columns} == {
        name: kind for name, (_, kind) in columns.items()
    }
    made = job(prompts={"source": str(path), "columns": mapped}, generation={"images_per_prompt": 1})
    assert cli("run", made, "--in-process").code == 0
    for row, record in enumerate(records(tmp_path / "out")):
        for name, (texts, _) in columns.items():
            value = record[name]
            written = "" if value is None else value if isinstance(value, str) else json.dumps(value)
            assert written == (texts[row] if name != "seed" else texts[row].lstrip("0"))


def test_types_that_differ_between_text_files(cli: Cli, job: MakeJob, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text("prompt,key,n,share\na red circle,1,7,100000.0\n")
    (tmp_path / "in" / "b.csv").write_text("prompt,key,n,share\na red circle,k2,007,1.10\n")
    (tmp_path / "in" / "c.jsonl").write_text('{"prompt": "a", "key": 3, "n": {"x": [1.5]}, "share": true}\n')
    made = job(prompts={"source": str(tmp_path / "in"), "columns": {"id": "key"}}, generation={"images_per_prompt": 1})
    assert cli("run", made, "--in-process").code == 0
    rows = [(row["prompt_id"], row["n"], row["share"]) for row in records(tmp_path / "out")]
    assert rows == [("1", "7", "100000.0"), ("k2", "007", "1.10"), ("3", '{"x": [1.5]}', "true")]


def test_ids_are_text_in_every_file(cli: Cli, job: MakeJob, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"prompt": ["a"], "key": [1]}), tmp_path / "in" / "a.parquet")
    (tmp_path / "in" / "b.csv").write_text("prompt,key\nb,x\n")
    made = job(prompts={"source": str(tmp_path / "in"), "columns": {"id": "key"}})
    assert cli("run", made, "--in-process").code == 0
    assert {row["prompt_id"] for row in records(tmp_path / "out")} == {"1", "x"}
    (tmp_path / "in" / "b.csv").write_text("prompt,key\nb,1\n")
    assert "unique" in cli("plan", made).err


def test_extend_keeps_the_types_of_the_dataset(cli: Cli, job: MakeJob, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "b.csv").write_text("prompt,n\na red circle,1\n")
    made = job(prompts={"source": str(tmp_path / "in")}, generation={"images_per_prompt": 1})
    assert cli("run", made, "--in-process").code == 0
    (tmp_path / "in" / "c.csv").write_text("prompt,n\na red circle,many\n")
    answer = cli("run", made, "--in-process", "--extend")
    assert (answer.code, "c.csv" in answer.err, "types" in answer.err) == (2, True, True), answer
    (tmp_path / "in" / "c.csv").write_text("prompt,n\na red circle,002\n")
    assert cli("run", made, "--in-process", "--extend").code == 0
    assert [row["n"] for row in records(tmp_path / "out")] == [1, 2]


def test_mixed_json_types() -> None:
    array, changed = to_arrow([[1, "a"], None, [{"b": 2}]])
    assert changed
    assert array.to_pylist() == [["1", "a"], None, ['{"b": 2}']]
    array, changed = to_arrow([{"a": 1}, {"a": None, "b": [1.5]}, None])
    assert not changed
    array, _ = to_arrow([{"a": 1}, {"a": "x"}, None])
    assert array.to_pylist() == [{"a": "1"}, {"a": "x"}, None]
    array, changed = to_arrow([{"a": ["\ud800"]}, {"a": []}])
    assert not changed  # broken text is the row's own failure
    array, changed = to_arrow([[{}], None])
    assert (array.to_pylist(), changed) == ([["{}"], None], True)
    array, _ = to_arrow([1 << 70, None])
    assert array.to_pylist() == [str(1 << 70), None]


def test_broken_text_is_found_at_any_depth() -> None:
    text = pa.array([b"fine", b"\xff", None, b"\xed\xa0\x80"], pa.binary()).view(pa.string())
    nested = pa.StructArray.from_arrays([text], ["x"], mask=pa.array([False, False, True, False]))
    columns = {
        "text": text,
        "dictionary": pa.DictionaryArray.from_arrays(pa.array([0, 1, None, 1]), text),
        "lists": pa.ListArray.from_arrays(pa.array([0, 1, 2, 2, 4], pa.int32()), nested),
        "maps": pa.MapArray.from_arrays(pa.array([0, 1, 2, 2, 2], pa.int32()), text.take([0, 0]), text.take([0, 1])),
    }
    expected = {
        "text": ["fine", "\ufffd", None, "\ufffd" * 3],
        "dictionary": ["fine", "\ufffd", None, "\ufffd"],
        "lists": [[{"x": "fine"}], [{"x": "\ufffd"}], [], [None, {"x": "\ufffd" * 3}]],
        "maps": [[("fine", "fine")], None, [], []],
    }
    for name, column in columns.items():
        table = pa.table({name: column})
        mended, broken = mend(table)
        assert (mended.to_pydict()[name], mended.schema) == (expected[name], table.schema)
        assert broken == ({1} if name == "maps" else {1, 3})
        assert mend(table.slice(2, 1))[1] == mend(table.slice(4))[1] == set()
        broken_after = {2} if name == "maps" else {0, 2}
        assert mend(pa.concat_tables([table.slice(3), table.slice(0, 2)]))[1] == broken_after


def test_every_block_is_what_the_files_hold(tmp_path: Path) -> None:
    """Any start and stop, over row groups and files, and types that only some files know."""
    rng = np.random.default_rng(0)
    expected: list[str] = []
    for i in range(4):
        rows = int(rng.integers(1, 40))
        prompts = [f"file {i} row {j}" for j in range(rows)]
        expected += prompts
        score = pa.array([None] * rows) if i == 0 else pa.array(range(rows), pa.int32())
        pq.write_table(pa.table({"prompt": prompts, "n": score}), tmp_path / f"{i}.parquet", row_group_size=7)
    source = opened(tmp_path / "*.parquet")
    assert source.schema.field("n").type == pa.int32()
    reader = PromptReader(source.files, Store(str(tmp_path)), source.schema, Columns())
    for _ in range(50):
        start = int(rng.integers(0, len(expected)))
        stop = int(rng.integers(start + 1, len(expected) + 1))
        block = reader.read(start, stop)
        assert [prompt.prompt for prompt in block.prompts] == expected[start:stop]
        assert block.passthrough.schema == pa.schema([("n", pa.int32())])
        assert block.prompts[0].prompt_id.startswith(f"{block.prompts[0].prompt[5]}.parquet:")


@pytest.mark.parametrize("value", [0, 1])
def test_any_byte_of_a_file_costs_an_error_or_no_row(tmp_path: Path, value: int) -> None:
    """Of plans without hashes. A page of fewer rows than the footer says was a ValueError of Arrow's."""
    path = tmp_path / "prompts.parquet"
    pq.write_table(pa.table({"prompt": [f"number {n}" for n in range(40)]}), path)
    source, whole = opened(path), path.read_bytes()
    files = tuple(replace(file, etag=None, digest=None) for file in source.files)
    short = 0
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
        try:
            block = PromptReader(files, Store(str(tmp_path)), source.schema, Columns()).read(5, 35)
            assert len(block.prompts) == 30
        except PromptmillError as error:
            short += "30 rows from row 5 on" in str(error)
    assert short


def test_ids_hold_when_files_are_added(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["x", "y"]}), tmp_path / "b.parquet")

    def ids() -> set[str]:
        source = opened(tmp_path)
        reader = PromptReader(source.files, Store(str(tmp_path)), source.schema, Columns())
        return {prompt.prompt_id for prompt in reader.read(0, source.rows).prompts}

    before = ids()
    (tmp_path / "sub").mkdir()
    pq.write_table(pa.table({"prompt": ["z"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"prompt": ["z"]}), tmp_path / "sub" / "a.parquet")
    assert ids() == before | {"a.parquet:0", "sub/a.parquet:0"}


@pytest.mark.parametrize(("source", "output"), [(".", "out"), ("**/*", "./out"), ("../in", "."), (".", "../in/out/x")])
def test_what_the_job_wrote_is_no_prompt(
    cli: Cli, job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, output: str
) -> None:
    (tmp_path / "in" / "data").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "in")
    for name in ("p.csv", "data/q.csv"):
        Path(name).write_text("prompt\na red circle\n")
    made = job(prompts={"source": source}, output={"url": output, "images_per_shard": 2})
    assert cli("run", made, "--in-process", "--json").json["made"]["samples"] == 4
    Path(output, "data", "part-000001.parquet").unlink()
    assert cli("run", made, "--in-process", "--json").json["made"]["samples"] == 2


@pytest.mark.parametrize("source", ["linked", "linked/*.csv", "link.csv"])
def test_links_to_files_are_files(tmp_path: Path, source: str) -> None:
    """As Hugging Face's cache, DVC and Kubernetes mounts have them."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "1f").write_text("prompt\na red circle\n")
    (tmp_path / "linked").mkdir()
    for link in (tmp_path / "linked" / "a.csv", tmp_path / "link.csv"):
        link.symlink_to(tmp_path / "blobs" / "1f")
    (tmp_path / "linked" / "broken.csv").symlink_to(tmp_path / "nowhere")
    (file,) = opened(tmp_path / source).files
    assert (file.rows, file.size_bytes) == (1, 20)


def test_a_glob_finds_hidden_files_only_where_it_says_so(tmp_path: Path) -> None:
    for name in ("a.csv", "._a.csv", "_b.csv", ".cache/c.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("prompt\na red circle\n")

    def names(pattern: str) -> list[str]:
        return [file.name for file in opened(tmp_path / pattern).files]

    assert names("*.csv") == ["_b.csv", "a.csv"]
    assert names("**/*.csv") == ["_b.csv", "a.csv"]
    assert names("._*.csv") == ["._a.csv"]
    assert names(".cache/*.csv") == ["c.csv"]


@pytest.mark.parametrize("start", ["", "{here}/", "file://{here}/", "local://{here}/"])
@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("b[1]/*.csv", ["b[1]/a[0].csv", "b[1]/c.csv"]),
        ("b[1]/**/*.csv", ["b[1]/a[0].csv", "b[1]/c.csv", "b[1]/s[x]/c.csv"]),
        ("b[1]/s[x]/*.csv", ["b[1]/s[x]/c.csv"]),
        ("b[1]/a[0]*", ["b[1]/a[0].csv"]),
        ("b[1]/[ac]*.csv", ["b[1]/a[0].csv", "b[1]/c.csv"]),
        ("q?[2]/*.csv", ["q?[2]/c.csv"]),
        ("b[12]/*.csv", ["b1/c.csv"]),
        ("b[1]/c.csv", ["c.csv"]),
    ],
)
def test_brackets_of_a_folder_that_is_there_are_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str, pattern: str, names: list[str]
) -> None:
    """They were a wildcard, and another folder was read."""
    for name in ("b[1]/a[0].csv", "b[1]/c.csv", "b[1]/s[x]/c.csv", "b1/c.csv", "q?[2]/c.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("prompt\na red circle\n")
    monkeypatch.chdir(tmp_path)
    source = start.format(here=tmp_path) + pattern
    assert [file.name for file in opened(source).files] == names
    if start.startswith("file") and "b[1]" in pattern:
        assert [file.name for file in opened(source.replace("[", "%5B").replace("]", "%5D")).files] == names


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def http_url(tmp_path: Path) -> Iterator[str]:
    """Serves `tmp_path / "www"`, as most file servers do without knowing ranges."""
    (tmp_path / "www").mkdir()
    handler = partial(_Quiet, directory=str(tmp_path / "www"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_parquet_over_http(cli: Cli, job: MakeJob, tmp_path: Path, http_url: str) -> None:
    table = pa.table({"prompt": ["a red circle"] * 4, "noise": [os.urandom(40_000) for _ in range(4)]})
    pq.write_table(table, tmp_path / "www" / "p.parquet")
    answer = cli("run", job(prompts={"source": f"{http_url}/p.parquet"}), "--in-process")
    assert answer.code == 0, answer
    assert [row["prompt_id"] for row in records(tmp_path / "out")][::2] == [f"p.parquet:{row}" for row in range(4)]


def test_query_of_a_url_stays_a_secret(
    cli: Cli, job: MakeJob, tmp_path: Path, http_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Presigned: no request without the query is answered, and nothing that is written holds it."""

    def guard(handler: _Quiet) -> None:
        if handler.path.endswith("?X-Amz-Credential=KEY/2026/s3&X-Amz-Signature=TOPSECRET"):
            SimpleHTTPRequestHandler.do_GET(handler)
        else:
            handler.send_error(403)

    monkeypatch.setattr(_Quiet, "do_GET", guard)
    monkeypatch.setattr(_Quiet, "do_HEAD", lambda handler: handler.send_error(403))  # signed for GET alone
    table = pa.table({"prompt": ["a red circle", "a blue square"]})
    pq.write_table(table, tmp_path / "www" / "p.parquet")
    (tmp_path / "www" / "p.csv.gz").write_bytes(gzip.compress(b"prompt\na red circle\na blue square\n"))
    for name in ("p.parquet", "p.csv.gz"):
        url = f"{http_url}/{name}?X-Amz-Credential=KEY/2026/s3&X-Amz-Signature=TOPSECRET"
        made = job(prompts={"source": url}, output={"url": str(tmp_path / name)})
        answer = cli("run", made, "--in-process")
        assert answer.code == 0, answer
        assert [row["prompt_id"] for row in records(tmp_path / name)][::2] == [f"{name}:0", f"{name}:1"]
        written = [path.read_bytes() for path in (tmp_path / name).rglob("*") if path.is_file()]
        assert written and not any(b"TOPSECRET" in data for data in written)
        (tmp_path / name / "data" / "part-000000.parquet").unlink()
        assert cli("run", made, "--in-process").code == 0
    answer = cli("plan", job(prompts={"source": url.replace("TOPSECRET", "OLDSECRET")}))
    assert (answer.code, "403" in answer.err, "SECRET" in answer.err) == (4, True, False), answer.err


def test_http_server_that_refuses(
    cli: Cli, job: MakeJob, tmp_path: Path, http_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waiting does not help against a 403, as against 503."""
    (tmp_path / "www" / "p.txt").write_text("a red circle")
    monkeypatch.setattr(_Quiet, "do_GET", lambda handler: handler.send_error(403))
    started = time.monotonic()
    answer = cli("plan", job(prompts={"source": f"{http_url}/p.txt?opaque-SECRET"}))
    assert (answer.code, "403" in answer.err, "SECRET" in answer.err) == (4, True, False), answer
    assert "Check that these credentials" in answer.err
    assert time.monotonic() - started < 5


def test_source_that_changes_after_planning(cli: Cli, job: MakeJob, tmp_path: Path) -> None:
    made = job()
    assert cli("run", made, "--in-process").code == 0
    pq.write_table(pa.table({"prompt": ["other"] * 4, "tag": [1, 2, 3, 4]}), tmp_path / "prompts.parquet")
    answer = cli("run", made, "--in-process")
    assert answer.code == 2
    assert "prompts.source.prompts.parquet" in answer.err


def test_text_that_changes_before_it_is_staged(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("prompt\na red circle\n")
    prompts = Prompts(source=str(tmp_path / "p.csv"))
    files = open_source(prompts).files
    assert stage(files, prompts, Store(str(tmp_path / "out")))[0].path.startswith(STAGED)
    (tmp_path / "p.csv").write_text("prompt\na BLUE circle\n")
    with pytest.raises(InputError, match="as it was planned"):
        stage(files, prompts, Store(str(tmp_path / "out")))


def test_staged_copies_of_other_types_have_other_names(tmp_path: Path) -> None:
    """A copy that a run left before it claimed the output is taken for what its name says."""
    (tmp_path / "p.csv").write_text("prompt,n\na red circle,007\n")
    paths = set()
    for columns in (Columns(), Columns(seed="n")):
        prompts = Prompts(source=str(tmp_path / "p.csv"), columns=columns)
        paths |= {file.path for file in stage(open_source(prompts).files, prompts, Store(str(tmp_path / "out")))}
    assert len(paths) == 2


def test_ten_million_prompts_are_planned_from_footers(tmp_path: Path) -> None:
    """In a process of its own, whose peak memory is the plan's: under 500 MB, and the files are never read whole."""
    table = pa.table({"prompt": pa.array([f"a red circle, number {i}" for i in range(100_000)])})
    pq.write_table(table, tmp_path / "p-000.parquet", row_group_size=20_000)
    for i in range(1, 100):
        (tmp_path / f"p-{i:03d}.parquet").hardlink_to(tmp_path / "p-000.parquet")
    script = (
        "import pathlib; from promptmill.pipeline.prompts.source import open_source\n"
        "from promptmill.schemas.job import Prompts\n"
        f"print(open_source(Prompts(source={str(tmp_path / '*.parquet')!r})).rows)\n"
        # ru_maxrss would begin with the memory of the process that forked.
        "print(pathlib.Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    rows, peak_kib = map(int, answer.stdout.split())
    assert rows == 10_000_000
    assert peak_kib < 500_000


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.jsonl", '{"prompt": "a"}\n{"prompt": "b", "tag": 1, "prompt": "c"}\n', '"prompt" in line 2'),
        ("a.json", '[{"prompt": "c", "more": {"x": 1, "x": 2}}]', '"x"'),
    ],
)
def test_a_key_that_stands_twice_in_an_object_is_told(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    source = open_source(Prompts(source=str(tmp_path / name)))
    told = f"1 objects have a key twice, such as {said}; the last value counts"
    assert any(notice.endswith(told) for notice in source.notices)


def test_json_files_differ_in_their_optional_columns(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "note": "x"}\n')
    (tmp_path / "b.jsonl").write_text('{"prompt": "b", "seed": 3}\n')
    source = open_source(Prompts.model_validate({"source": str(tmp_path), "columns": {"seed": "seed"}}))
    assert source.schema.names == ["prompt", "note", "seed"] and source.largest == {"seed": 3}
    (tmp_path / "c.jsonl").write_text('{"text": "c"}\n')
    with pytest.raises(InputError, match="c.jsonl: expected the columns of a.jsonl: prompt"):
        open_source(Prompts(source=str(tmp_path)))
