"""Photos far larger than what is drawn: in bounded memory, and as the careful way shows them."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from promptmill.pipeline.prompts.cells import Cells
from promptmill.pipeline.prompts.decoding import Room, Target, decode, fit
from promptmill.pipeline.storage.store import Store
from tests.benchmarks.photos import photo
from tests.engine.test_inputs import encoded, picture

TARGETS = [Target(64, 64, "cover"), Target(96, 64, "contain"), Target(40, 72, "stretch")]


@pytest.mark.parametrize("to", TARGETS)
def test_what_is_brought_to_its_size_at_once_is_what_it_was(to: Target) -> None:
    for data in (encoded(picture(1, (300, 200))), encoded(picture(2, (90, 120)).convert("RGBA")), encoded(picture(3))):
        made = decode(data, "image", to)
        assert np.array_equal(made.pixels, fit(decode(data, "image").pixels, *to))
    assert made.size == (64, 64)


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_photo_is_decoded_smaller_and_looks_the_same(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photo(0, (1600, 1200)), "JPEG", exif=exif, quality=90)
    for to in TARGETS:
        made = decode(data, "image", to)
        whole = decode(data, "image")
        careful = fit(whole.pixels, *to)
        assert made.pixels.shape == careful.shape == (to.height, to.width, 3)
        assert np.abs(made.pixels.astype(int) - careful).mean() < 1.5
        assert made.size == whole.size == ((1200, 1600) if orientation == 6 else (1600, 1200))


def test_a_photo_that_is_not_much_too_large_is_decoded_whole() -> None:
    data = encoded(photo(0, (160, 120)), "JPEG", quality=90)
    assert np.array_equal(
        decode(data, "image", Target(64, 64, "cover")).pixels, fit(decode(data, "image")[0], 64, 64, "cover")
    )


def test_what_is_alive_at_once_waits_for_room() -> None:
    room, inside, may_go = Room(100), threading.Event(), threading.Event()
    entered: list[int] = []

    def enter(size: int) -> None:
        with room.taken(size):
            entered.append(size)
            inside.set()
            assert may_go.wait(10)

    first = threading.Thread(target=enter, args=(500,))  # more than there is: alone
    first.start()
    assert inside.wait(10)
    others = [threading.Thread(target=enter, args=(size,)) for size in (40, 60)]
    for each in others:
        each.start()
    assert entered == [500]
    may_go.set()
    for each in (first, *others):
        each.join(10)
    assert sorted(entered) == [40, 60, 500]


def test_cells_are_read_in_any_order_and_mostly_onwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    store = Store(str(tmp_path / "out"))
    cells = Cells(store)
    values = [f"{row}".encode() * 50 for row in range(60)]
    path = str(tmp_path / "cells.parquet")
    pq.write_table(pa.table({"a": values, "b": values[::-1]}), path, row_group_size=25)
    monkeypatch.setattr(
        "promptmill.pipeline.prompts.cells.pq.ParquetFile",
        lambda *given, **named: opened.append(path) or _file(*given, **named),
    )
    ahead = [row + shift for row in range(20) for shift in (0, 16)]
    assert [cells.value(path, "a", row) for row in ahead] == [values[row] for row in ahead]
    assert len(opened) == 2  # one for each that goes on
    for row in (59, 3, 24, 25, 49, 50, 0):
        assert cells.value(path, "b", row) == values[59 - row]
    with pytest.raises(ValueError, match="no row 60"):
        cells.value(path, "a", 60)


_file = pq.ParquetFile

_PEAK = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
from promptmill.pipeline.prompts.inputs import InputReader, prepare
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.generation import Generation
from promptmill.schemas.inputs import Input
from promptmill.schemas.plan import Sample
from promptmill.schemas.resolved import ResolvedModel

model = ResolvedModel("m", "m", "r", "float32", "P", "S", 512, 512, 8, 2048, 1, True)
reader = InputReader(Store(sys.argv[1]))
samples = [
    Sample("s", "p", 0, 0, 0, "a star", "", "a star", inputs={"image": Input(place)})
    for place in sys.argv[3:]
]
generation = Generation(width=int(sys.argv[2]), height=int(sys.argv[2]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with ThreadPoolExecutor(2) as encoders:
    made = list(encoders.map(lambda sample: prepare(sample, reader, generation, model), samples))
assert {each.inputs["image"].pixels.shape for each in made} == {(generation.height, generation.width, 3)}
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1000)
"""


@pytest.fixture(scope="module")
def phone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JPEG of 12 megapixels, and the same in the cells of one row group."""
    folder = tmp_path_factory.mktemp("phone")
    photo(0, (4000, 3000)).save(folder / "photo.jpg", quality=90)
    data = (folder / "photo.jpg").read_bytes()
    assert 1_500_000 < len(data) < 6_000_000
    pq.write_table(pa.table({"photo": [data] * 60}), folder / "photos.parquet")
    return folder


def peak_mb(*arguments: object) -> int:
    command = [sys.executable, "-c", _PEAK, *map(str, arguments)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)


@pytest.mark.parametrize(("side", "most"), [(512, 100), (1600, 220)], ids=["decoded at half", "decoded whole"])
def test_photos_of_12_megapixels_take_little_memory(phone: Path, side: int, most: int) -> None:
    """Two threads that each held one whole, with copies, took 300 MB and more."""
    assert peak_mb(phone / "out", side, *[phone / "photo.jpg"] * 8) < most


def test_photos_in_the_cells_of_a_large_row_group_take_little_memory(phone: Path) -> None:
    places = [f"row:{phone / 'photos.parquet'}#photo:{row}" for row in range(0, 60, 6)]
    assert peak_mb(phone / "out", 512, *places) < 150
