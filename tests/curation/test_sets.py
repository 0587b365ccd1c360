"""Sets of images that samples are held against: folders, Parquet of every kind, and what cannot be one."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from promptmill.pipeline.dataset.image_sets import images_at
from promptmill.pipeline.dataset.labelled import Labelled
from promptmill.pipeline.dataset.open import open_dataset
from promptmill.pipeline.dataset.same_images import same_pairs
from promptmill.pipeline.dataset.state import read_footers
from promptmill.schemas.errors import PromptmillError
from tests.curation.drawn import Picture, make_dataset, scenes, write_images
from tests.curation.test_curate import curated, numbers, reasons, wanted


def as_png(image: Picture) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(image).save(sink, "PNG")
    return sink.getvalue()


@pytest.mark.parametrize(
    ("kind", "wrapped"),
    [
        (pa.struct([("bytes", pa.binary()), ("path", pa.string())]), lambda data: {"bytes": data, "path": "a.png"}),
        (pa.binary(), lambda data: data),
        (pa.large_binary(), lambda data: data),
    ],
    ids=["struct", "bytes", "large-bytes"],
)
def test_a_test_set_of_parquet(tmp_path: Path, kind: pa.DataType, wrapped: Any) -> None:
    own = scenes(4)
    make_dataset(tmp_path, own)
    table = pa.table({"image": pa.array([wrapped(as_png(own[2])), None, wrapped(as_png(own[0]))], kind)})
    pq.write_table(table, tmp_path / "test.parquet")
    found = reasons(curated(tmp_path, wanted(test=(str(tmp_path / "test.parquet"),))))
    assert found == {0: "leak:test.parquet:2", 2: "leak:test.parquet:0"}


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (pa.array([[1, 2]], pa.list_(pa.int64())), "`image` as bytes"),
        (pa.array([{"path": "a.png"}]), "`image` as bytes"),
        (
            pa.array([{"bytes": None, "path": "a.png"}], pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            "0 that do",
        ),
        (pa.array([b"no image"]), "1 that do not decode"),
    ],
    ids=["numbers", "paths", "without-bytes", "broken"],
)
def test_a_set_that_nothing_can_be_a_copy_of_is_refused(tmp_path: Path, column: pa.Array, said: str) -> None:
    make_dataset(tmp_path, scenes(2))
    pq.write_table(pa.table({"image": column}), tmp_path / "test.parquet")
    with pytest.raises(PromptmillError, match=said):
        curated(tmp_path, wanted(test=(str(tmp_path / "test.parquet"),)))


def test_a_class_may_be_called_as_a_folder_of_ours(tmp_path: Path) -> None:
    for name in ("report", "failures", "cat"):
        write_images(tmp_path / "set" / name, scenes(2))
    assert len(images_at(str(tmp_path / "set"), "--real").files) == 6


def test_the_proof_of_a_curated_shard_counts_what_it_kept_of_each_class(tmp_path: Path) -> None:
    own = scenes(5)
    names = ["cat", "cat", "dog", "dog", "dog", "cat"]
    make_dataset(tmp_path, [*own, own[0]], mapped={"label": "animal"}, animal=names)
    before = read_footers(*open_dataset(str(tmp_path / "made")))[0].labels
    out = curated(tmp_path, wanted())
    assert numbers(out) == [0, 1, 2, 3, 4]
    assert before == {"0": 3, "1": 3}
    assert read_footers(*open_dataset(str(out)))[0].labels == {"0": 2, "1": 3}


def test_a_mirrored_image_is_the_same_picture() -> None:
    image, other = scenes(2)
    here, there = (Labelled(name, np.ascontiguousarray(each), "", "") for name, each in (("a", image), ("b", other)))
    mirrored = Labelled("m", np.ascontiguousarray(image[:, ::-1]), "", "")
    assert [(one.name, two.name) for one, two in same_pairs([here, there], [mirrored])] == [("a", "m")]
