"""Coverage by class and attribute, and the images that are nearest to one of the reference."""

from __future__ import annotations

import base64
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from promptmill.jobs.report import report
from promptmill.jobs.score import score
from promptmill.pipeline.dataset.claim import claim_output
from promptmill.pipeline.dataset.passed import MOST_VALUES, attribute_columns
from promptmill.pipeline.dataset.samples import read_samples
from promptmill.pipeline.evaluation import distances, groups
from promptmill.pipeline.evaluation.distances import NEIGHBOURS, radii_of
from promptmill.pipeline.evaluation.groups import group_coverage
from promptmill.pipeline.evaluation.looked import Image, Looked, dataset_images
from promptmill.pipeline.evaluation.reference import read_references
from promptmill.pipeline.planning.plan import plan_job
from promptmill.pipeline.report.classes import attribute_summaries
from promptmill.pipeline.storage.store import Store
from tests.curation.drawn import make_dataset, scenes, write_images
from tests.heart import mill

BUILTIN = "builtin:shapes"


def looked(rows: Sequence[Sequence[float]], **fields: Sequence[str]) -> Looked:
    store = Store("memory://unused")
    images = [
        Image(store, "k", f"{i}", None, {name: values[i] for name, values in fields.items()}) for i in range(len(rows))
    ]
    return Looked(np.array(rows, np.float32), images, 0)


def test_a_class_is_held_against_its_own_images_and_an_attribute_against_all() -> None:
    rng = np.random.default_rng(0)
    cats, dogs = (np.concatenate([rng.normal(0, 0.1, (10, 3)) + at]) for at in ((5, 0, 0), (0, 5, 0)))
    reference = looked([*cats, *dogs], label_name=["red_cat"] * 10 + ["dog"] * 10)
    made = looked(
        [*cats + 0.01, *cats + 0.02],  # what should be dogs are cats too
        label_name=["red cat"] * 10 + ["dog"] * 10,
        place=["left", ""] * 10,
    )
    found = {(each.column, each.value): each for each in group_coverage(reference, made, {"place": "place"})[0]}
    cat, dog, left = found["label_name", "red cat"], found["label_name", "dog"], found["place", "left"]
    assert (cat.images, cat.reference_images, cat.coverage) == (10, 10, 1.0)
    assert (dog.images, dog.reference_images, dog.precision, dog.coverage) == (10, 10, 0.0, 0.0)
    assert dog.nearest is not None and cat.nearest is not None and dog.nearest[0] > 0.8 > cat.nearest[2]
    assert (left.images, left.reference_images) == (10, 20)
    assert left.precision == 1.0 and left.coverage is not None and left.coverage <= 0.5
    assert len(found) == 3  # an attribute that a text does not have is no value


def test_a_class_that_the_reference_lacks_and_one_of_few_images() -> None:
    reference = looked(np.eye(9).tolist(), label_name=["cat"] * 9)
    made = looked(np.eye(9).tolist(), label_name=["bird"] * 5 + ["cat"] * 4)
    (bird, cat), _ = group_coverage(reference, made)
    assert (bird.reference_images, bird.coverage) == (9, None)
    assert (cat.reference_images, cat.coverage, cat.nearest) == (9, None, [0.0, 0.0, 0.0])


def test_all_classes_are_there_and_the_most_frequent_values_of_an_attribute() -> None:
    names = [f"c{number:03}" for number in range(MOST_VALUES + 5) for _ in range(2)]
    rows = np.random.default_rng(0).normal(size=(len(names) + 1, 3))
    made = looked(rows.tolist(), label_name=[*names, "tiny"], place=[*names, "tiny"])
    reference = looked(rows[:9].tolist(), label_name=[""] * 9)
    found, left_out = group_coverage(reference, made, {"place": "place"})
    values = {column: {each.value for each in found if each.column == column} for column in ("label_name", "place")}
    assert values["label_name"] == {*names, "tiny"}
    assert len(values["place"]) == MOST_VALUES and "tiny" not in values["place"]
    assert left_out == {"place": 6}


def test_a_class_without_images_is_told_whoever_has_it() -> None:
    rows = np.eye(9).tolist()
    made = looked(rows, label_name=["cat"] * 9)
    reference = looked(rows, label_name=["cat"] * 6 + ["dog"] * 3)
    found = {each.value: each for each in group_coverage(reference, made, classes=["Cat", "bird"])[0]}
    assert {name: (each.images, each.reference_images) for name, each in found.items()} == {
        "Cat": (9, 6),
        "bird": (0, 9),
        "dog": (0, 3),
    }
    assert (found["dog"].coverage, found["dog"].effective, found["dog"].nearest) == (None, None, None)
    folders = looked(rows, label_name=["train"] * 9)  # no classes of this dataset
    assert [each.value for each in group_coverage(folders, made)[0]] == ["cat"]


def test_folders_that_are_one_class_are_held_together() -> None:
    rows = np.random.default_rng(0).normal(size=(20, 3)).tolist()
    reference = looked(rows, label_name=["Red_Circle"] * 9 + ["square"] + ["red circle"] * 10)
    (circle, square), _ = group_coverage(reference, looked(rows[:10], label_name=["red circle"] * 9 + ["square"]))
    assert (circle.value, circle.reference_images, square.reference_images) == ("red circle", 19, 1)
    assert circle.precision == 1.0


def test_an_attribute_called_as_the_class_column_is_told_apart() -> None:
    rows = np.eye(9).tolist()
    made = looked(rows, label_name=["cat"] * 9, input_label_name=["left"] * 9)
    found, _ = group_coverage(looked(rows), made, {"label_name": "input_label_name"})
    assert [(each.column, each.value) for each in found] == [("label_name", "cat"), ("input_label_name", "left")]


def test_the_radii_of_the_whole_reference_are_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def counted(rows: np.ndarray, neighbours: int = NEIGHBOURS) -> np.ndarray:
        sizes.append(len(rows))
        return radii_of(rows, neighbours)

    for room in (distances, groups):
        monkeypatch.setattr(room, "radii_of", counted)
    rows = np.random.default_rng(0).normal(size=(41, 3)).tolist()
    made = looked(rows[:40], place=["left", "right", "top", "bottom"] * 10)
    found, _ = group_coverage(looked(rows), made, {"place": "place"})
    assert len(found) == 4 and sizes.count(41) == 1
    assert [each.precision for each in found] == [1.0] * 4


@pytest.mark.skipif(sys.platform == "darwin", reason="its disks refuse such names")
def test_a_name_that_is_no_text_leaves_the_table_readable(dataset: Path) -> None:
    real = dataset / "real"
    (real / "dog" / "planted.png").rename(real / "dog" / "\udcff\x1b[2J.png")  # the byte 0xff
    (real / "cat").rename(real / "\udcff")
    score(str(dataset / "made"), [], reference=str(dataset / "real"), features=BUILTIN)
    (kept,) = report(str(dataset / "made")).references
    assert kept.closest[0].reference == "dog/\\udcff\\x1b[2J.png"
    assert {each.value: each.images for each in kept.groups} == {"\\udcff": 0, "cat": 8, "dog": 8}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    own = scenes(16)
    make_dataset(tmp_path, own, label_name=["cat", "dog"] * 8)
    for kind, first in (("cat", 16), ("dog", 24)):
        write_images(tmp_path / "real" / kind, scenes(32)[first : first + 8])
    Pillow.fromarray(own[5]).save(tmp_path / "real" / "dog" / "planted.png")
    return tmp_path


def test_the_report_shows_a_copy_beside_the_real_image(dataset: Path) -> None:
    url = str(dataset / "made")
    told = score(url, [], reference=str(dataset / "real"), features=BUILTIN).as_json()
    groups = {group["value"]: group for group in told["groups"]}
    assert {name: group["reference_images"] for name, group in groups.items()} == {"cat": 8, "dog": 9}
    first = told["closest"][0]
    assert (first["reference"], first["label"], first["made"]) == ("dog/planted.png", "dog", None)
    assert first["distance"] < 1e-3 < told["closest"][1]["distance"]
    (kept,) = report(url).references
    for picture in (kept.closest[0].made, kept.closest[0].real):
        assert picture is not None
        pixels = np.asarray(Pillow.open(io.BytesIO(base64.b64decode(picture.partition(",")[2]))), np.int16)
        assert np.abs(pixels - scenes(16)[5]).mean() < 6  # of 255: WebP at 92
        assert picture in (dataset / "made/report/index.html").read_text()


@pytest.mark.parametrize("picture", ["javascript:alert(1)", "https://elsewhere/x.webp", "data:image/svg+xml;base64,AA"])
def test_what_is_no_small_picture_is_left_out(dataset: Path, picture: str) -> None:
    url = dataset / "made"
    score(str(url), [], reference=str(dataset / "real"), features=BUILTIN)
    (file,) = (url / "scores").glob("reference-*.json")
    content = json.loads(file.read_text())
    content["closest"][0]["real"] = picture
    file.write_text(json.dumps(content))
    tables, unread = read_references(Store(str(url)))
    assert tables == [] and "no small picture" in unread[0]


@pytest.mark.parametrize("name", ["place", "model", "seed", "label_name"])
def test_what_came_of_each_attribute(name: str) -> None:
    prompts: dict[str, Any] = {
        "source": None,
        "classes": ["cat", "dog"],
        "templates": [f"a {{class}} {{{name}}}", "a {class}"],
        "attributes": {name: ["left", "right"]},
    }
    wanted = mill.job(Path("unused"), prompts=prompts, select={"keep": 1, "by": "clip"})
    store = mill.memory()
    plan = claim_output(plan_job(wanted), store)
    mill.make_missing(plan, store, ())
    rows = mill.rows(store)
    columns = attribute_columns(plan, store)
    assert columns == {name: name if name == "place" else f"input_{name}"}
    summaries, left_out = attribute_summaries(read_samples(store), columns)
    found = {each.value: each for each in summaries}
    assert found.keys() == {"left", "right"} and left_out == {}
    for value, each in found.items():
        assert each.column == name
        assert each.kept == sum(row[columns[name]] == value for row in rows) > 0
        assert each.made > each.kept and each.reason == "not_selected"
    made = [image.fields for image in dataset_images(store, None, tuple(columns.values()))]
    assert sorted(each.get(columns[name], "") for each in made) == sorted(row[columns[name]] or "" for row in rows)
