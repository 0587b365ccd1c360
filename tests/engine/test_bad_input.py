"""What is wrong is said before anything is started or written: exit code 2, where, what was expected, what came."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.engine.conftest import Answer, records

Cli = Callable[..., Answer]
MakeJob = Callable[..., Path]


def refused(cli: Cli, job: Path, *words: str, code: int = 2) -> Answer:
    """`validate`, `plan` and `run` all refuse, in the same words, and nothing is written."""
    for command in ("plan", "run"):
        answer = cli(command, job, *(["--in-process"] if command == "run" else []))
        assert answer.code == code, (command, answer)
        for word in words:
            assert word in answer.err, (command, word, answer.err)
        assert "Traceback" not in answer.err
    assert not (job.parent / "out").exists()
    return answer


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"generation": {"num_inference_steps": 0}}, ["num_inference_steps", "1", "got 0"]),
        ({"generation": {"num_inference_steps": -3}}, ["num_inference_steps", "-3"]),
        ({"generation": {"guidance_scale": float("nan")}}, ["guidance_scale", "nan"]),
        ({"generation": {"width": 60}}, ["width", "multiple of 8", "60"]),
        ({"generation": {"scheduler": "DDIMM"}}, ["scheduler", "DDIMM"]),
        ({"generation": {"scheduler": "FlowMatchEulerDiscreteScheduler"}}, ["scheduler"]),
        ({"generation": {"steps": 3}}, ["steps", "num_inference_steps"]),
        ({"model": {"dtype": "fp8"}}, ["dtype", "fp8"]),
        ({"output": {"image_format": "gif"}}, ["image_format", "gif", "png"]),
        ({"sweep": {"guidance": [1.0]}}, ["guidance", "guidance_scale"]),
        ({"sweep": {"guidance_scale": [1.0, "x"]}}, ["sweep", "'x'"]),
        ({"sweep": {"num_inference_steps": list(range(1, 1001)), "guidance_scale": [1.0, 2.0]}}, ["2,000", "--yes"]),
        ({"score": None, "select": {"keep": 1}}, ["select.by", "score"]),
        ({"select": {"keep": 3}}, ["keep", "images_per_prompt", "3"]),
        ({"prompts": {"columns": {"prompt": "text"}}}, ["'text'", "'prompt'", "'tag'"]),
        ({"prompts": {"columns": {"prompt": "tag"}}}, ["tag", "text column", "int64"]),
        ({"prompts": {"columns": {"prompt": "promt"}}}, ["Did you mean 'prompt'?"]),
        ({"prompts": {"columns": {"image": "tag"}}}, ["image", "paths, URLs, bytes", "'tag' of type int64"]),
        ({"model": {"path": "/nowhere/at/all"}}, ["/nowhere/at/all"]),
        ({"model": {"path": "org/model"}}, ["org/model", "revision"]),
        ({"model": {"path": "builtin:cats"}}, ["builtin:cats", "builtin:shapes"]),
        ({"score": [{"clip": "local-dir:/nowhere"}]}, ["/nowhere"]),
        ({"score": [{"clip": "ViT-B-32/nonsense"}]}, ["nonsense"]),
        ({"prompts": {"source": "https://user:pass@host/x.parquet"}}, ["user and password"]),
        ({"output": {"url": "s3://key:secret@bucket/x"}}, ["user and password"]),
        ({"output": {"url": "nope://bucket/x"}}, ["nope"]),
    ],
)
def test_job_that_cannot_be(cli: Cli, job: MakeJob, sections: dict[str, Any], words: list[str]) -> None:
    answer = refused(cli, job(**sections), *words)
    assert "pass@" not in answer.err
    assert "secret@" not in answer.err


@pytest.mark.parametrize(
    ("url", "word"),
    [("foo://b/x", "foo"), ("://", "://"), ("s3:", "s3://…"), ("s3:/b/x", "s3://…"), ("s3://", "bucket")],
)
def test_output_that_is_no_url(cli: Cli, job: MakeJob, url: str, word: str) -> None:
    made = job(output={"url": url})
    answer = cli("validate", made)
    assert answer.code == 2
    assert f"{made}:" in answer.err and "output.url: expected" in answer.err and word in answer.err
    refused(cli, made, "output.url", word)


def test_large_sweep_with_yes(cli: Cli, job: MakeJob) -> None:
    wide = {"num_inference_steps": list(range(1, 501)), "guidance_scale": [i / 2 for i in range(2000)]}
    answer = cli("plan", job(sweep=wide), "--yes", "--json")
    assert answer.code == 0, answer
    assert answer.json["variants"] == 1_000_000
    assert answer.json["samples"] == 4 * 2 * 1_000_000


def test_all_problems_at_once(cli: Cli, job: MakeJob) -> None:
    answer = refused(cli, job(model={"path": "/nowhere"}, score=[{"clip": "local-dir:/missing"}]))
    assert "/nowhere" in answer.err
    assert "/missing" in answer.err


def write_source(folder: Path, name: str, content: Any) -> Path:
    path = folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        pq.write_table(content, path)
    return path


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.parquet", b"PAR1 and then nothing", ["a.parquet", "whole Parquet"]),
        ("a.parquet", b"", ["a.parquet", "whole Parquet"]),
        (
            "a.parquet",
            pa.table({"prompt": pa.array([], pa.string())}),
            ["yaml:3: prompts.source", "at least one prompt"],
        ),
        ("a.csv", b"prompt,x\na,1\nb\nc,3\n", ["a.csv", "fields in every row", "Row #3"]),
        ("a.csv", b"", ["a.csv", "empty file"]),
        ("a.csv", "prompt\nä\n".encode("utf-16"), ["UTF-16", "Save it as UTF-8"]),
        ("a.csv", b"prompt\n\xff\xfe\xfd\n", ["a.csv"]),
        ("a.csv", b"prompt,prompt\na,b\n", ["each column name once"]),
        ("a.jsonl", b'{"prompt": "a"}\n{"prompt": \n', ["a.jsonl:2", "JSON"]),
        ("a.jsonl", b'["a"]\n', ["a.jsonl:1", "one JSON object"]),
        ("a.txt", b"fine\n\xff\n", ["a.txt:2", "UTF-8"]),
        ("a.csv", b"prompt,n\na,1\ncaf\xe9,2\n", ["a.csv:3", "UTF-8", "0xe9", "Save it as UTF-8"]),
        ("a.csv", b"prompt,caf\xe9\na,1\n", ["a.csv:1", "UTF-8", "0xe9"]),
        ("a.jsonl", b'{"prompt": "a"}\n{"prompt": "a", "x": {"\\ud83d": 1}}\n', ["a.jsonl:2", "keys", "ud83d"]),
        ("a.png", b"\x89PNG", ["a.png", "prompts.templates"]),
        ("a.csv.gz", gzip.compress(b"prompt\na\n" * 100, mtime=0)[:-12], ["a.csv.gz", "whole file", "end-of-stream"]),
        ("a.csv.gz", b"prompt\na\n", ["a.csv.gz", ".gz", "Not a gzipped file"]),
        ("a.csv.gz", gzip.compress(b"a", mtime=0)[:10] + b"\xff" * 9, ["a.csv.gz", "decompressing"]),
        ("a.csv.bz2", b"prompt\na\n", ["a.csv.bz2", "Invalid data stream"]),
        ("a.csv.bz2", bz2.compress(b"prompt\na\n")[:-4], ["a.csv.bz2", "end-of-stream"]),
        ("a.txt.xz", lzma.compress(b"a")[:-4], ["a.txt.xz", "end-of-stream"]),
        ("a.txt.xz", b"a", ["a.txt.xz"]),
        ("a.csv.zst", pa.compress(b"prompt\na\n", "zstd", asbytes=True)[:-4], ["a.csv.zst", "Truncated"]),
    ],
)
def test_source_that_cannot_be_read(
    cli: Cli, job: MakeJob, tmp_path: Path, name: str, content: Any, words: list[str]
) -> None:
    path = write_source(tmp_path, name, content)
    refused(cli, job(prompts={"source": str(path)}), *words)


def damaged(column: int) -> bytes:
    """Parquet of 3,000 rows whose footer is whole, and half of a page is not."""
    sink = io.BytesIO()
    rng = random.Random(0)
    table = {"prompt": [f"a red circle {rng.random()}" for _ in range(3000)], "id": [f"{i}" for i in range(3000)]}
    pq.write_table(pa.table(table), sink, compression="snappy", use_dictionary=False)
    data = bytearray(sink.getvalue())
    start = pq.read_metadata(sink).row_group(0).column(column).data_page_offset
    data[start + 40 : start + 4000] = b"\xff" * 3960
    return bytes(data)


def test_damaged_page(cli: Cli, job: MakeJob, tmp_path: Path) -> None:
    path = write_source(tmp_path, "d.parquet", damaged(0))
    answer = cli("run", job(prompts={"source": str(path), "limit": 2}), "--in-process")
    assert answer.code == 2, answer
    assert "d.parquet: expected a whole Parquet file" in answer.err
    assert "Traceback" not in answer.err


@pytest.mark.parametrize("name", ["d.parquet", "metadata.parquet"])
def test_rows_that_ask_for_what_their_dictionary_lacks(cli: Cli, job: MakeJob, tmp_path: Path, name: str) -> None:
    """Found by a byte that was changed: Arrow reads such a file, and raises an IndexError when it is decoded."""
    sink = io.BytesIO()
    kinds = pa.DictionaryArray.from_arrays(pa.array([0, 3], pa.int8()), pa.array(["a"]), safe=False)
    pq.write_table(
        pa.table({"text": ["a star"] * 2, "prompt": ["a star"] * 2, "kind": kinds, "file_name": kinds}), sink
    )
    path = write_source(tmp_path, name, sink.getvalue())
    answer = cli("run", job(prompts={"source": str(path), "columns": {"prompt": "prompt"}}), "--in-process")
    assert answer.code == 2, answer
    assert f"{name}: expected a whole Parquet file" in answer.err
    assert "Traceback" not in answer.err


def test_damaged_page_of_ids(cli: Cli, job: MakeJob, tmp_path: Path) -> None:
    path = write_source(tmp_path, "d.parquet", damaged(1))
    refused(cli, job(prompts={"source": str(path), "columns": {"id": "id"}}), "d.parquet", "whole Parquet file")


def test_file_name_that_is_no_text(cli: Cli, job: MakeJob, tmp_path: Path) -> None:
    """It would be part of the prompt ids."""
    (tmp_path / "in").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path / "in") + b"/\xff.csv")).write_text("prompt\na red circle\n")
    refused(cli, job(prompts={"source": str(tmp_path / "in")}), "\\xff.csv", "UTF-8")


@pytest.mark.parametrize(
    ("source", "word"), [("s3://", "bucket"), ("s3:/bucket/x.csv", "s3://"), ("foo://x/y.csv", "foo"), ("://", "://")]
)
def test_source_that_is_no_url(cli: Cli, job: MakeJob, source: str, word: str) -> None:
    refused(cli, job(prompts={"source": source}), "prompts.source", word)


def test_missing_source_and_empty_glob(cli: Cli, job: MakeJob, tmp_path: Path) -> None:
    refused(cli, job(prompts={"source": str(tmp_path / "none.parquet")}), "nothing there")
    refused(cli, job(prompts={"source": str(tmp_path / "none-*.parquet")}), "nothing there")


def test_files_that_do_not_fit_together(cli: Cli, job: MakeJob, tmp_path: Path) -> None:
    write_source(tmp_path, "p-1.parquet", pa.table({"prompt": ["a"], "n": [1]}))
    write_source(tmp_path, "p-2.parquet", pa.table({"prompt": ["b"], "n": ["one"]}))
    refused(cli, job(prompts={"source": str(tmp_path / "p-*.parquet")}), "p-2.parquet", "n int64", "n string")


def test_cut_off_parquet(cli: Cli, job: MakeJob, tmp_path: Path, source: Path) -> None:
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(source.read_bytes()[:-20])
    refused(cli, job(prompts={"source": str(cut)}), "cut.parquet", "whole Parquet")


def test_parquet_bomb(cli: Cli, job: MakeJob, tmp_path: Path) -> None:
    """A few hundred bytes that decode to 2 GB, and a footer that does not say so."""
    bomb = tmp_path / "bomb.parquet"
    one = pa.array(["x" * (1 << 20)])
    table = pa.table({"prompt": pa.DictionaryArray.from_arrays(pa.array([0] * 2048, pa.int32()), one)})
    pq.write_table(table, bomb, compression="zstd", store_schema=False, write_statistics=False)
    assert bomb.stat().st_size < 2_000
    refused(cli, job(prompts={"source": str(bomb)}), "bomb.parquet", "decode")


@pytest.mark.parametrize("ids", [["a", "b", "a", "c"], [1, 2, 3, 1]])
def test_ids_that_repeat(cli: Cli, job: MakeJob, tmp_path: Path, ids: list[Any]) -> None:
    path = write_source(tmp_path, "ids.parquet", pa.table({"prompt": ["p"] * 4, "id": ids}))
    refused(cli, job(prompts={"source": str(path), "columns": {"id": "id"}}), "unique", "row 0", repr(ids[0]))


def test_null_id(cli: Cli, job: MakeJob, tmp_path: Path) -> None:
    path = write_source(tmp_path, "ids.parquet", pa.table({"prompt": ["p"] * 2, "id": ["a", None]}))
    refused(cli, job(prompts={"source": str(path), "columns": {"id": "id"}}), "row 1", "null")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("i.jsonl", b'{"prompt": "a", "id": "1"}\n{"prompt": "b", "id": ""}\n', ["row 1", "an empty text"]),
        ("i.csv", b'prompt,id\na,1\nb,""\n', ["row 1", "an empty text"]),
        ("i.csv", b"prompt,id\na,1\nb,\n", ["row 1", "null"]),
        ("i.jsonl", b'{"prompt": "a", "id": "\\ud800"}\n{"prompt": "b", "id": "\\ud801"}\n', ["row 0", "Unicode"]),
        ("i.parquet", pa.table({"prompt": ["a"], "id": pa.array([b"\xff"]).view(pa.string())}), ["row 0", "Unicode"]),
        ("i.csv", b"prompt,id\na,1\nb,2\nc,1\n", ["unique", "row 2"]),
    ],
)
def test_id_that_is_none(cli: Cli, job: MakeJob, tmp_path: Path, name: str, content: Any, words: list[str]) -> None:
    """Wherever it stands: the last one lies behind the limit."""
    path = write_source(tmp_path, name, content)
    refused(cli, job(prompts={"source": str(path), "columns": {"id": "id"}, "limit": 2}), "id", *words)


@pytest.fixture
def model_copy(models: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(models / "sd", tmp_path / "model"))


def test_model_with_pickles_only(cli: Cli, job: MakeJob, model_copy: Path) -> None:
    for weights in model_copy.rglob("*.safetensors"):
        weights.rename(weights.with_suffix(".bin"))
    refused(cli, job(model={"path": str(model_copy)}), "safetensors", ".bin")


def test_model_without_scheduler(cli: Cli, job: MakeJob, model_copy: Path) -> None:
    shutil.rmtree(model_copy / "scheduler")
    refused(cli, job(model={"path": str(model_copy)}), "scheduler")


def test_model_with_code(cli: Cli, job: MakeJob, model_copy: Path) -> None:
    config = model_copy / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "auto_map": {"AutoModel": "evil.Model"}}))
    refused(cli, job(model={"path": str(model_copy)}), "auto_map")


def test_model_that_does_not_draw(cli: Cli, job: MakeJob, model_copy: Path) -> None:
    index = model_copy / "model_index.json"
    text = index.read_text().replace("StableDiffusionPipeline", "StableDiffusionUpscalePipeline")
    index.write_text(text)
    refused(cli, job(model={"path": str(model_copy)}), "text-to-image", "StableDiffusionUpscalePipeline")


def test_cut_off_weights(cli: Cli, job: MakeJob, model_copy: Path) -> None:
    weights = next((model_copy / "unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    refused(cli, job(model={"path": str(model_copy)}), weights.name)
    weights.write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    refused(cli, job(model={"path": str(model_copy)}), weights.name)


def test_no_memory_for_the_model(cli: Cli, job: MakeJob, model_copy: Path, tmp_path: Path) -> None:
    """A file that says it holds 4 TB of weights, almost all of it a hole on the disk."""
    weights = next((model_copy / "unet").glob("*.safetensors"))
    size = 4 << 40
    header = json.dumps({"x": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    weights.write_bytes(struct.pack("<Q", len(header)) + header)
    os.truncate(weights, 8 + len(header) + size)
    answer = cli("run", job(model={"path": str(model_copy)}), "--in-process")
    assert answer.code == 2
    assert "GiB of free memory" in answer.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("place", "got"),
    [("file", "a file"), ("file/below", "a path below a file"), ("x" * 300, "a name that is too long")],
)
def test_a_path_that_cannot_be_a_folder(cli: Cli, job: MakeJob, tmp_path: Path, place: str, got: str) -> None:
    """It was called a failure of the storage, to be tried again when the storage answers."""
    (tmp_path / "file").write_text("name: a job file, for example")
    path = tmp_path / place
    refused(cli, job(output={"url": str(path)}), "job.yaml:", "output.url", got, "a folder")
    for command in ("status", "verify", "report", "retry", "score"):
        answer = cli(command, path, *(["--metric", "image"] if command == "score" else []))
        assert answer.code == 2, (command, answer)
        assert f"expected a folder, or the name of a new one, got {got}" in " ".join(answer.err.split())


@pytest.mark.parametrize("command", ["status", "verify", "report", "retry", "doctor"])
def test_no_password_in_a_url(cli: Cli, command: str) -> None:
    answer = cli(command, "s3://me:hunter2@bucket/x")
    assert answer.code == 2, answer
    assert "a URL without user and password" in answer.err
    assert "hunter2" not in answer.err


def test_output_of_another_job(cli: Cli, job: MakeJob, tmp_path: Path) -> None:
    assert cli("run", job(), "--in-process").code == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    changed = job(generation={"guidance_scale": 2.5, "negative_prompt": "blurry"}, seed=9)
    for command in (["plan"], ["run", "--in-process"]):
        answer = cli(command[0], changed, *command[1:])
        assert answer.code == 2
        for field in ("generation.guidance_scale", "generation.negative_prompt", "seed"):
            assert field in answer.err
        assert "num_inference_steps" not in answer.err
    assert before == {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    renamed = job(name="other.yaml", compute={"workers": 7, "step_timeout_s": 10})
    assert cli("plan", renamed).code == 0  # how it runs is no part of what it makes


def test_strangers_job_json(cli: Cli, job: MakeJob, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "job.json").write_text('{"hello": 1}')
    answer = cli("run", job(), "--in-process")
    assert answer.code == 2
    assert "job.json" in answer.err


STRANGE = {
    "null": None,
    "empty": "",
    "spaces": " \t\u3000\n",
    "huge": "y" * (10 << 20),
    "nul": "a\0b",
    "ansi": "\x1b[31mred\x1b[0m \x1b]0;title\x07",
    "bidi": "abc \u202edef\u202c",
    "emoji": "👩‍🚀🔥 in space",
    "markup": "[bold red]not markup[/] <script>alert(1)</script>",
    "negative": "x\nNegative prompt: y\nSteps: 1, Seed: 5",
}
FAILING = {"null", "empty", "spaces", "huge"}


def test_strange_prompts_cost_only_themselves(cli: Cli, job: MakeJob, tmp_path: Path) -> None:
    path = write_source(tmp_path, "odd.parquet", pa.table({"prompt": list(STRANGE.values()), "key": list(STRANGE)}))
    answer = cli(
        "run", job(prompts={"source": str(path)}, generation={"images_per_prompt": 1}), "--in-process", "--json"
    )
    assert answer.code == 3, answer
    assert answer.json["samples"] == len(STRANGE)
    assert answer.json["failed"] == len(FAILING)
    assert answer.json["kept"] == len(STRANGE) - len(FAILING)
    failed = {row["key"]: row for row in records(tmp_path / "out", "failures")}
    assert failed.keys() == FAILING
    assert failed["huge"]["error_kind"] == "prompt_too_long"
    assert failed["huge"]["prompt"] == STRANGE["huge"]
    assert {failed[key]["error_kind"] for key in ("null", "empty", "spaces")} == {"empty_prompt"}
    kept = {row["key"]: row for row in records(tmp_path / "out")}
    assert all(kept[key]["prompt"] == STRANGE[key] for key in kept)
    assert cli("verify", tmp_path / "out", "--deep").code == 0


def test_broken_unicode_costs_only_itself(cli: Cli, job: MakeJob, tmp_path: Path) -> None:
    broken = pa.array([b"fine", b"\xed\xa0\x80 lone surrogate", b"\xff\xfe"], pa.binary()).view(pa.string())
    path = write_source(tmp_path, "u.parquet", pa.table({"prompt": broken}))
    answer = cli(
        "run", job(prompts={"source": str(path)}, generation={"images_per_prompt": 1}), "--in-process", "--json"
    )
    assert (answer.code, answer.json["kept"], answer.json["failed"]) == (3, 1, 2)
    assert {row["error_kind"] for row in records(tmp_path / "out", "failures")} == {"invalid_text"}


def test_lone_surrogates_in_json_lines(cli: Cli, job: MakeJob, tmp_path: Path) -> None:
    path = write_source(tmp_path, "u.jsonl", b'{"prompt": "fine"}\n{"prompt": "\\ud83d alone"}\n')
    answer = cli(
        "run", job(prompts={"source": str(path)}, generation={"images_per_prompt": 1}), "--in-process", "--json"
    )
    assert (answer.code, answer.json["kept"], answer.json["failed"]) == (3, 1, 1)


BROKEN = pa.array([b"fine", b"\xff\xfe here", None], pa.binary()).view(pa.string())


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("b.parquet", pa.table({"prompt": ["a", "b", "c"], "x": BROKEN}), "\ufffd\ufffd here"),
        ("b.jsonl", b'{"prompt": "a", "x": "k"}\n{"prompt": "b", "x": "\\ud800"}\n{"prompt": "c"}\n', "\ufffd" * 3),
        (
            "b.jsonl",
            b'{"prompt": "a", "x": {"y": ["k"]}}\n{"prompt": "b", "x": {"y": ["\\ud800"]}}\n{"prompt": "c"}\n',
            {"y": ["\ufffd" * 3]},
        ),
    ],
)
def test_broken_unicode_in_another_column(
    cli: Cli, job: MakeJob, tmp_path: Path, name: str, content: Any, expected: Any
) -> None:
    """The row is as lost as one with a broken prompt; report, card and `datasets` read what is written."""
    path = write_source(tmp_path, name, content)
    answer = cli(
        "run", job(prompts={"source": str(path)}, generation={"images_per_prompt": 1}), "--in-process", "--json"
    )
    assert (answer.code, answer.json["kept"], answer.json["failed"]) == (3, 2, 1), answer
    (row,) = records(tmp_path / "out", "failures")
    assert (row["prompt"], row["x"], row["error_kind"]) == ("b", expected, "invalid_text")
    assert (tmp_path / "out" / "report" / "index.html").exists()
    assert (tmp_path / "out" / "README.md").exists()


def test_empty_objects_in_json_lines(cli: Cli, job: MakeJob, tmp_path: Path) -> None:
    """Parquet has no struct without fields: as text they can be written."""
    path = write_source(tmp_path, "e.jsonl", b'{"prompt": "a", "m": {}, "n": {"c": [{}], "d": 1}}\n{"prompt": "b"}\n')
    answer = cli("run", job(prompts={"source": str(path)}, generation={"images_per_prompt": 1}), "--in-process")
    assert answer.code == 0, answer
    assert [(row["m"], row["n"]) for row in records(tmp_path / "out")] == [
        ("{}", {"c": ["{}"], "d": 1}),
        (None, None),
    ]


IDS = ["a/b/../../etc/passwd", "..", "nul\0inside", "x" * 300, "Case", "case", "\x1b[31m", "<b>", "ü" * 100, " "]


def test_strange_ids_stay_what_they_are(cli: Cli, job: MakeJob, tmp_path: Path) -> None:
    path = write_source(tmp_path, "ids.parquet", pa.table({"prompt": ["a red circle"] * len(IDS), "id": IDS}))
    made = job(prompts={"source": str(path), "columns": {"id": "id"}}, generation={"images_per_prompt": 1})
    answer = cli("run", made, "--in-process", "--json")
    assert (answer.code, answer.json["kept"]) == (0, len(IDS))
    rows = records(tmp_path / "out")
    assert [row["prompt_id"] for row in rows] == IDS
    assert len({row["sample_id"] for row in rows}) == len(IDS)
    assert {path.name for path in tmp_path.iterdir()} <= {"ids.parquet", "job.yaml", "out", "prompts.parquet"}
    assert "\x1b" not in answer.err
