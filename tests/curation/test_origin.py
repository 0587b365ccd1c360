"""What a dataset says of the images it was drawn over: real or synthetic, which, and of which generation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlcroissant
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from promptmill.pipeline.dataset.claim import claim_output
from promptmill.pipeline.dataset.state import missing_shards
from promptmill.pipeline.dataset.verify import verify_dataset
from promptmill.pipeline.export.card import write_card
from promptmill.pipeline.export.lineage import read_origins
from promptmill.pipeline.export.registry import layout_of
from promptmill.pipeline.export.training import export_training
from promptmill.pipeline.planning.plan import Plan, plan_job
from promptmill.pipeline.planning.plan_json import from_json, segment_json
from promptmill.pipeline.storage.store import Store
from promptmill.pipeline.worker.shard import process_shard
from promptmill.schemas.origin import Lineage, is_marked, origin_of
from promptmill.schemas.plan import Counts
from tests.heart.mill import TintContext, job, rows, run_small, write_prompts

Grid = tuple[Plan, Store]


def draw(folder: Path, source: Path, columns: dict[str, str], mark: bool = True, old: bool = False) -> Grid:
    """A dataset at `folder`, of image-to-image over what `source` maps; `old` is one of an earlier version."""
    output = {"url": str(folder), "embed_source_type": mark}
    wanted = job(
        source,
        prompts={"source": str(source), "columns": columns},
        generation={"images_per_prompt": 1, "num_inference_steps": 4},
        output=output,
        score=None,
    )
    plan, store = plan_job(wanted), Store(str(folder))
    plan = claim_output(replace(plan, origins=False) if old else plan, store)
    context = TintContext(plan, store)
    try:
        counts = [process_shard(shard, context).counts for shard in missing_shards(plan, store)]
    finally:
        context.close()
    write_card(plan, store, sum(counts, Counts()))
    return plan, store


def photos(folder: Path, names: Sequence[str] = ("a", "b", "c")) -> Path:
    """A table of prompts beside real images, which say nothing of themselves."""
    folder.mkdir()
    chance = np.random.default_rng(0)
    for name in names:
        Image.fromarray(chance.integers(0, 255, (16, 16, 3), np.uint8)).save(folder / f"{name}.png")
    files = [f"{name}.png" for name in names]
    return write_prompts(folder / "t.parquet", ["a star"] * len(names), photo=files)


def front(store: Store) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(store.read("README.md").decode().split("---")[1])
    return found


@pytest.fixture
def first(tmp_path: Path) -> Grid:
    return draw(tmp_path / "first", photos(tmp_path / "real"), {"image": "photo"})


def test_over_real_images_each_row_says_so(first: Grid) -> None:
    plan, store = first
    assert [row["origin"] for row in rows(store)] == ["edited_from_real"] * 3
    assert front(store)["promptmill"] == {"fingerprint": plan.fingerprint, "generation": 1}
    assert "by the column `origin` 3 `edited_from_real`" in store.read("README.md").decode()
    assert not verify_dataset(plan, store).problems
    assert from_json(store.read("job.json")).origins


def test_over_a_dataset_of_ours_they_are_of_the_next_generation(tmp_path: Path, first: Grid) -> None:
    plan, store = draw(tmp_path / "second", tmp_path / "first", {"image": "image"})
    assert [row["origin"] for row in rows(store)] == ["edited_from_synthetic"] * 3
    assert [row["input_origin"] for row in rows(store)] == ["edited_from_real"] * 3
    assert front(store)["promptmill"]["generation"] == 2
    entities = json.loads(store.read("croissant.json"))["prov:wasDerivedFrom"]
    assert any(first[0].fingerprint in entity["prov:label"] for entity in entities)
    assert not mlcroissant.Dataset(jsonld=tmp_path / "second" / "croissant.json").metadata.ctx.issues.errors
    assert from_json(store.read("job.json")).lineage.datasets == (first[0].fingerprint,)
    _, third = draw(tmp_path / "third", tmp_path / "second" / "data", {"image": "image"})
    assert front(third)["promptmill"]["generation"] == 3


def test_a_dataset_without_a_card_says_it_by_its_claim(tmp_path: Path, first: Grid) -> None:
    _, second = draw(tmp_path / "second", tmp_path / "first", {"image": "image"})
    second.delete("README.md")
    plan, _ = draw(tmp_path / "third", tmp_path / "second", {"image": "image"})
    assert plan.lineage.generation == 3


def test_what_came_later_to_a_dataset_without_a_card_counts_too(tmp_path: Path, first: Grid) -> None:
    plan, store = first
    later = replace(plan.segments[0], kind="extend", lineage=Lineage(4, ("abc",)))
    store.create("segments/000000001.json", json.dumps({"segments": [segment_json(later)]}).encode())
    store.create("segments/000000000.json", b'{"segments": [7]}')
    store.delete("README.md")
    assert plan.lineage.generation == 1
    assert draw(tmp_path / "next", tmp_path / "first", {"image": "image"})[0].lineage.generation == 5


def test_images_without_the_mark_are_known_by_their_dataset(tmp_path: Path) -> None:
    _, store = draw(tmp_path / "first", photos(tmp_path / "real"), {"image": "photo"}, mark=False)
    assert not is_marked(rows(store)[0]["image"]["bytes"])
    _, second = draw(tmp_path / "second", tmp_path / "first", {"image": "image"})
    assert {row["origin"] for row in rows(second)} == {"edited_from_synthetic"}


def test_real_images_that_a_dataset_of_ours_names_stay_real(tmp_path: Path, first: Grid) -> None:
    plan, store = draw(tmp_path / "again", tmp_path / "first", {"image": "input_image"})
    assert {row["origin"] for row in rows(store)} == {"edited_from_real"}
    assert plan.lineage.generation == 1


@pytest.mark.parametrize("layout", ["huggingface", "imagefolder-metadata"])
def test_an_export_is_known_by_its_card_or_its_images(tmp_path: Path, first: Grid, layout: str) -> None:
    out = tmp_path / "out"
    export_training(*first, Store(str(out)), layout_of(layout))
    if layout == "huggingface":
        source, columns = out / "data", {"image": "image"}
        assert front(Store(str(out)))["promptmill"]["generation"] == 1
    else:
        files = sorted(path.name for path in out.glob("*.png"))
        source, columns = write_prompts(out / "t.parquet", ["a star"] * 3, photo=files), {"image": "photo"}
    plan, store = draw(tmp_path / "second", source, columns)
    assert {row["origin"] for row in rows(store)} == {"edited_from_synthetic"}
    assert front(store)["promptmill"]["generation"] == 2


def test_the_hash_of_the_set_is_of_its_images_and_of_nothing_else(tmp_path: Path, first: Grid) -> None:
    def told(store: Store) -> str:
        entities = json.loads(store.read("croissant.json"))["prov:wasDerivedFrom"]
        (label,) = (each["prov:label"] for each in entities if "input images" in each["prov:label"])
        return str(label)

    _, same = draw(tmp_path / "same", photos(tmp_path / "moved"), {"image": "photo"})
    _, other = draw(tmp_path / "other", photos(tmp_path / "fewer", ("a", "b")), {"image": "photo"})
    assert told(same) == told(first[1]) != told(other)
    assert told(same).startswith("3 input images")


def test_a_dataset_that_an_earlier_version_began_goes_on_as_it_was(tmp_path: Path) -> None:
    table = photos(tmp_path / "real")
    plan, store = draw(tmp_path / "old", table, {"image": "photo"}, old=True)
    assert "origin" not in pq.read_schema(tmp_path / "old" / "data" / "part-000000.parquet").names
    again, _ = draw(tmp_path / "old", table, {"image": "photo"})
    assert again.fingerprint == plan.fingerprint and not again.origins


def test_a_column_origin_of_the_source_is_kept_under_another_name(tmp_path: Path) -> None:
    table = photos(tmp_path / "real")
    content = pq.read_table(table)
    pq.write_table(content.append_column("origin", [["museum"] * 3]), table)
    _, store = draw(tmp_path / "made", table, {"image": "photo"})
    assert {(row["origin"], row["input_origin"]) for row in rows(store)} == {("edited_from_real", "museum")}


def test_a_job_of_words_has_no_column_of_it(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "made"))
    plan = run_small(tmp_path / "p", store)
    write_card(plan, store, Counts(10, 10))
    assert "origin" not in rows(store)[0] and origin_of({}) == "generated"
    assert front(store)["promptmill"]["generation"] == 1


@pytest.mark.parametrize("front", ["promptmill: 3", "promptmill: {fingerprint: [a], generation: x}", "promptmill: {}"])
def test_a_card_that_lies_says_nothing(tmp_path: Path, first: Grid, front: str) -> None:
    Store(str(tmp_path / "first")).put("README.md", f"---\n{front}\nlicense: mit\n---\n".encode())
    plan, _ = draw(tmp_path / "second", tmp_path / "first", {"image": "image"})
    assert (plan.lineage.generation, plan.lineage.license) == (1, "mit")


def test_what_a_mask_keeps_is_told_as_such(tmp_path: Path) -> None:
    table = photos(tmp_path / "real")
    Image.new("L", (16, 16), 255).save(tmp_path / "real" / "m.png")
    content = pq.read_table(table)
    pq.write_table(content.append_column("hole", [["m.png"] * 3]), table)
    _, store = draw(tmp_path / "made", table, {"image": "photo", "mask": "hole"})
    assert {row["origin"] for row in rows(store)} == {"edited_from_real"}
    assert "None is a photograph" not in store.read("croissant.json").decode()
    assert "**A part of every image was generated by a model**" in store.read("README.md").decode()


@pytest.mark.parametrize("strange", ["zz", "a" * 63, "\u0661" * 64])
def test_strange_values_of_a_dataset_are_not_told(tmp_path: Path, first: Grid, strange: str) -> None:
    plan, store = first
    path = tmp_path / "first" / "data" / "part-000000.parquet"
    table = pq.read_table(path)
    place = table.schema.get_field_index("input_image_sha256")
    hashes = pa.array([{"image": strange}] * 3, table.schema.field(place).type)
    strangers = table.set_column(place, table.schema.field(place), hashes)
    origins = strangers.schema.get_field_index("origin")
    pq.write_table(strangers.set_column(origins, "origin", pa.array(["`<b>"] * 3)), path)
    found = read_origins(plan, store)
    assert (found.counts, found.images) == ({}, 0)


def test_a_data_object_without_the_column_is_exported(tmp_path: Path, first: Grid) -> None:
    path = tmp_path / "first" / "data" / "part-000000.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["origin"]), path)
    out = Store(str(tmp_path / "out"))
    export_training(*first, out, layout_of("huggingface"))
    assert front(out)["promptmill"]["generation"] == 1
