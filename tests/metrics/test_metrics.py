"""Metrics against known images, and scores written beside the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from promptmill.jobs.score import score
from promptmill.pipeline.dataset.samples import KEPT, read_samples
from promptmill.pipeline.models.catalog.clips import resolve_clip
from promptmill.pipeline.models.interface import Pixels
from promptmill.pipeline.models.load import load_embedder
from promptmill.pipeline.scores.diversity import Diversity
from promptmill.pipeline.scores.image import colourfulness, contrast, near_black, sharpness
from promptmill.pipeline.scores.interface import Picture
from promptmill.pipeline.scores.registry import choose_scorers
from promptmill.pipeline.scores.relative import LOGIT_SCALE, AmongClasses, Relative
from promptmill.pipeline.scores.verified import Verified
from promptmill.pipeline.shapes.captions import parse
from promptmill.pipeline.shapes.render import render
from promptmill.schemas.errors import JobError
from tests.report.conftest import Dataset
from tests.report.painter import Painter, scene_of

BLACK = np.zeros((32, 32, 3), np.uint8)
CHECKS = np.kron(np.indices((8, 8)).sum(0) % 2, np.ones((4, 4), int))[..., None].repeat(3, 2).astype(np.uint8) * 255


def picture(pixels: np.ndarray, caption: str = "a red circle", group: str = "") -> Picture:
    return Picture("id", caption, group, pixels, {})


def test_image_statistics_of_known_images() -> None:
    assert (sharpness(BLACK), contrast(BLACK), colourfulness(BLACK), near_black(BLACK)) == (0, 0, 0, 1)
    assert contrast(CHECKS) == pytest.approx(0.5, abs=1e-3) and near_black(CHECKS) == 0.5
    assert sharpness(CHECKS) > 0.1 and colourfulness(CHECKS) == pytest.approx(0, abs=1e-3)
    red = BLACK.copy()
    red[..., 0] = 255
    # rg = 255, yb = 127.5, no spread: M = 0.3 · √(255² + 127.5²)
    assert colourfulness(red) == pytest.approx(0.3 * np.hypot(255, 127.5), rel=1e-4)


def test_verified_is_exact() -> None:
    rng = np.random.default_rng(0)
    caption = "a large red circle on a black background"
    right = render(scene_of(parse(caption), rng))
    found = Verified().score(
        [
            picture(right, caption),
            picture(right, "a large blue circle on a black background"),
            picture(right, "a photo of a dog"),
            picture(right[:4, :4], caption),
        ]
    )
    assert found["verified"][:2].tolist() == [1, 0] and np.isnan(found["verified"][2:]).all()
    assert 0 < found["verified_share"][1] < 1


class Axes:
    """Features that are easy to reckon with: an image's mean colour, a text's place in a list."""

    def prepare(self, captions: Sequence[str]) -> None: ...

    def cosines(self, images: Sequence[Pixels], captions: Sequence[str]) -> npt.NDArray[np.float32]:
        return np.asarray((self.images(images) * self.texts(captions)).sum(1), np.float32)

    def images(self, images: Sequence[Pixels]) -> npt.NDArray[np.float32]:
        vectors = np.stack([image.reshape(-1, 3).mean(0) for image in images])
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)

    def texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return np.asarray(np.eye(3)[[("red", "green", "blue").index(text) for text in texts]], np.float32)


def solid(*colour: int) -> np.ndarray:
    return np.full((8, 8, 3), colour, np.uint8)


def test_diversity_is_the_mean_distance_to_siblings() -> None:
    pictures = [
        picture(solid(255, 0, 0), group="a"),
        picture(solid(0, 255, 0), group="a"),
        picture(solid(0, 255, 0), group="a"),
        picture(solid(1, 1, 1), group="b"),
    ]
    found = Diversity(Axes()).score(pictures)["diversity"]
    np.testing.assert_allclose(found[:3], [1.0, 0.5, 0.5], atol=1e-6)
    assert np.isnan(found[3])


def test_relative_is_a_softmax_over_distractors() -> None:
    half = solid(255, 255, 0)
    found = Relative(Axes(), ["red", "green"]).score([picture(half, "red"), picture(solid(255, 254, 0), "red")])[
        "relative"
    ]
    assert found[0] == pytest.approx(0.5)
    gap = LOGIT_SCALE * (255 - 254) / np.hypot(255, 254)
    assert found[1] == pytest.approx(1 / (1 + np.exp(-gap)), rel=1e-4)


def test_words_that_name_no_metric() -> None:
    for words in (
        [],
        ["fid"],
        ["clip"],
        ["image=x"],
        ["clip:a/b=builtin:shapes"],
        ["relative=builtin:shapes"],
        ["clip=local-dir:nowhere"],
    ):
        with pytest.raises(JobError):
            choose_scorers(words)


def test_two_words_for_one_name_are_refused() -> None:
    """The second score lay where the first did, and nobody was told."""
    with pytest.raises(JobError, match="'clip' twice"):
        choose_scorers(["clip=builtin:shapes", "image", "clip:clip=builtin:shapes"])


def test_scores_lie_beside_the_data(painted: Dataset, tmp_path: Path) -> None:
    dataset = painted.copy(tmp_path / "scored")
    before = {path: path.read_bytes() for path in (dataset.folder / "data").iterdir()}
    found = score(str(dataset.folder), ["verified", "image"]).as_json()
    assert found["images"] == 4 * 3 * 99 and found["left_out"] == 0
    assert {path: path.read_bytes() for path in (dataset.folder / "data").iterdir()} == before
    samples = read_samples(dataset.store)
    assert {"clip", "verified", "verified_share", "sharpness", "near_black"} <= set(samples.score_names)
    kept = np.array(samples.texts("status")) == KEPT
    assert np.isfinite(samples.score("sharpness")[kept]).all()
    assert 0.6 < found["mean"]["verified"] < 0.9
    summary = (dataset.folder / "report/summary.json").read_text()
    assert '"verified"' in summary and '"spearman"' in summary
    again = score(str(dataset.folder), ["verified"]).as_json()
    assert again["images"] == 0 and again["done_before"] == again["objects"]


def test_foreign_parquet(tmp_path: Path) -> None:
    import io

    from PIL import Image

    sink = io.BytesIO()
    Image.fromarray(CHECKS).save(sink, "PNG")
    image = {"bytes": sink.getvalue(), "path": None}
    table = pa.table({"image": [image, {"bytes": b"no image", "path": None}, None], "text": ["x", "y", "z"]})
    pq.write_table(table, tmp_path / "any.parquet")
    found = score(str(tmp_path), ["image"]).as_json()
    assert (found["images"], found["left_out"]) == (1, 1)
    (written,) = (tmp_path / "scores").iterdir()
    rows = pq.read_table(written).to_pylist()
    assert rows[0]["sample_id"] == "any.parquet:0" and rows[0]["near_black"] == 0.5


def test_missing_columns_and_folders(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="none"):
        score(str(tmp_path), ["image"])
    pq.write_table(pa.table({"image": pa.array([b""])}), tmp_path / "a.parquet")
    with pytest.raises(JobError, match="caption"):
        score(str(tmp_path), ["verified"])
    pq.write_table(pa.table({"prompt": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(JobError, match="image"):
        score(str(tmp_path), ["image"])


def test_painter_tells_the_truth_it_promises() -> None:
    """The stand-in generator is right as often as it says, so tests of the report know the answer."""
    from promptmill.schemas.generation import Generation
    from promptmill.schemas.plan import Sample

    caption = "a red circle on a black background"
    samples = [Sample(str(i), "p", 0, i, i, caption, "", caption) for i in range(300)]
    images = Painter().generate(samples, Generation(guidance_scale=5.0), lambda: None)
    found = Verified().score([picture(made.pixels, caption) for made in images if made.pixels is not None])
    assert float(found["verified"].mean()) == pytest.approx(0.95, abs=0.05)


def test_among_classes_the_wording_of_the_class_is_held_against_all_others() -> None:
    """Six shapes by the built-in CLIP: of right images the class is found, of those under another label it is not."""
    wordings = ["a circle", "a square", "a triangle", "a ring", "a diamond", "a cross"]
    scorer = AmongClasses(load_embedder(resolve_clip("builtin:shapes", "score"), 1), wordings)
    drawn = [
        render(scene_of(parse(f"a red {text.split()[1]}"), np.random.default_rng(i))) for i, text in enumerate(wordings)
    ]
    own = [Picture(str(i), "", "", pixels, {}, i) for i, pixels in enumerate(drawn)]
    others = [replace(each, label=(i + 1) % 6) for i, each in enumerate(own)]
    assert scorer.score(own)["relative"].min() > scorer.score(others)["relative"].max()
    assert np.isnan(scorer.score([replace(own[0], label=None)])["relative"]).all()
