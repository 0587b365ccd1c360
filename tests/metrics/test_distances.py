"""Distances between sets of images: against closed forms, and end to end against folders and datasets."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import linalg

from promptmill.jobs.report import report
from promptmill.jobs.score import score
from promptmill.jobs.select import select
from promptmill.pipeline.evaluation.distances import MIN_IMAGES, coverage, distances, precision_recall
from promptmill.pipeline.evaluation.fid import fid_and_kid
from promptmill.pipeline.evaluation.variety import effective_number, nearest_distances
from promptmill.pipeline.shapes.render import render
from promptmill.pipeline.shapes.suite import sample_prompts
from promptmill.schemas.errors import JobError
from tests.report.conftest import Dataset

BUILTIN = "builtin:shapes"


def cloud(rng: np.random.Generator, n: int, shift: float = 0.0, scale: float = 1.0) -> np.ndarray:
    return (rng.normal(size=(n, 6)) * scale + shift).astype(np.float32)


def test_fid_is_the_frechet_distance_of_two_gaussians() -> None:
    rng = np.random.default_rng(0)
    a, b = cloud(rng, 400), cloud(rng, 300, 0.5, 1.5)
    one, two = np.cov(a.astype(np.float64), rowvar=False), np.cov(b.astype(np.float64), rowvar=False)
    gap = a.astype(np.float64).mean(0) - b.astype(np.float64).mean(0)
    expected = gap @ gap + np.trace(one + two - 2 * np.real(linalg.sqrtm(one @ two)))
    assert fid_and_kid(a, b, 100)[0] == pytest.approx(expected, rel=1e-6)


def test_kid_is_without_bias_and_repeats() -> None:
    rng = np.random.default_rng(1)
    same = [fid_and_kid(cloud(rng, 60), cloud(rng, 60), 30)[1] for _ in range(30)]
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(30)  # FID of such small sets is far above 0
    a, b = cloud(rng, 60), cloud(rng, 60, 1.0)
    before = torch.random.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, again = fid_and_kid(a, b, 30), fid_and_kid(a, b, 30)
    assert first == again and first[1] > 10 * max(map(abs, same)) and first[2] > 0
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_effective_number_of_known_sets() -> None:
    kinds = np.eye(6, dtype=np.float32)
    assert effective_number(kinds) == pytest.approx(6)
    assert effective_number(np.repeat(kinds[:1], 40, axis=0)) == pytest.approx(1)
    assert effective_number(np.repeat(kinds[:4] * 7, 10, axis=0)) == pytest.approx(4)  # length plays no part
    rows = cloud(np.random.default_rng(3), 5)
    assert effective_number(rows) == pytest.approx(effective_number(np.repeat(rows, 8, axis=0)))  # either side of width


def test_coverage_and_the_nearest_of_known_sets() -> None:
    rng = np.random.default_rng(4)
    one_mode = cloud(rng, 200)
    both = np.concatenate([one_mode, cloud(rng, 200, 50.0)])
    assert coverage(both, one_mode) == 0.5 and coverage(one_mode, both) == 1.0
    outlier = np.concatenate([one_mode[:1], cloud(rng, 200, -80.0)])
    assert coverage(both, outlier) < 0.05
    turned = np.eye(6, dtype=np.float32)
    assert nearest_distances(turned[:3], turned[:3] * 5) == pytest.approx([0, 0, 0])
    assert nearest_distances(turned[:3], turned[3:]) == pytest.approx([1, 1, 1])


def test_precision_and_recall_of_known_sets() -> None:
    rng = np.random.default_rng(2)
    two_modes = np.concatenate([cloud(rng, 200), cloud(rng, 200, 50.0)])
    one_mode = cloud(rng, 200)
    precision, recall = precision_recall(two_modes, one_mode)
    assert precision > 0.8 and 0.4 < recall < 0.5
    assert precision_recall(two_modes, two_modes) == (1.0, 1.0)
    assert precision_recall(two_modes, cloud(rng, 50, -80.0)) == (0.0, 0.0)
    # On a line with steps of 1 the third neighbour of an end is 3 away, of the others 2 or less.
    line = np.arange(10, dtype=np.float32)[:, None]
    assert precision_recall(line, np.array([[12.0], [12.5], [-3.0], [4.5]], np.float32), 3)[0] == 0.75


def test_sets_that_are_too_small_have_no_distances() -> None:
    rng = np.random.default_rng(3)
    few = distances(cloud(rng, 50), cloud(rng, MIN_IMAGES - 1))
    assert (few.images, few.fid, few.kid, few.precision) == (MIN_IMAGES - 1, None, None, None)
    enough = distances(cloud(rng, 50), cloud(rng, MIN_IMAGES))
    assert enough.fid is not None and enough.kid_subset == MIN_IMAGES // 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 right images of the shapes world, in a folder and one below it, and a file that is none."""
    root = tmp_path_factory.mktemp("reference")
    rng = np.random.default_rng(4)
    (root / "more").mkdir()
    for i, prompt in enumerate(sample_prompts(120, 5, "train")):
        pixels = render(prompt.scene).astype(np.int16) + rng.integers(-6, 7, (64, 64, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / ("more" if i % 2 else "") / f"{i}.png")
    (root / "broken.png").write_bytes(b"no image")
    return root


def test_cells_against_a_folder(painted: Dataset, folder: Path, tmp_path: Path) -> None:
    dataset = painted.copy(tmp_path / "scored")
    found = score(str(dataset.folder), [], reference=str(folder), features=BUILTIN).as_json()
    assert (found["reference_images"], found["reference_left_out"], found["left_out"]) == (120, 1, 0)
    assert len(found["cells"]) == 4 and sum(cell["images"] for cell in found["cells"]) == 4 * 98
    assert all(cell["fid"] > 0 and 0 < cell["precision"] <= 1 for cell in found["cells"])
    noise = tmp_path / "noise"
    noise.mkdir()
    rng = np.random.default_rng(5)
    for i in range(20):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(noise / f"{i}.jpg")
    far = score(str(dataset.folder), [], reference=str(noise), features=BUILTIN).as_json()
    for near, other in zip(found["cells"], far["cells"], strict=True):
        assert other["kid"] > near["kid"] + 3 * near["kid_std"]
        assert other["precision"] < 0.2 < near["precision"]  # its recall is 1: the painter makes noise of odd prompts
    summary = json.loads((dataset.folder / "report/summary.json").read_text())
    assert len(summary["references"]) == 2
    page = (dataset.folder / "report/index.html").read_text()
    assert "How near is it to a reference?" in page and "guidance_scale 5.0" in page
    assert "FID needs more images than it has features" in page


def test_a_selection_against_a_reference(painted: Dataset, folder: Path, tmp_path: Path) -> None:
    """The images of the view were passed over: the reference was held against what the run had kept."""
    dataset = painted.copy(tmp_path / "selected")
    url = str(dataset.folder)
    made = select(url, 2, ["clip"], [], "two")
    found = score(url, [], reference=str(folder), features=BUILTIN, selection="two")
    assert found.selection == "two" and found.cells is not None
    assert sum(cell.images for cell in found.cells) == made.kept > 4 * 98
    assert [one.selection for one in report(url).references] == ["two"]
    with pytest.raises(JobError, match="--reference, which it is for"):
        score(url, ["image"], selection="two")


def test_a_dataset_is_nearest_to_itself(painted: Dataset, tmp_path: Path) -> None:
    dataset = painted.copy(tmp_path / "same")
    (dataset.folder / "job.json").unlink()  # any folder of Parquet with images will do
    own = painted.copy(tmp_path / "own")
    (own.folder / "inputs").mkdir(exist_ok=True)  # copies of prompts may have images too, which the job did not make
    some = next((own.folder / "data").glob("*.parquet"))
    shutil.copy(some, own.folder / "inputs" / "0123456789abcdef.parquet")
    found = score(str(dataset.folder), [], reference=str(own.folder), features=BUILTIN).as_json()
    assert found["reference_images"] == sum(cell["images"] for cell in found["cells"])
    assert all(cell["precision"] == 1.0 and cell["recall"] > 0.5 for cell in found["cells"])


def test_references_that_are_refused(painted: Dataset, folder: Path, tmp_path: Path) -> None:
    url = str(painted.folder)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text/a.txt").write_text("x")
    (tmp_path / "few").mkdir()
    for i in range(3):
        Image.new("RGB", (8, 8)).save(tmp_path / f"few/{i}.png")
    (tmp_path / "broken").mkdir()
    for i in range(9):
        (tmp_path / f"broken/{i}.png").write_bytes(b"x")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    for name, told in (
        ("nowhere", "nothing there"),
        ("empty", "nothing there"),
        ("text", "1 other files"),
        ("few", "got 3"),
        ("broken", "9 that do not decode"),
        ("a.parquet", "a Parquet file"),
    ):
        with pytest.raises(JobError, match=told):
            score(url, [], reference=str(tmp_path / name), features=BUILTIN)
    with pytest.raises(JobError, match="--features"):
        score(url, [], reference=str(folder))
    with pytest.raises(JobError, match="--reference"):
        score(url, [], features=BUILTIN)
    with pytest.raises(JobError, match="builtin:shapes"):
        score(url, [], reference=str(folder), features="builtin:nothing")
    with pytest.raises(JobError, match="metric"):
        score(url, [])
