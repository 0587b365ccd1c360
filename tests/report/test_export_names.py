"""Names that would be one in an exported tree, and retried images that lie in another shard."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptmill.jobs.export import export
from promptmill.pipeline.dataset.retry import plan_retry
from promptmill.pipeline.export.names import distinct_names
from promptmill.pipeline.export.trees import variant_label
from promptmill.pipeline.models.interface import Pixels
from promptmill.pipeline.planning.variants import variant_name
from promptmill.schemas.errors import JobError, SampleError, StorageError
from promptmill.schemas.generation import Generation
from promptmill.schemas.plan import Sample
from tests.report.conftest import Dataset, paint
from tests.report.painter import Painter


def names(*labels: str) -> list[str]:
    found = distinct_names({f"{i}:{label}": label for i, label in enumerate(labels)})
    return list(found.values())


def test_good_names_stay_as_they_are() -> None:
    assert names("COCOval2014_0", "a-b.c=1", "größe") == ["COCOval2014_0", "a-b.c=1", "größe"]
    first, second = names("a/b", "a_b")
    assert second == "a_b" and first.startswith("a_b-") and first != second


@pytest.mark.parametrize(
    "pair",
    [
        ("A", "a"),
        ("a/b", "a b"),
        ("x" * 400, "x" * 401),
        ("否定", "否/定"),
        ("é", "e\u0301"),
        ("con", "CON"),
        ("", "/"),
    ],
)
def test_names_stay_apart_on_every_disk(pair: tuple[str, str]) -> None:
    one, two = names(*pair)
    assert one.casefold() != two.casefold()
    assert all(0 < len(name.encode()) <= 255 and "/" not in name for name in (one, two))


@pytest.mark.parametrize("labels", [("con", "con."), ("nul.txt", "nul/txt"), ("COM¹",), ("aux", "a")])
def test_names_of_devices_are_never_given(labels: tuple[str, ...]) -> None:
    """Windows opens the device, whatever follows a dot, and reads the small digits as digits."""
    devices = {"con", "nul", "com1", "aux"}
    assert not devices & {unicodedata.normalize("NFKD", name).partition(".")[0].lower() for name in names(*labels)}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=12), unique=True, max_size=12))
def test_any_names_stay_apart(labels: list[str]) -> None:
    found = distinct_names({label: label for label in labels})
    assert len({name.casefold() for name in found.values()}) == len(labels)
    again = distinct_names({label: found[label] for label in labels})
    assert len(set(again.values())) == len(labels)


def test_models_that_differ_in_precision_have_names_of_their_own() -> None:
    one, two = ({"model": {"path": "m/sd", **more}} for more in ({}, {"dtype": "float16"}))
    assert variant_name(one) == "model m/sd" and variant_name(two) == "model m/sd dtype float16"
    assert variant_label(json.dumps(one)) != variant_label(json.dumps(two))


@pytest.fixture
def retried(claimed: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """Three prompts, four images each; one image of the second failed at first and was retried."""
    paint_one = Painter._paint

    def paint_or_fail(self: Painter, sample: Sample, generation: Generation) -> Pixels:
        if sample.prompt == "a blue square" and sample.sample_index == 2:
            raise SampleError("generation", "a fault that lasts until the retry")
        return paint_one(self, sample, generation)

    monkeypatch.setattr(Painter, "_paint", paint_or_fail)
    generation = {"images_per_prompt": 4, "batch_size": 1}
    dataset = claimed(
        prompts=["a red circle", "a blue square", "a green star"],
        generation=generation,
        sweep={},
        select=None,
        output={"images_per_shard": 64},
    )
    first = paint(dataset)
    assert first.summary is not None and first.summary.counts.failed == 1
    monkeypatch.setattr(Painter, "_paint", paint_one)
    second = paint(Dataset(plan_retry(dataset.plan, dataset.store), dataset.store))
    assert second.summary is not None and second.summary.counts.kept == 12
    return second


def test_retried_images_are_exported(retried: Dataset, tmp_path: Path) -> None:
    """It said 12 images, and 9 were there: the group of a retried image was written over that of its siblings."""
    found = export(str(retried.folder), "dpg", str(tmp_path / "dpg"))
    assert (found.images, found.prompts) == (12, 3)
    assert len(list((tmp_path / "dpg").glob("*.png"))) == 3
    assert export(str(retried.folder), "dpg", str(tmp_path / "dpg")).images == 12, "the same export once more"


def test_every_tree_is_counted(retried: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/old.png").write_bytes(b"of another export")
    with pytest.raises(JobError, match=r"old\.png"):
        export(str(retried.folder), "dpg", str(tmp_path / "other"))
    import promptmill.pipeline.export.suites as suites

    monkeypatch.setattr(suites, "read_images", lambda store, key, rows: iter(()))
    with pytest.raises(StorageError, match="12 images of 12"):
        export(str(retried.folder), "dpg", str(tmp_path / "lost"))
