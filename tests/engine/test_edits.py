"""Instruction editing in a job: the mode follows from model and columns, and what cannot be is refused at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import Answer, records
from tests.engine.test_inputs import picture, write
from tests.models.edits import build_edit

Cli = Callable[..., Answer]
Job = Callable[..., Path]


@pytest.fixture
def editor(models: Path) -> str:
    path = models / "pix2pix"
    return str(path if path.exists() else build_edit("StableDiffusionInstructPix2PixPipeline", path))


@pytest.fixture
def photos(tmp_path: Path) -> dict[str, Any]:
    folder = tmp_path / "in"
    (folder / "images").mkdir(parents=True)
    for number, size in enumerate([(64, 64), (64, 64), (80, 48)]):
        picture(number, size).save(folder / "images" / f"{number}.png")
    rows = [{"prompt": "a red circle", "photo": f"images/{number}.png"} for number in range(4)]
    return {"source": write(folder, rows), "columns": {"image": "photo"}}


def test_an_edit_of_each_photo(
    cli: Cli, job: Job, editor: str, photos: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation = {"images_per_prompt": 1, "mode": "edit"}
    path = job(
        prompts=photos, model={"path": editor}, generation=generation, sweep={"image_guidance_scale": [1.0, 4.0, None]}
    )
    assert cli("plan", path, "--json").json["task"] == "edit"
    assert cli("run", path, "--in-process").code == 3
    rows = records(tmp_path / "out")
    assert len(rows) == 9 and len({row["image_sha256"] for row in rows}) == 9
    assert {row["task"] for row in rows} == {"edit"} and {row["strength"] for row in rows} == {None}
    assert {row["pipeline_class"] for row in rows} == {"StableDiffusionInstructPix2PixPipeline"}
    assert {row["image_guidance_scale"] for row in rows} == {1.0, 4.0, 1.5}
    assert {(row["width"], row["height"]) for row in rows} == {(64, 64), (80, 48)}
    picture(3).save(tmp_path / "in" / "images" / "3.png")
    assert cli("retry", tmp_path / "out", "--in-process").code == 0
    assert len(records(tmp_path / "out")) == 12
    monkeypatch.chdir(tmp_path)  # where it writes the image
    assert cli("reproduce", tmp_path / "out", rows[0]["sample_id"]).code == 0


def test_a_mode_that_is_said_changes_no_fingerprint(cli: Cli, job: Job, editor: str, photos: dict[str, Any]) -> None:
    def fingerprint(**generation: Any) -> str:
        answer = cli("plan", job(prompts=photos, model={"path": editor}, generation=generation), "--json")
        return str(answer.json["fingerprint"])

    assert fingerprint() == fingerprint(mode="edit") != fingerprint(image_guidance_scale=2.0)


@pytest.mark.parametrize(
    ("edits", "columns", "generation", "place", "said"),
    [
        (True, False, {}, "prompts.columns.image", "images for a model that edits them"),
        (True, False, {"mode": "text-to-image"}, "prompts.columns.image", "images for a model that edits them"),
        (True, True, {"strength": 0.5}, "generation.strength", "no strength, which edits do not have"),
        (True, True, {"mode": "image-to-image"}, "generation.mode", "These do: ChromaPipeline"),
        (False, True, {"mode": "edit"}, "generation.mode", "These do: Flux2KleinPipeline"),
        (False, False, {"mode": "edit"}, "generation.mode", "FluxKontextPipeline"),
        (False, False, {"mode": "inpainting"}, "generation.mode", "prompts.columns.mask"),
        (False, True, {"image_guidance_scale": 2.0}, "generation.image_guidance_scale", "does not know"),
        (True, True, {"image_guidance_scale": 0.5}, "generation.image_guidance_scale", "expected"),
        (True, True, {"mode": "drawing"}, "generation.mode", "edit"),
    ],
)
def test_what_cannot_work_is_refused_by_name(
    cli: Cli,
    job: Job,
    editor: str,
    models: Path,
    photos: dict[str, Any],
    edits: bool,
    columns: bool,
    generation: dict[str, Any],
    place: str,
    said: str,
) -> None:
    given = photos if columns else {"source": photos["source"]}
    model = {"path": editor if edits else str(models / "sd")}
    answer = cli("validate", job(prompts=given, model=model, generation=generation))
    assert answer.code == 2
    assert place in answer.err and said in answer.err, answer.err
