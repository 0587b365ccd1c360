"""Pictures that are bombs: one costs only itself, many stay in little memory."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from promptmill.pipeline.evaluation.looked import reference_images
from promptmill.pipeline.export.layouts.dpg import grid_png
from promptmill.pipeline.export.trees import as_png
from promptmill.pipeline.prompts.decoding import decode
from promptmill.pipeline.prompts.pixels import MAX_PIXELS, ImageError, decode_image, open_image
from promptmill.pipeline.prompts.thumbs import thumbnail
from promptmill.pipeline.scores import score_dataset as scoring
from promptmill.pipeline.scores.image import ImageStatistics
from promptmill.pipeline.storage.store import Store
from promptmill.pipeline.worker.reproduce import compare_images
from promptmill.schemas.errors import SampleError
from tests.engine.conftest import Answer


def bomb(side: int = 13_000) -> bytes:
    """A PNG of a few hundred bytes whose header, with its checksum, says side × side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b"")
    )


def picture(side: int = 16, form: str = "PNG") -> bytes:
    sink = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), 99, np.uint8)).save(sink, form)
    return sink.getvalue()


BAD = {
    "bomb": bomb(),
    "huge": bomb(60_000),
    "cut off": picture()[:60],
    "text": b"x",
    "empty": b"",
    "eps": b"%!PS-Adobe",
}


@pytest.mark.parametrize("name", BAD)
def test_every_door(name: str) -> None:
    data = BAD[name]
    for opens in (decode_image, as_png if not data.startswith(b"\x89PNG") else decode_image):
        with pytest.raises(ImageError):
            opens(data)
    with pytest.raises(ImageError):
        grid_png([data, data, data, data])
    with pytest.raises(SampleError):
        decode(data, "image")
    assert thumbnail(data) is None
    assert compare_images(picture(), data)["identical"] is False


def test_no_other_program_is_started() -> None:
    sink = io.BytesIO()
    Image.new("RGB", (8, 8)).save(sink, "EPS")
    with pytest.raises(ImageError):
        decode_image(sink.getvalue())


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"]),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_any_bytes_in_a_picture(form: str, flips: list[tuple[int, int]]) -> None:
    data = bytearray(picture(form=form))
    for place, value in flips:
        data[place % len(data)] = value
    try:
        assert decode_image(bytes(data)).size <= 3 * MAX_PIXELS
    except ImageError:
        assert thumbnail(bytes(data)) is None


def test_one_costs_only_itself(tmp_path: Path, cli: Callable[..., Answer]) -> None:
    images: list[Any] = [{"bytes": data} for data in (picture(), bomb(), bomb(60_000), picture(24), b"x")]
    pq.write_table(pa.table({"image": images, "caption": ["a"] * 5}), tmp_path / "a.parquet")
    answer = cli("score", tmp_path, "--metric", "image", "--json")
    assert answer.code == 0, answer
    assert (answer.json["images"], answer.json["left_out"]) == (2, 3)
    folder = tmp_path / "reference"
    folder.mkdir()
    for name, data in {"a.png": picture(), "b.png": bomb(), "c.jpg": picture(form="JPEG"), **BAD}.items():
        (folder / name).with_suffix(".png").write_bytes(data)
    seen = [each.pixels for each in reference_images(str(folder))]
    assert sum(pixels is not None for pixels in seen) == 2


def test_many_large_ones_are_decoded_again_instead_of_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [{"bytes": picture(side)} for side in (32, 33, 34, 35)]
    pq.write_table(pa.table({"image": images, "caption": list("abcd")}), tmp_path / "a.parquet")
    unit = scoring.Unit("a", ("a.parquet",))
    whole, _ = scoring.read_pictures(Store(str(tmp_path)), unit)
    monkeypatch.setattr(scoring, "_HELD_BYTES", 32 * 32 * 3)
    few, _ = scoring.read_pictures(Store(str(tmp_path)), unit)
    assert [isinstance(each.image, bytes) for each in few] == [False, True, True, True]
    for mine, theirs in zip(
        ImageStatistics().score(few).values(), ImageStatistics().score(whole).values(), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)


def test_a_picture_of_the_largest_size_is_opened() -> None:
    with open_image(bomb(9_990)) as header:
        assert header.size == (9_990, 9_990)
