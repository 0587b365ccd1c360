"""Labels: where classes come from, and that records say them as Hugging Face's ClassLabel."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from promptmill.pipeline.dataset.claim import claim_output
from promptmill.pipeline.dataset.retry import plan_retry
from promptmill.pipeline.planning.plan import Plan, plan_job
from promptmill.schemas.errors import InputError, JobError
from promptmill.schemas.words import ClassNumbers, LabelClass
from tests.heart import mill


def planned(**prompts: Any) -> Plan:
    return plan_job(mill.job(Path("unused"), prompts={"source": None, **prompts}))


def made(plan: Plan, broken: tuple[str, ...] = ()) -> Any:
    store = mill.memory()
    mill.make_missing(claim_output(plan, store), store, broken)
    return store


def labels(rows: list[dict[str, Any]]) -> Counter[tuple[int, str]]:
    return Counter((row["label"], row["label_name"]) for row in rows)


def class_names(store: Any) -> list[str]:
    for folder in ("data", "rejects"):
        for entry in store.list(folder):
            metadata = pq.read_schema(pa.BufferReader(store.read(entry.name))).metadata
            found = json.loads(metadata[b"huggingface"])["info"]["features"]["label"]
            assert found["_type"] == "ClassLabel"
    names: list[str] = found["names"]
    return names


def images(folder: Path, **counts: int) -> Path:
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (8, 8), (i, 0, 0)).save(folder / name / f"{i}.png")
    return folder


@pytest.mark.parametrize(
    "classes", [{"cross": "a cross", "red_ring": "a red ring"}, ["cross", "red_ring"]], ids=["worded", "names"]
)
def test_a_job_of_classes_alone_draws_each_of_them(classes: Any) -> None:
    store = made(planned(classes=classes))
    rows = mill.rows(store)
    assert labels(rows) == {(0, "cross"): 2, (1, "red_ring"): 2}
    worded = classes["red_ring"] if isinstance(classes, dict) else "red ring"
    assert {row["prompt"] for row in rows if row["label"] == 1} == {worded}
    assert class_names(store) == ["cross", "red_ring"]


def test_load_dataset_gives_a_class_label(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    store = made(planned(classes=["ring", "cross"]))
    (entry, *_) = store.list("data")
    (tmp_path / "a.parquet").write_bytes(store.read(entry.name))
    found = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "a.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert found.features["label"] == datasets.ClassLabel(names=["ring", "cross"])
    assert found.features["label"].int2str(found[0]["label"]) == found[0]["label_name"]


def test_classes_of_a_folder_of_images_and_of_a_table(tmp_path: Path) -> None:
    folder = images(tmp_path / "real", ring=2, cross=1)
    plan = planned(classes=str(folder))
    assert plan.words.class_names == ("cross", "ring")
    assert any("'cross': one image" in notice for notice in plan.notices)
    (tmp_path / "c.csv").write_text("name,wording\nring,a ring\ncross,\n")
    (first, second) = planned(classes=str(tmp_path / "c.csv")).words.classes
    assert (first, second) == (LabelClass("ring", "a ring"), LabelClass("cross", "cross"))


def test_images_of_the_classes_are_drawn_from_where_a_column_is_mapped_to_them(tmp_path: Path) -> None:
    folder = images(tmp_path / "real", ring=2, cross=1)
    plan = planned(classes=str(folder), columns={"image": "image"}, templates=["a photo of a {class}"])
    assert plan.job.prompts.source == str(folder)
    assert (plan.prompts, plan.words.class_names) == (3, ("cross", "ring"))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: (folder / "disc").mkdir(), "disc: expected at least one image of the class, got none"),
        (lambda folder: Image.new("RGB", (8, 8)).save(folder / "a.png"), "'a.png' beside them"),
    ],
    ids=["a class without images", "an image without a class"],
)
def test_a_folder_that_is_no_folder_of_classes_is_refused(tmp_path: Path, break_it: Any, message: str) -> None:
    folder = images(tmp_path / "real", ring=2, cross=2)
    break_it(folder)
    with pytest.raises(InputError, match=message):
        planned(classes=str(folder))


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({"classes": {}}, "an empty mapping"),
        ({"classes": ["a", "a"]}, "'a' twice"),
        ({"classes": "nowhere/at/all"}, "nothing there"),
        ({"classes": ["a"], "suite": "shapes"}, "has its own prompts"),
        ({"classes": ["a"], "columns": {"prompt": "x"}}, "a row is a class"),
        ({"classes": ["a\x1b[31m"]}, "printable"),
        ({"classes": ["a"], "templates": ["{klass}"]}, "klass"),
    ],
)
def test_classes_that_are_none_are_refused(prompts: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError, match=message):
        planned(**prompts)


def test_a_label_column_of_an_ordinary_source(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    kinds = ["ring", "cross", "ring"]
    mill.write_prompts(path, ["a red ring", "a cross", "a ring"], kind=kinds)
    plan = plan_job(mill.job(path, prompts={"columns": {"label": "kind"}}))
    store = made(plan)
    assert plan.words.class_names == ("cross", "ring")
    assert labels(mill.rows(store)) == {(1, "ring"): 4, (0, "cross"): 2}
    assert "kind" not in mill.rows(store)[0]
    given = plan_job(mill.job(path, prompts={"columns": {"label": "kind"}, "classes": ["ring", "cross", "disc"]}))
    assert labels(mill.rows(made(given))) == {(0, "ring"): 4, (1, "cross"): 2}
    assert any("'disc': no prompt" in notice for notice in given.notices)
    assert plan.fingerprint != given.fingerprint


def test_numbers_are_labels_as_datasets_have_them(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    mill.write_prompts(path, ["a ring", "a cross"], n=[1, 0])
    named = plan_job(mill.job(path, prompts={"columns": {"label": "n"}, "classes": ["cross", "ring"]}))
    assert labels(mill.rows(made(named))) == {(1, "ring"): 2, (0, "cross"): 2}
    bare = plan_job(mill.job(path, prompts={"columns": {"label": "n"}}))
    assert bare.words.class_names == ("0", "1")
    numbers = ClassNumbers(named.words.classes)
    assert [numbers.get(value) for value in (1.0, -1, 2, None, True, "ring", b"cross", "1")] == [
        *(1, None, None, None, None, 1, 0, None)
    ]


def test_a_label_that_is_no_class_refuses_a_job_that_begins(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    mill.write_prompts(path, ["a ring", "a disc", "?"], kind=["ring", "disc", None])
    plan = plan_job(mill.job(path, prompts={"columns": {"label": "kind"}, "classes": ["ring", "cross"]}))
    with pytest.raises(InputError, match=r"a.parquet row 1: expected one of the classes 'ring', 'cross', got 'disc'"):
        claim_output(plan, mill.memory())


def test_labels_are_the_same_after_a_retry(tmp_path: Path) -> None:
    store = made(planned(classes=["ring", "cross"]), broken=("cross#1",))
    assert labels(mill.rows(store, "failures")) == {(1, "cross"): 1}
    plan = plan_retry(plan_of(store), store)
    mill.make_missing(plan, store)
    assert labels(mill.rows(store)) == {(0, "ring"): 2, (1, "cross"): 2}
    assert class_names(store) == ["ring", "cross"]


def plan_of(store: Any) -> Plan:
    from promptmill.pipeline.dataset.open import require_plan

    return require_plan(store)


@pytest.mark.parametrize("kind", [pa.float64(), pa.int64()], ids=str)
def test_labels_that_are_numbers_are_the_names_of_their_classes(tmp_path: Path, kind: pa.DataType) -> None:
    """Of floats, as pandas writes integers with a gap, 1 was the class of 2."""
    mill.write_prompts(tmp_path / "a.parquet", ["a", "b", "c"], label=pa.array([10, 2, 1], kind))
    plan = plan_job(mill.job(tmp_path, prompts={"columns": {"label": "label"}}))
    assert plan.words.class_names == ("1", "2", "10")
    assert {row["prompt"]: row["label_name"] for row in mill.rows(made(plan))} == {"a": "10", "b": "2", "c": "1"}


def test_a_label_that_is_not_a_number_is_no_class(tmp_path: Path) -> None:
    mill.write_prompts(tmp_path / "a.parquet", ["a", "b"], label=pa.array([1.0, float("nan")]))
    plan = plan_job(mill.job(tmp_path, prompts={"columns": {"label": "label"}}))
    assert plan.words.class_names == ("1",)
    assert [problem.where for problem in plan.wrong] == ["prompts.columns.label: a.parquet row 1"]


def test_of_classes_called_by_numbers_a_number_is_a_name_and_never_a_place() -> None:
    numbers = ClassNumbers([LabelClass(name, name) for name in ("1", "2", "3")])
    assert [numbers.get(value) for value in (0, 1, 2, 3, 2.0, b"3")] == [None, 0, 1, 2, 1, 2]
    named = ClassNumbers([LabelClass(name, name) for name in ("ring", "cross")])
    assert [named.get(value) for value in (0, 1.0, 2, "1", "cross", True, float("nan"))] == [
        0,
        1,
        *[None] * 2,
        1,
        *[None] * 2,
    ]
