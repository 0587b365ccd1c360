"""The promises for jobs from images, whatever their source is: a folder, tars, cells of Parquet, a dataset of ours."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from promptmill.pipeline.dataset.claim import claim_output
from promptmill.pipeline.dataset.retry import plan_retry
from promptmill.pipeline.dataset.state import missing_shards
from promptmill.pipeline.dataset.verify import verify_dataset
from promptmill.pipeline.models.interface import Generated
from promptmill.pipeline.planning.plan import Plan, plan_job
from promptmill.pipeline.storage.store import Store
from promptmill.pipeline.worker.reproduce import reproduce_sample
from promptmill.pipeline.worker.shard import process_shard
from promptmill.schemas.errors import JobError
from promptmill.schemas.plan import Sample
from promptmill.schemas.resolved import ResolvedModel
from tests.heart.mill import Tint, TintContext, job, make_missing, memory, rows, write_prompts

KINDS = ["folder", "tar", "cells", "ours"]
COUNT = 5
BAD = 3
"""Which of the images is none; of a dataset of ours all are images."""


class Over(Tint):
    """Draws over the image: what a sample shows, its own seed and image say."""

    def _one(self, sample: Sample, guidance_scale: float) -> Generated:
        made = super()._one(sample, guidance_scale)
        return made if made.pixels is None else Generated(made.pixels ^ sample.inputs["image"].pixels, made.flags)


class OverContext(TintContext):
    def _load(self, model: ResolvedModel) -> Over:
        return Over(self.broken)


class Killed(BaseException):
    pass


def image(number: int) -> bytes:
    sink = io.BytesIO()
    noise = np.random.default_rng(number).integers(0, 255, (16, 12, 3), dtype=np.uint8)
    Image.fromarray(noise).save(sink, "PNG")
    return sink.getvalue()


def add(kind: str, folder: Path, numbers: Iterable[int]) -> dict[str, Any]:
    """Puts images into the source, which it begins if need be: the job's section `prompts`."""
    folder.mkdir(exist_ok=True)
    images = {number: image(number) if number != BAD or kind == "ours" else b"no image" for number in numbers}
    first = min(images)
    if kind == "folder":
        for number, data in images.items():
            (folder / f"{number}.png").write_bytes(data)
        return {"source": str(folder), "columns": {"image": "file_name"}, "templates": ["a star", "a ring"]}
    if kind == "tar":
        with tarfile.open(folder / f"{first}.tar", "w") as tar:
            for number, data in images.items():
                for name, content in ((f"{number}.png", data), (f"{number}.txt", f"a star {number}".encode())):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
        return {"source": str(folder), "columns": {"image": "png"}}
    if kind == "cells":
        cells = [{"bytes": data, "path": f"{number}.png"} for number, data in images.items()]
        table = pa.table({"prompt": [f"a star {number}" for number in images], "photo": cells})
        pq.write_table(table, folder / f"{first}.parquet", row_group_size=2)
        return {"source": str(folder), "columns": {"image": "photo"}}
    texts, ours = folder / "texts", Store(str(folder / "ours"))
    texts.mkdir(exist_ok=True)
    write_prompts(texts / f"{first}.parquet", [f"a star {number}" for number in images])
    plan = claim_output(plan_job(job(texts, output={"url": ours.url})), ours, extend=True)
    make_missing(plan, ours)
    return {"source": ours.url, "columns": {"image": "image", "id": "sample_id"}}


def planned(prompts: dict[str, Any], **sections: Any) -> Plan:
    generation = {"strength": 0.5, "width": 8, "height": 8, "images_per_prompt": 2}
    return plan_job(job(Path(), prompts=prompts, generation=generation, score=None, **sections))


def make(plan: Plan, store: Store, broken: Iterable[str] = ()) -> None:
    context = OverContext(plan, store)
    context.broken = frozenset(broken)
    try:
        for shard in missing_shards(plan, store):
            process_shard(shard, context)
    finally:
        context.close()


def objects(store: Store, *folders: str) -> dict[str, bytes]:
    return {entry.name: store.read(entry.name) for folder in folders for entry in store.list(folder)}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def prompts(kind: str, tmp_path: Path) -> dict[str, Any]:
    return add(kind, tmp_path / "in", range(COUNT))


def test_kills_and_other_workers_change_no_byte(prompts: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    whole, store = memory(), memory()
    make(claim_output(planned(prompts), whole), whole)
    plan = claim_output(planned(prompts), store)
    workers = [OverContext(plan, store) for _ in range(2)]
    todo = list(missing_shards(plan, store))[::-1]  # as the last to come first
    assert len(todo) >= 3

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as during:
        during.setattr("promptmill.pipeline.worker.shard.commit_shard", killed)
        with pytest.raises(Killed):
            process_shard(todo[0], workers[0])
    for number, shard in enumerate(todo[:-1]):
        process_shard(shard, workers[number % 2])
    for each in workers:
        each.close()
    make(claim_output(planned(prompts), store), store)  # the same command again
    assert objects(store, "data", "failures") == objects(whole, "data", "failures")
    assert not verify_dataset(plan, store, deep=True).missing


def test_what_failed_is_made_by_a_retry_as_if_it_never_had(kind: str, prompts: dict[str, Any]) -> None:
    whole, store = memory(), memory()
    make(claim_output(planned(prompts), whole), whole)
    plan = claim_output(planned(prompts), store)
    make(plan, store, broken=["star"])
    assert len(rows(store)) < len(rows(whole))
    plan = plan_retry(plan, store)
    make(plan, store)
    shown = [{row["sample_id"]: row["image_sha256"] for row in rows(each)} for each in (store, whole)]
    assert shown[0] == shown[1] and len(shown[1]) == len(rows(store))
    failed = {row["sample_id"]: row["message"] for row in rows(store, "failures") if row["error_kind"] == "input"}
    assert ({*failed.values()} == {"image: no image that Pillow knows"}) == (kind != "ours")
    assert not {*failed} & {*shown[0]}


def test_images_that_come_later_are_added_and_change_none(kind: str, prompts: dict[str, Any], tmp_path: Path) -> None:
    store = memory()
    make(claim_output(planned(prompts), store), store)
    before = objects(store, "data", "failures")
    add(kind, tmp_path / "in", range(COUNT, COUNT + 2))
    plan = claim_output(planned(prompts), store, extend=True)
    make(plan, store)
    after = objects(store, "data", "failures")
    assert {name: after[name] for name in before} == before
    made = rows(store)
    assert len({row["sample_id"] for row in made}) == len(made)
    assert len(made) == (COUNT + 2 - (kind != "ours")) * 2 * (1 + (kind in ("folder", "ours")))
    assert all(len(row["input_image_sha256"]["image"]) == 64 for row in made)


def test_each_image_can_be_made_again(prompts: dict[str, Any]) -> None:
    store = memory()
    plan = claim_output(planned(prompts), store)
    make(plan, store)
    context = OverContext(plan, store)
    for row in rows(store)[::3]:
        found = reproduce_sample(plan, store, row["sample_id"], context)
        assert found.identical and found.with_mates
    context.close()


@pytest.mark.parametrize("keep", [True, False], ids=["kept", "not kept"])
def test_images_that_are_gone_are_made_again_from_what_was_kept(
    kind: str, prompts: dict[str, Any], tmp_path: Path, keep: bool
) -> None:
    """Where the prompts were gone too, a sample was drawn from its text alone, and called another."""
    store = memory()
    plan = claim_output(planned(prompts, output={"keep_inputs": keep}), store)
    make(plan, store)
    made = rows(store)[0]
    (tmp_path / "in").rename(tmp_path / "elsewhere")
    context = OverContext(plan, store)
    if keep:
        assert reproduce_sample(plan, store, made["sample_id"], context).identical
    else:
        with pytest.raises(JobError, match=r"an image, got input: .*, where there was one before"):
            reproduce_sample(plan, store, made["sample_id"], context)
    context.close()
