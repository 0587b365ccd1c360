"""What the folders of a source say of its images: which are ours, of which generation, under which licence."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from promptmill.pipeline.dataset.claim import claim_output
from promptmill.pipeline.dataset.retry import plan_retry
from promptmill.pipeline.dataset.verify import verify_dataset
from promptmill.pipeline.planning.lineage import lineage_of
from promptmill.pipeline.planning.plan import Plan, plan_job
from promptmill.pipeline.planning.plan_json import from_json
from promptmill.pipeline.prompts.source import open_source
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import StorageError
from promptmill.schemas.origin import Lineage
from promptmill.schemas.prompts import Prompts
from tests.heart.mill import job, make_missing, rows

Grid = tuple[Plan, Store]


def test_what_extends_a_dataset_has_an_origin_of_its_own(tmp_path: Path) -> None:
    """A source that was synthetic alone says nothing of real images that come later, nor of their licence."""
    for name, card in (
        ("one", "promptmill: {fingerprint: abc1, generation: 3}\nlicense: mit"),
        ("two", "license: cc-by-nc-4.0"),
    ):
        (tmp_path / "sets" / name).mkdir(parents=True)
        Store(str(tmp_path / "sets" / name)).put("README.md", f"---\n{card}\n---\n".encode())
    _embedded(tmp_path / "sets" / "one" / "data")
    plan, store = draw_all(tmp_path / "made", tmp_path / "sets")
    assert plan.lineage.license == "mit" and plan.lineage.whole
    _embedded(tmp_path / "sets" / "two" / "data")
    plan, store = draw_all(tmp_path / "made", tmp_path / "sets")
    assert [row["origin"] for row in rows(store)] == ["edited_from_synthetic"] * 2 + ["edited_from_real"] * 2
    stored = from_json(store.read("job.json"))
    assert stored.lineage.license == "mit" and plan.segments[1].lineage == Lineage(1, (), "cc-by-nc-4.0", False)
    assert (plan.lineage.generation, plan.lineage.datasets, plan.lineage.license) == (4, ("abc1",), "cc-by-nc-4.0")


def test_a_retry_keeps_the_origin_of_what_failed(tmp_path: Path) -> None:
    _embedded_at(tmp_path / "sets" / "one", "mit")
    draw_all(tmp_path / "made", tmp_path / "sets", broken=["star"])
    (tmp_path / "sets" / "two").mkdir()
    _embedded(tmp_path / "sets" / "two" / "data")
    plan, store = draw_all(tmp_path / "made", tmp_path / "sets", broken=["star"])
    plan = plan_retry(plan, store)
    assert [segment.kind for segment in plan.segments] == ["source", "extend", "retry", "retry"]
    make_missing(plan, store)
    whole = ["edited_from_synthetic", "edited_from_real"]
    assert [row["origin"] for row in rows(store)] == whole * 2
    assert not verify_dataset(plan, store).problems


def draw_all(folder: Path, source: Path, broken: Sequence[str] = ()) -> Grid:
    wanted = job(
        source,
        prompts={"source": f"{source}/*/data/*.parquet", "columns": {"image": "image"}},
        generation={"images_per_prompt": 1, "num_inference_steps": 4},
        output={"url": str(folder)},
        score=None,
    )
    store = Store(str(folder))
    plan = claim_output(plan_job(wanted), store, extend=True)
    make_missing(plan, store, broken)
    return plan, store


def _embedded(folder: Path) -> None:
    """A table of two prompts with unmarked images in it."""
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(stream, "PNG")
    folder.mkdir()
    image = [{"bytes": stream.getvalue(), "path": None}] * 2
    pq.write_table(pa.table({"prompt": ["a star", "a ring"], "image": image}), folder / "a.parquet")


@pytest.mark.parametrize(
    ("cards", "license"),
    [
        (["mit", "cc-by-nc-4.0"], "cc-by-nc-4.0"),
        (["mit", None], "unknown"),
        ([None, "cc-by-4.0"], "unknown"),
        ([None, None], None),
        (["MIT", "MIT"], "MIT"),
        (["mit"] * 20, "unknown"),
    ],
)
def test_of_several_folders_the_strictest_licence_holds(
    tmp_path: Path, cards: list[str | None], license: str | None
) -> None:
    for number, card in enumerate(cards):
        _embedded_at(tmp_path / f"{number:02d}", card)
    assert _lineage(tmp_path, {"image": "image"}).license == license


def _embedded_at(folder: Path, card: str | None) -> None:
    folder.mkdir(parents=True)
    _embedded(folder / "data")
    front = "" if card is None else f"license: {card}\n"
    (folder / "README.md").write_text(f"---\n{front}promptmill: {{fingerprint: abc, generation: 3}}\n---\n")


def _lineage(folder: Path, columns: dict[str, Any]) -> Lineage:
    prompts = Prompts.model_validate({"source": f"{folder}/*/data/*.parquet", "columns": columns})
    return lineage_of(prompts, open_source(prompts).files)


@pytest.mark.parametrize("role", ["control_image", "reference_image"])
def test_only_the_image_drawn_over_makes_a_generation(tmp_path: Path, role: str) -> None:
    _embedded_at(tmp_path / "one", "mit")
    assert _lineage(tmp_path, {"image": "image"}).generation == 4
    assert _lineage(tmp_path, {role: "image"}).generation == 1


def test_a_card_that_cannot_be_read_now_stops_the_plan(tmp_path: Path) -> None:
    """Else the same job would say another origin of its images the next time."""
    _embedded_at(tmp_path / "one", "mit")
    card = tmp_path / "one" / "README.md"
    card.unlink()
    os.mkfifo(card)
    with pytest.raises(StorageError, match=r"README\.md"):
        _lineage(tmp_path, {"image": "image"})
