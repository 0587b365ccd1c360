"""A folder of images as the source: each image is a file of it, the prompts are templates or stand in metadata."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from promptmill.pipeline.prompts.inputs import InputReader
from promptmill.pipeline.prompts.source import open_source
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import SampleError
from promptmill.schemas.prompts import Prompts
from tests.engine.conftest import Answer, records
from tests.engine.test_inputs import picture

Cli = Callable[..., Answer]
Job = Callable[..., Path]
GENERATION = {"images_per_prompt": 1, "num_inference_steps": 2, "strength": 0.5}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three photos: two in folders that say what they show, one that lies loose."""
    root = tmp_path / "photos"
    for number, name in enumerate(["cat/1.png", "dog/2.PNG", "loose.png"]):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(root / name)
    return root


def asked(folder: Path | str, *templates: str, **more: Any) -> dict[str, Any]:
    return {"source": str(folder), "columns": {"image": "file_name"}, "templates": list(templates), **more}


def test_every_image_is_drawn_with_every_template(cli: Cli, job: Job, folder: Path, tmp_path: Path) -> None:
    path = job(prompts=asked(folder, "an oil painting", "{file_name} {{x}}"), generation=GENERATION, score=None)
    assert cli("plan", path, "--json").json["prompts"] == 6
    answer = cli("run", path, "--in-process", "--json")
    assert (answer.code, answer.json["kept"]) == (0, 6), answer.err
    rows = records(tmp_path / "out")
    assert [row["prompt_id"] for row in rows[:3]] == ["cat/1.png:0#0", "cat/1.png:0#1", "dog/2.PNG:0#0"]
    assert {row["prompt"] for row in rows[:2]} == {"an oil painting", "cat/1.png {x}"}
    assert [row["label"] for row in rows] == ["cat", "cat", "dog", "dog", None, None]
    assert rows[0]["input_image"] == str(folder / "cat/1.png")
    assert cli("verify", tmp_path / "out", "--deep").code == 0


def test_a_label_that_is_not_there_costs_its_own_prompt(cli: Cli, job: Job, folder: Path, tmp_path: Path) -> None:
    path = job(prompts=asked(folder, "a {label}"), generation=GENERATION, score=None)
    assert cli("run", path, "--in-process").code == 3
    assert [row["prompt"] for row in records(tmp_path / "out")] == ["a cat", "a dog"]
    (failed,) = records(tmp_path / "out", "failures")
    assert (failed["error_kind"], "label: null" in failed["message"]) == ("empty_prompt", True)


def test_a_folder_grows_anywhere_and_a_project_moves(
    cli: Cli, job: Job, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = job(
        prompts=asked("photos", "a star"),
        generation=GENERATION,
        score=None,
        output={"url": "out", "images_per_shard": 2},
    )
    assert cli("run", path, "--in-process").code == 0
    before = {row["sample_id"] for row in records(tmp_path / "out")}
    picture(7).save(folder / "cat" / "0.png")
    answer = cli("run", path, "--in-process")
    assert (answer.code, "--extend" in answer.err) == (2, True)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("photos", "out", "job.yaml"):
        shutil.move(tmp_path / name, moved / name)
    monkeypatch.chdir(moved)
    answer = cli("run", "job.yaml", "--in-process", "--extend", "--json")
    assert (answer.code, answer.json["kept"]) == (0, 4), answer.err
    assert before < {row["sample_id"] for row in records(moved / "out")}
    assert cli("run", "job.yaml", "--in-process").code == 0


def test_an_image_that_changed_is_noticed(cli: Cli, job: Job, folder: Path, tmp_path: Path) -> None:
    """By the next command before anything starts, by a worker at the cost of its sample."""
    path = job(prompts=asked(folder, "a star"), generation=GENERATION, score=None)
    files = open_source(Prompts.model_validate(asked(folder, "a star"))).files
    reader = InputReader(Store(str(tmp_path / "o")), planned=files)
    assert reader.read(files[0].path) == (folder / "cat/1.png").read_bytes()
    assert cli("run", path, "--in-process").code == 0
    data = bytearray((folder / "cat/1.png").read_bytes())
    data[-20] ^= 1
    (folder / "cat/1.png").write_bytes(data)
    with pytest.raises(SampleError, match="another image than when the job was planned"):
        reader.read(files[0].path)
    answer = cli("run", path, "--in-process")
    assert (answer.code, "prompts.source.cat/1.png.digest" in answer.err) == (2, True)


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        ({"columns": {"image": "file_name"}}, "prompts.templates"),
        ({"templates": ["a star"]}, "columns: {image: file_name}"),
        ({"columns": {"image": "picture"}, "templates": ["a star"]}, "a column 'picture'"),
        ({"columns": {"image": "image"}, "templates": ["{kind}"]}, "a column 'kind' of text or numbers"),
        ({"columns": {"image": "image"}, "templates": ["{a.b!r}"]}, "expected text with {names} of columns"),
        ({"columns": {"image": "image"}, "templates": ["{"]}, "expected text with {names} of columns"),
        ({"columns": {"image": "image"}, "templates": ["a", "a"]}, "twice"),
    ],
)
def test_what_images_alone_do_not_say_is_asked_for(
    cli: Cli, job: Job, folder: Path, prompts: dict[str, Any], said: str
) -> None:
    answer = cli("validate", job(prompts={"source": str(folder), **prompts}, score=None))
    assert (answer.code, said in answer.err) == (2, True), answer.err


def test_what_git_lfs_left_is_named(cli: Cli, job: Job, folder: Path) -> None:
    (folder / "cat" / "1.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    answer = cli("validate", job(prompts=asked(folder, "a star"), score=None))
    assert (answer.code, "cat/1.png: expected the file itself, got a Git LFS pointer" in answer.err) == (2, True)


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv", "metadata.parquet"])
def test_metadata_as_hugging_face_has_it(cli: Cli, job: Job, folder: Path, tmp_path: Path, name: str) -> None:
    """`file_name` is the image and `text` the prompt, other `*_file_name` what the job maps by their beginning."""
    rows = [("cat/1.png", "loose.png", "a star"), ("dog/2.PNG", "loose.png", "a ring")]
    columns = ("file_name", "mask_file_name", "text")
    lines = [",".join(columns), *(",".join(row) for row in rows)]
    if name.endswith(".jsonl"):
        lines = [json.dumps(dict(zip(columns, row, strict=True))) for row in rows]
    if name.endswith(".parquet"):
        pq.write_table(pa.table(dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True))), folder / name)
    else:
        (folder / name).write_text("\n".join(lines))
    picture(9).save(folder / "cat" / "alone.png")
    prompts = {"source": str(folder), "columns": {"image": "image", "mask": "mask"}}
    path = job(prompts=prompts, generation=GENERATION, score=None)
    answer = cli("validate", path)
    assert (answer.code, "column 'text' is taken as 'prompt'" in answer.out + answer.err) == (0, True), answer.err
    assert "1 images have no line in metadata, and are not drawn: cat/alone.png" in answer.out + answer.err
    assert cli("run", path, "--in-process").code == 0
    assert cli("run", path, "--in-process", "--json").json["shards_done"] == 1
    made = records(tmp_path / "out")
    assert [(row["prompt"], Path(row["input_image"]).name, Path(row["input_mask"]).name) for row in made] == [
        ("a star", "1.png", "loose.png"),
        ("a ring", "2.PNG", "loose.png"),
    ]


def test_templates_take_the_place_of_a_prompt_column_in_any_source(cli: Cli, job: Job, tmp_path: Path) -> None:
    """Of Parquet, which is read where it lies, as of text; a limit counts rows."""
    pq.write_table(pa.table({"thing": ["star", "ring", "cross"], "number": [1, 2, 3]}), tmp_path / "things.parquet")
    (tmp_path / "things.txt").write_text("star\nring\ncross\n")
    for name, template in (("things.parquet", "{number} {thing}s"), ("things.txt", "1 {prompt}s")):
        prompts = {"source": str(tmp_path / name), "templates": ["a {" + "thing}" if "par" in name else "x", template]}
        out = tmp_path / name.replace(".", "-")
        path = job(
            prompts={**prompts, "limit": 2},
            generation={"images_per_prompt": 1},
            output={"url": str(out), "images_per_shard": 3},
            score=None,
        )
        answer = cli("run", path, "--in-process", "--json")
        assert (answer.code, answer.json["kept"]) == (0, 4), answer.err
        assert records(out)[1]["prompt"] == "1 stars" and len({row["sample_id"] for row in records(out)}) == 4
