"""WebDataset tars as the source: rows by key, images read where they lie, and a tar that lies refused by name."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from promptmill.pipeline.prompts.inputs import InputReader, locator
from promptmill.pipeline.prompts.source import open_source
from promptmill.pipeline.prompts.tars import read_tar
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import InputError, SampleError
from promptmill.schemas.plan import SourceFile
from promptmill.schemas.prompts import Prompts
from tests.engine.conftest import Answer, records
from tests.engine.test_inputs import encoded, picture

Cli = Callable[..., Answer]
Job = Callable[..., Path]
GENERATION = {"images_per_prompt": 1, "num_inference_steps": 2, "strength": 0.5}


def pack(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def sample(number: int, key: str = "", **more: bytes) -> dict[str, bytes]:
    key = key or f"{number:04d}"
    return {f"{key}.jpg": encoded(picture(number), "JPEG"), f"{key}.txt": f"a star {number}".encode(), **more}


def test_a_row_for_each_key_and_its_image_where_it_lies(cli: Cli, job: Job, tmp_path: Path) -> None:
    """JSON beside a text of the same name stands behind `json_`; what is neither text nor image is counted."""
    shards = tmp_path / "shards"
    shards.mkdir()
    mask = Image.new("L", (64, 64), 255)
    first = {**sample(0), "0000.json": b'{"txt": "other", "width": 64}', "0000.mask.png": encoded(mask)}
    first |= {**sample(1), "0001.mask.png": encoded(mask), "0001.npy": b"x", "0001.json": b'{"width": 32}'}
    pack(shards / "a.tar", first)
    (shards / "a_stats.json").write_text("{}")
    prompts = {"source": str(shards), "columns": {"image": "jpg", "mask": "mask"}}
    path = job(prompts=prompts, generation=GENERATION, score=None, output={"keep_inputs": True})
    answer = cli("validate", path)
    assert (answer.code, "1 files that end in npy left out" in answer.out + answer.err) == (0, True), answer.err
    answer = cli("run", path, "--in-process", "--json")
    assert (answer.code, answer.json["kept"]) == (0, 2), answer.err
    rows = records(tmp_path / "out")
    assert [(row["prompt"], row["__key__"], row["input_width"]) for row in rows] == [
        ("a star 0", "0000", 64),
        ("a star 1", "0001", 32),
    ]
    assert (rows[0]["json_txt"], rows[0]["prompt_id"]) == ("other", "a.tar:0")
    kept = {path.read_bytes() for path in (tmp_path / "out/inputs/images").iterdir()}
    assert kept == {first["0000.jpg"], first["0001.jpg"], encoded(mask)}
    more = {"0002.mask.png": encoded(mask), "0002.json": b'{"txt": "other", "width": 8}'}
    pack(shards / "b.tar", sample(2) | more)
    assert cli("run", path, "--in-process", "--extend", "--json").json["kept"] == 3


def test_shards_differ_in_fields_and_a_key_that_stands_twice_is_told(cli: Cli, job: Job, tmp_path: Path) -> None:
    """What one shard's JSON has and another's has not is null there; of two values of a key the last counts."""
    shards = tmp_path / "shards"
    shards.mkdir()
    pack(shards / "a.tar", {**sample(0), "0000.json": b'{"width": 64, "width": 32, "note": "x"}'})
    pack(shards / "b.tar", {**sample(1), "0001.json": b'{"width": 16, "tags": ["y"]}'})
    pack(shards / "c.tar", sample(2))
    path = job(prompts={"source": str(shards), "columns": {"image": "image"}}, generation=GENERATION, score=None)
    answer = cli("run", path, "--in-process")
    assert answer.code == 0, answer.err
    assert '1 objects have a key twice, such as "width" in 0000.json; the last value counts' in answer.err
    found = [(row["input_width"], row["note"], row["tags"]) for row in records(tmp_path / "out")]
    assert found == [(32, "x", None), (16, None, ["y"]), (None, None, None)]
    pack(shards / "d.tar", {"0003.txt": b"a star", "0003.json": b"{}"})
    answer = cli("validate", path)
    assert (answer.code, "d.tar: expected the columns of a.tar: image" in answer.err) == (2, True), answer.err


def test_a_failed_sample_of_a_tar_is_tried_again(cli: Cli, job: Job, tmp_path: Path) -> None:
    good, bad = sample(0), sample(1)
    bad["0001.jpg"] = bad["0001.jpg"][:600]
    tar = pack(tmp_path / "a.tar", good | bad)
    prompts = {"source": str(tar), "columns": {"image": "image"}}
    assert cli("run", job(prompts=prompts, generation=GENERATION, score=None), "--in-process").code == 3
    (failed,) = records(tmp_path / "out", "failures")
    assert failed["message"].startswith("image: ")
    assert cli("retry", tmp_path / "out", "--in-process").code == 3
    assert len({row["message"] for row in records(tmp_path / "out", "failures")}) == 1


def test_a_tar_that_was_packed_again_is_another(cli: Cli, job: Job, tmp_path: Path) -> None:
    tar = pack(tmp_path / "a.tar", sample(0))
    prompts = {"source": str(tar), "columns": {"image": "image"}}
    path = job(prompts=prompts, generation=GENERATION, score=None)
    assert cli("run", path, "--in-process").code == 0
    place = records(tmp_path / "out")[0]["input_image"]
    reader = InputReader(Store(str(tmp_path / "out")))
    assert reader.read(place) == sample(0)["0000.jpg"]
    other = {"0000.jpg": encoded(picture(5), "JPEG"), "0000.txt": b"a star 0"}
    pack(tar, other)
    with pytest.raises(SampleError, match="another image than when the job was planned"):
        reader.read(place)
    answer = cli("run", path, "--in-process")
    assert (answer.code, "prompts.source.a.tar" in answer.err) == (2, True)


def _links(path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo("a.jpg")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)


def _claims(path: Path, size: int, kind: bytes = tarfile.REGTYPE, name: str = "a.jpg") -> None:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(2048))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: pack(path, {"../../a.jpg": b"x"}), "names below the tar's own folder"),
        (lambda path: pack(path, {"/a.jpg": b"x"}), "names below the tar's own folder"),
        (lambda path: pack(path, {"a\x1b[2J.jpg": b"x"}), "printable characters"),
        (lambda path: pack(path, {"b" * 2000 + ".jpg": b"x"}), "at most 1,024"),
        (_links, "a.jpg: expected files alone"),
        (lambda path: _claims(path, 1 << 40), "1,099,511,627,776 bytes"),
        (lambda path: _claims(path, 1 << 20), "the end is missing"),
        (lambda path: _claims(path, 4 << 30, tarfile.XHDTYPE), "a header of 4,294,967,296 bytes"),
        (lambda path: _claims(path, 4 << 30, tarfile.GNUTYPE_LONGNAME), "a header of 4,294,967,296 bytes"),
        (lambda path: pack(path, {"a.jpg": b"x", "a.png": b"y"}), "one image for each key"),
        (lambda path: pack(path, {"a.json": b"[1]"}), "one JSON object"),
        (lambda path: pack(path, {"a.json": b"{"}), "a.json: expected JSON"),
        (lambda path: pack(path, {"a.json": b'{"x":' * 300 + b"1" + b"}" * 300}), "at most 90 levels"),
        (lambda path: pack(path, {"a.json": b'{"x":' * 900 + b"1" + b"}" * 900}), "at most 90 levels"),
        (lambda path: pack(path, {"a.json": b'{"\\ud800": 1}'}), "half a character"),
        (lambda path: pack(path, {"a.json": b'{"x": {"\\ud800": 1}}'}), "half a character"),
        (lambda path: pack(path, {"a.txt": b"\xff"}), "a.txt: expected UTF-8 text"),
        (lambda path: pack(path, {"a.mp4": b"x"}), "samples, such as 0001.jpg"),
        (lambda path: path.write_bytes(b"no tar at all" * 100), "a whole tar"),
    ],
)
def test_a_tar_that_lies_is_refused_by_name(tmp_path: Path, make: Callable[[Path], object], said: str) -> None:
    path = tmp_path / "bad.tar"
    make(path)
    with pytest.raises(InputError) as refused:
        open_source(Prompts.model_validate({"source": str(path), "columns": {"image": "image"}}))
    assert "bad.tar" in str(refused.value) and said in str(refused.value)


@pytest.mark.parametrize("value", ["1e999", '"\\ud800"', "NaN", "-0.0", "9" * 30, '[1, "x", {}]'])
def test_odd_values_are_read_as_those_of_json_lines(tmp_path: Path, value: str) -> None:
    path = pack(tmp_path / "a.tar", {**sample(0), "0000.json": f'{{"x": {value}}}'.encode()})
    prompts = Prompts.model_validate({"source": str(path), "columns": {"image": "image"}})
    first, again = (open_source(prompts).files[0] for _ in range(2))
    assert first == again and first.rows == 1
    pack(path, {**sample(0), "0000.json": b'{"x": 2}'})
    assert open_source(prompts).files[0].etag != first.etag


def test_a_packed_tar_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(b"")
    with pytest.raises(InputError, match="a tar that is not packed"):
        open_source(Prompts.model_validate({"source": str(path), "columns": {"image": "image"}}))


def test_a_name_with_a_hash_sign_is_one_place(tmp_path: Path) -> None:
    tar = pack(tmp_path / "a#b.tar", {"x#1:2+3.jpg": b"pixels", "x#1:2+3.txt": b"a star"})
    prompts = Prompts.model_validate({"source": str(tar), "columns": {"image": "image"}})
    source = open_source(prompts)
    table, _, _ = read_tar(Store(str(tmp_path)), "a#b.tar", "a#b.tar", prompts)
    place = locator(table.column("image")[0].as_py(), source.files[0], "image", 0)
    assert InputReader(Store(str(tmp_path / "out"))).read(str(place)) == b"pixels"
    assert table.column("prompt").to_pylist() == ["a star"]


@pytest.mark.parametrize("place", ["row:/a/p.parquet#image:3", "tar:/a/p.tar#member:0+1:" + "0" * 32 + ":a.jpg"])
def test_the_place_of_a_row_that_failed_is_read_as_it_is(place: str) -> None:
    """It was taken for a file's name below the copies of the dataset."""
    assert locator(place, SourceFile("retry", "staged:inputs/retry.parquet", 1, 1), "input_image", 0) == place
