"""Images of prompts: decoded with care, a bad one costs its sample, and what the mask leaves black stays as it is."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import zlib
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from promptmill.pipeline.models.catalog.resolve import resolve_model
from promptmill.pipeline.prompts import inputs, servers
from promptmill.pipeline.prompts.decoding import decode, fit
from promptmill.pipeline.prompts.inputs import InputReader, drawn_size
from promptmill.pipeline.prompts.pixels import MAX_PIXELS
from promptmill.pipeline.prompts.source import open_source
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import SampleError
from promptmill.schemas.generation import Generation, Model
from promptmill.schemas.inputs import Input
from promptmill.schemas.origin import is_marked
from promptmill.schemas.plan import Sample
from promptmill.schemas.prompts import Columns, Prompts
from promptmill.schemas.resolved import ResolvedModel
from tests.engine.conftest import Answer, records

Cli = Callable[..., Answer]
Job = Callable[..., Path]


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def picture(number: int = 0, size: tuple[int, int] = (64, 64)) -> Image.Image:
    rng = np.random.default_rng(number)
    return Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))


GREY = np.full((16, 16), 30_000, np.uint16)


@pytest.mark.parametrize(
    ("data", "colour"),
    [
        (encoded(Image.new("L", (16, 16), 100)), (100, 100, 100)),
        (encoded(Image.new("P", (16, 16), 0)), (0, 0, 0)),
        (encoded(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "JPEG"), (0, 255, 255)),
        (encoded(Image.fromarray(GREY)), (117, 117, 117)),  # Pillow's own conversion says 255
        (encoded(Image.new("RGBA", (16, 16), (255, 0, 0, 0))), (255, 255, 255)),
        (encoded(Image.new("1", (16, 16), 1)), (255, 255, 255)),
    ],
    ids=["grey", "palette", "cmyk", "16 bits", "transparent", "1 bit"],
)
def test_every_kind_of_pixel_becomes_rgb(data: bytes, colour: tuple[int, int, int]) -> None:
    pixels, flags, _ = decode(data, "image")
    assert pixels.shape == (16, 16, 3)
    assert np.abs(pixels.reshape(-1, 3).astype(int) - colour).max() <= 2
    assert flags == ()


def test_a_photo_stands_upright_and_a_film_gives_its_first_frame() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    pixels, *_ = decode(encoded(picture(size=(20, 10)), "JPEG", exif=exif), "image")
    assert pixels.shape == (20, 10, 3)
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    pixels, flags, _ = decode(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), "image")
    assert tuple(pixels[0, 0]) == (255, 0, 0)
    assert flags == ("animated_input",)


def bomb() -> bytes:
    """A header that says 30,000 × 30,000, and little behind it."""
    data = bytearray(encoded(Image.new("RGB", (16, 16))))
    data[16:24] = (30_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")  # of the header, without which it is no PNG
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"<!DOCTYPE html><html>not here</html>", "a web page"),
        (b"hello", "no image that Pillow knows"),
        (encoded(picture(size=(64, 64)), "JPEG")[:900], "broken or cut off"),
        (encoded(Image.new("RGB", (1, 1))), "1×1; the least side is 8"),
        (bomb(), "30000×30000, more than 100,000,000 pixels"),
    ],
    ids=["html", "text", "truncated", "1x1", "bomb"],
)
def test_what_is_no_image_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(SampleError, match=reason) as refused:
        decode(data, "image")
    assert refused.value.kind == "input"
    assert MAX_PIXELS < 30_000 * 30_000


def test_a_webp_of_too_many_pixels_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its reader refuses before it gives a size."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000)
    with pytest.raises(SampleError, match="4,096 pixels, more than 100,000,000 pixels"):
        decode(encoded(picture(), "WEBP"), "image")


def test_images_of_one_folder_are_read_by_one_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each image opened a store of its own, which over SFTP is a connection."""
    opened: list[str] = []
    monkeypatch.setattr(servers, "Store", lambda url, **options: opened.append(url) or Store(url, **options))
    reader = InputReader(Store(str(tmp_path / "out")))
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode())
    assert [reader.read(str(tmp_path / name)) for name in ("a", "b", "a")] == [b"a", b"b", b"a"]
    assert opened == [str(tmp_path)]


def test_fitting_cuts_adds_or_stretches() -> None:
    wide = np.zeros((10, 20, 3), np.uint8)
    wide[:, 5:15] = 200
    assert fit(wide, 10, 10, "cover").min() == 200
    contained = fit(wide, 20, 20, "contain")
    assert contained.shape == (20, 20, 3) and contained[:4].max() == 0
    assert fit(wide, 10, 10, "stretch")[:, 0].max() < 50


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A JSON Lines file beside a folder of images: two that are fine, one of another size, and bad ones."""
    folder = tmp_path / "in" / "images"
    folder.mkdir(parents=True)
    for number, size in enumerate([(64, 64), (64, 64), (80, 48)]):
        picture(number, size).save(folder / f"{number}.png")
    (folder / "empty.png").write_bytes(b"")
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (16, 16, 48, 48))
    mask.save(folder / "mask.png")
    Image.new("L", (64, 64), 0).save(folder / "black.png")
    return tmp_path / "in"


def write(photos: Path, rows: list[dict[str, Any]]) -> str:
    path = photos / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_images_from_images_and_a_bad_one_costs_itself(cli: Cli, job: Job, photos: Path, tmp_path: Path) -> None:
    names = ["images/0.png", "images/1.png", "images/2.png", "images/none.png", "images/empty.png", None, ""]
    rows = [{"prompt": "a red circle", "photo": name, "tag": i} for i, name in enumerate(names)]
    source = write(photos, rows)
    given = {"source": source, "columns": {"image": "photo"}}
    path = job(prompts=given, generation={"strength": 0.5, "images_per_prompt": 2, "num_inference_steps": 4})
    answer = cli("run", path, "--in-process", "--json")
    assert answer.code == 3, answer.err
    assert (answer.json["kept"], answer.json["failed"]) == (6, 8)
    kept = records(tmp_path / "out")
    assert {(row["width"], row["height"]) for row in kept} == {(64, 64), (80, 48)}
    assert {row["task"] for row in kept} == {"image-to-image"}
    assert {row["strength"] for row in kept} == {0.5}
    assert {row["pipeline_class"] for row in kept} == {"StableDiffusionImg2ImgPipeline"}
    assert all(len(row["input_image_sha256"]["image"]) == 64 and row["input_image"].endswith(".png") for row in kept)
    failed = records(tmp_path / "out", "failures")
    assert {row["error_kind"] for row in failed} == {"input"}
    assert sorted({row["message"].split(" ")[0] for row in failed}) == [
        str(photos / "images/empty.png"),
        "image:",
        "no",
    ]
    picture(7).save(photos / "images" / "none.png")
    retried = cli("retry", tmp_path / "out", "--in-process", "--json")
    assert retried.code == 3, retried.err
    assert len(records(tmp_path / "out")) == 8


def test_outside_the_mask_nothing_changes(cli: Cli, job: Job, photos: Path, tmp_path: Path) -> None:
    rows = [
        {"prompt": "a blue square", "image": "images/0.png", "mask": "images/mask.png"},
        {"prompt": "a star", "image": "images/1.png", "mask": "images/mask.png"},
        {"prompt": "a star", "image": "images/1.png", "mask": "images/black.png"},
    ]
    columns = {"image": "image", "mask": "mask"}
    path = job(prompts={"source": write(photos, rows), "columns": columns}, generation={"images_per_prompt": 1})
    assert cli("run", path, "--in-process").code == 3
    kept = records(tmp_path / "out")
    assert len(kept) == 2
    for row, number in zip(kept, (0, 1), strict=True):
        made, given = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))), np.asarray(picture(number))
        outside = np.ones((64, 64), bool)
        outside[16:48, 16:48] = False
        assert np.array_equal(made[outside], given[outside])
        assert not np.array_equal(made[~outside], given[~outside])
        assert row["task"] == "inpainting" and row["strength"] == 1.0
        assert b"digitalsourcetype/compositeWithTrainedAlgorithmicMedia" in row["image"]["bytes"]
        assert is_marked(row["image"]["bytes"])
    again = ("--out", tmp_path / "again.png", "--json")
    assert cli("reproduce", tmp_path / "out", kept[0]["sample_id"], *again).json["identical"]
    (failed,) = records(tmp_path / "out", "failures")
    assert "black all over" in failed["message"]


def test_blur_and_crop_of_masks_are_swept_recorded_and_made_again(
    cli: Cli, job: Job, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"prompt": "a star", "image": f"images/{number}.png", "mask": "images/mask.png"} for number in (0, 1)]
    prompts = {"source": write(photos, rows), "columns": {"image": "image", "mask": "mask"}}
    path = job(
        prompts=prompts, generation={"mask_blur": 2}, sweep={"mask_crop": [None, 4]}, output={"keep_inputs": True}
    )
    assert cli("run", path, "--in-process").code == 0
    kept = records(tmp_path / "out")
    assert {row["mask_blur"] for row in kept} == {2.0} and {row["mask_crop"] for row in kept} == {None, 4}
    outside = np.ones((64, 64), bool)
    outside[16 - 8 : 48 + 8, 16 - 8 : 48 + 8] = False
    by_crop: dict[int | None, Any] = {}
    for row in kept:
        made = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))
        given = [np.asarray(picture(number)) for number in (0, 1)]
        assert any(np.array_equal(made[outside], each[outside]) for each in given)
        if row["prompt_id"] == kept[0]["prompt_id"] and row["sample_index"] == 0:
            by_crop[row["mask_crop"]] = made
    assert not np.array_equal(by_crop[None], by_crop[4])
    monkeypatch.chdir(tmp_path)  # where it writes the image
    assert cli("reproduce", tmp_path / "out", kept[-1]["sample_id"]).code == 0


@pytest.mark.parametrize("form", ["bytes", "struct"])
def test_images_that_lie_in_the_source_are_read_where_they_are(
    cli: Cli, job: Job, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = [encoded(picture(number)) for number in range(40)]
    cells = pa.array(data) if form == "bytes" else pa.array([{"bytes": each, "path": None} for each in data])
    source = tmp_path / "own.parquet"
    pq.write_table(pa.table({"prompt": ["a star"] * 40, "picture": cells}), source, row_group_size=25)
    prompts = {"source": str(source), "columns": {"image": "picture"}, "limit": 30}
    path = job(prompts=prompts, generation={"images_per_prompt": 1}, output={"images_per_shard": 7}, score=None)
    assert cli("run", path, "--in-process").code == 0
    rows = records(tmp_path / "out")
    assert "picture" not in rows[0]
    assert [row["input_image_sha256"]["image"] for row in rows] == [hashlib.sha256(d).hexdigest() for d in data[:30]]
    monkeypatch.chdir(tmp_path)  # where it writes the image
    assert cli("reproduce", tmp_path / "out", rows[9]["sample_id"]).code == 0


def test_the_row_says_how_far_to_go(cli: Cli, job: Job, photos: Path, tmp_path: Path) -> None:
    def made(values: list[float | None]) -> Path:
        rows = [{"prompt": "a star", "image": "images/0.png", "how_far": value} for value in values]
        columns = {"image": "image", "strength": "how_far"}
        generation = {"images_per_prompt": 1, "num_inference_steps": 4, "strength": 0.7}
        given = {"source": write(photos, rows), "columns": columns}
        return job(prompts=given, generation=generation, output={"keep_inputs": True})

    answer = cli("run", made([0.3, None, 1.5, 0.01]), "--in-process")
    assert (answer.code, "row 2: expected a number above 0" in answer.err, "none at 0.01" in answer.err) == (
        2,
        True,
        True,
    )
    assert cli("run", made([0.3, None]), "--in-process").code == 0
    assert [row["strength"] for row in records(tmp_path / "out")] == [0.3, 0.7]
    (kept,) = (tmp_path / "out" / "inputs" / "images").iterdir()
    assert kept.read_bytes() == (photos / "images" / "0.png").read_bytes()
    assert kept.name == records(tmp_path / "out")[0]["input_image_sha256"]["image"]
    (photos / "images" / "0.png").unlink()
    assert cli("report", tmp_path / "out").code == 0
    pages = (tmp_path / "out" / "report" / "data").glob("prompts-000.*.js")
    assert all('"inputs":{"image":[64,64]}' in page.read_text() for page in pages)
    assert cli("verify", tmp_path / "out").code == 0


def test_what_cannot_work_is_refused_before_anything_is_loaded(cli: Cli, job: Job, photos: Path, models: Path) -> None:
    source = write(photos, [{"prompt": "a star", "image": "images/0.png"}])
    columns = {"image": "image"}
    answer = cli("validate", job(prompts={"source": source, "columns": columns}, generation={"strength": 0.2}))
    assert answer.code == 2
    assert "generation.strength: expected at least 0.5 with 2 steps" in answer.err
    answer = cli("validate", job(generation={"strength": 0.5}))
    assert "strength" in answer.err and "prompts.columns.image" in answer.err and answer.code == 2
    answer = cli("validate", job(prompts={"source": source, "columns": {"mask": "image"}}))
    assert "prompts.columns.image" in answer.err and answer.code == 2


@pytest.mark.parametrize(
    ("asked", "size"),
    [({}, (64, 192)), ({"fit": "contain"}, (128, 128)), ({"width": 96}, (96, 128)), ({"height": 32}, (128, 32))],
)
def test_which_size_is_drawn(asked: dict[str, Any], size: tuple[int, int]) -> None:
    """A `fit` alone did nothing, and photos larger than the model draws failed one by one."""
    model = ResolvedModel("m", "m", "r", "float32", "P", "S", 128, 128, 8, 256, 1, True)
    assert drawn_size((67, 190), Generation(**asked), model) == size
    assert drawn_size(None, Generation(), model) == (128, 128)
    with pytest.raises(SampleError, match="300×400, and m draws at most 256; set generation.fit, or width and height"):
        drawn_size((300, 400), Generation(), model)


def test_a_folder_of_images_with_metadata_and_a_dataset_of_ours(
    cli: Cli, job: Job, photos: Path, tmp_path: Path
) -> None:
    for bad in ("empty.png", "mask.png", "black.png"):
        (photos / "images" / bad).unlink()
    columns = {"prompt": "text", "image": "file_name"}
    path = job(prompts={"source": str(photos / "images"), "columns": columns}, score=None)
    answer = cli("validate", path)
    assert answer.code == 2 and "Write metadata.jsonl beside the images" in answer.err
    lines = [json.dumps({"file_name": f"{number}.png", "text": "a red circle"}) for number in range(2)]
    (photos / "images" / "metadata.jsonl").write_text("\n".join(lines))
    assert cli("run", path, "--in-process").code == 0
    first = records(tmp_path / "out")
    columns = {"prompt": "prompt", "image": "image", "id": "sample_id"}
    again = job(
        prompts={"source": str(tmp_path / "out"), "columns": columns},
        generation={"images_per_prompt": 1},
        output={"url": str(tmp_path / "refined")},
        score=None,
        name="again.yaml",
    )
    assert cli("run", again, "--in-process").code == 0
    refined = records(tmp_path / "refined")
    assert [row["prompt_id"] for row in refined] == [row["sample_id"] for row in first]
    assert [row["input_image_sha256"]["image"] for row in refined] == [row["image_sha256"] for row in first]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_a_struct_that_names_a_file_means_one_beside_its_own(
    cli: Cli, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It was looked for in the current folder, and of a text in that of the copy."""
    folder = tmp_path / "elsewhere"
    (folder / "img").mkdir(parents=True)
    for place in ("a.png", "img/b.png"):
        (folder / place).write_bytes(encoded(picture()))
    rows = [{"prompt": "a red circle", "image": {"bytes": None, "path": place}} for place in ("a.png", "img/b.png")]
    if name.endswith(".parquet"):
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        images = pa.array([row["image"] for row in rows], kind)
        pq.write_table(pa.table({"prompt": [row["prompt"] for row in rows], "image": images}), folder / name)
    else:
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = job(prompts={"source": str(folder / name), "columns": {"image": "image"}}, score=None)
    monkeypatch.chdir(tmp_path)
    answer = cli("run", made, "--in-process", "--json")
    assert answer.code == 0 and answer.json["failed"] == 0, answer


def test_an_address_is_not_cut_inside_of_its_query() -> None:
    asked: list[str] = []

    class Shelf(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "6")
            self.end_headers()
            self.wfile.write(b"pixels")

        def do_HEAD(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "6")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Shelf) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"http://127.0.0.1:{server.server_port}/images/b.png?path=/a/c.png&sig=x/y="
        assert InputReader(Store(f"memory://{uuid4().hex}")).read(place) == b"pixels"
        server.shutdown()
    assert set(asked) == {"/images/b.png?path=/a/c.png&sig=x/y="}


@pytest.mark.parametrize("lies", ["beside the source", "in the source"])
def test_one_prompt_over_several_images_is_no_repeat(lies: str, tmp_path: Path) -> None:
    places = [str(tmp_path / f"{number}.png") for number in (0, 1, 0, 2)]
    for number in range(3):
        picture(number).save(tmp_path / f"{number}.png")
    images = places if lies == "beside the source" else [Path(place).read_bytes() for place in places]
    pq.write_table(pa.table({"prompt": ["a red circle"] * 4, "image": images}), tmp_path / "a.parquet")
    notices = open_source(Prompts(source=str(tmp_path / "a.parquet"), columns=Columns(image="image"))).notices
    told = [notice for notice in notices if "repeated" in notice]
    assert told == (["prompts.source: of 4 prompts 1 is repeated"] if lies == "beside the source" else [])


def test_only_who_knows_the_image_gets_the_one_that_was_kept(tmp_path: Path, models: Path) -> None:
    """A mate of the same prompt came first without its hash, and all were drawn from what lies there now."""
    before, now = encoded(picture(1)), encoded(picture(2))
    out = Store(str(tmp_path / "out"))
    sha256 = InputReader(out, keep=True).hash_of(before)
    (tmp_path / "a.png").write_bytes(now)
    model = resolve_model(Model(path=str(models / "sd")), "model")
    mate = Sample("s0", "p", 0, 0, 0, "a", "", "a", inputs={"image": Input(str(tmp_path / "a.png"))})
    asked = replace(mate, sample_id="s1", inputs={"image": Input(str(tmp_path / "a.png"), sha256=sha256)})
    found = inputs.prepare_all([mate, asked], InputReader(out), Generation(), model)
    assert found[1].inputs["image"].sha256 == sha256 != found[0].inputs["image"].sha256


def test_a_failure_that_is_kept_holds_no_photo(tmp_path: Path, models: Path) -> None:
    """Its traceback's frames did: 32 photos of 12 megapixels that were too large took 1.2 GB until the shard's end."""
    (tmp_path / "a.png").write_bytes(encoded(picture(1, (640, 64))))
    model = replace(resolve_model(Model(path=str(models / "sd")), "model"), max_size=128)
    asked = Sample("s0", "p", 0, 0, 0, "a", "", "a", inputs={"image": Input(str(tmp_path / "a.png"))})
    (found,) = inputs.prepare_all([asked], InputReader(Store(str(tmp_path / "out"))), Generation(), model)
    assert found.error is not None and "draws at most 128" in str(found.error)
    assert (found.error.__traceback__, found.error.__cause__, found.error.__context__) == (None, None, None)


def test_a_photo_larger_than_the_model_may_be_drawn_in_part(models: Path) -> None:
    model = replace(resolve_model(Model(path=str(models / "sd")), "model"), max_size=128)
    with pytest.raises(SampleError, match="draws at most 128"):
        drawn_size((304, 200), Generation(), model)
    assert drawn_size((304, 200), Generation(mask_crop=8), model) == (304, 200)
