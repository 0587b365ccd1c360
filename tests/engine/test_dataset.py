"""The output folder and the record, as other tools see them."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from promptmill.pipeline.models.catalog.clips import resolve_clip
from promptmill.pipeline.models.load import load_embedder
from promptmill.schemas.columns import IMAGE
from promptmill.schemas.identity import sample_seed
from promptmill.schemas.records import RECORD
from tests.engine.conftest import PROMPTS, Answer, records

Cli = Callable[..., Answer]
MakeJob = Callable[..., Path]


def run(cli: Cli, job: Path, code: int = 0) -> dict[str, object]:
    answer = cli("run", job, "--in-process", "--json")
    assert answer.code == code, answer
    return answer.json


def test_record(cli: Cli, job: MakeJob, tmp_path: Path) -> None:
    summary = run(cli, job())
    assert {key: summary[key] for key in ("samples", "kept", "rejected", "failed", "shards", "shards_done")} == {
        "samples": 8,
        "kept": 8,
        "rejected": 0,
        "failed": 0,
        "shards": 2,
        "shards_done": 2,
    }
    out = tmp_path / "out"
    schema = pq.read_schema(out / "data" / "part-000000.parquet")
    assert schema.names == [*RECORD.names, "tag"]
    assert schema.field("image").type == IMAGE
    assert schema.field("tag").type == pa.int64()
    for name in RECORD.names:
        if name != "scores":
            assert schema.field(name).type == RECORD.field(name).type, name
    rows = records(out)
    assert [row["prompt"] for row in rows] == [prompt for prompt in PROMPTS for _ in range(2)]
    assert [row["sample_index"] for row in rows] == [0, 1] * 4
    assert len({row["seed"] for row in rows}) == 8
    assert rows[0]["prompt_id"] == "prompts.parquet:0"
    for row in rows:
        assert hashlib.sha256(row["image"]["bytes"]).hexdigest() == row["image_sha256"]
        assert row["image"]["path"] == f"{row['sample_id']}.png"
        assert row["clip_score"] == row["scores"]["clip"]
        assert -1 <= row["clip_score"] <= 1
        assert (row["width"], row["height"]) == Image.open(io.BytesIO(row["image"]["bytes"])).size
        assert (row["pipeline_class"], row["dtype"], row["variant"]) == ("StableDiffusionPipeline", "float32", "{}")
        assert row["caption"] == row["prompt"]
        assert len(row["image_phash"]) == 16


def test_scores_are_those_of_the_stored_image(cli: Cli, job: MakeJob, tmp_path: Path, models: Path) -> None:
    import numpy as np

    run(cli, job())
    scorer = load_embedder(resolve_clip(f"local-dir:{models / 'clip'}", "score"), threads=1)
    rows = records(tmp_path / "out")
    captions = [row["caption"] for row in rows]
    scorer.prepare(captions)
    again = scorer.cosines([np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))) for row in rows], captions)
    assert again == pytest.approx([row["clip_score"] for row in rows], abs=1e-5)


def test_opens_with_other_tools(cli: Cli, job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard without kept rows comes first: `datasets` stumbles over an empty row group."""
    run(cli, job(select={"keep": 1, "min": -0.99}))
    empty = job(name="none.yaml", select={"keep": 1, "min": 0.999}, output={"url": str(tmp_path / "none")})
    run(cli, empty)
    assert pq.read_metadata(tmp_path / "none" / "data" / "part-000000.parquet").num_row_groups == 0
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    import datasets
    import duckdb
    import pandas as pd

    files = [str(tmp_path / "none" / "data" / "part-000000.parquet"), str(tmp_path / "out" / "data" / "*.parquet")]
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert len(loaded) == 4
    assert loaded[0]["image"].size == (loaded[0]["width"], loaded[0]["height"])
    pattern = str(tmp_path / "out" / "data" / "*.parquet")
    ((count, best),) = duckdb.sql(f"select count(*), max(scores.clip) from '{pattern}'").fetchall()
    assert count == 4
    frame = pd.read_parquet(tmp_path / "out" / "data")
    assert frame["clip_score"].max() == pytest.approx(best)


def test_side_objects_and_footer(cli: Cli, job: MakeJob, tmp_path: Path) -> None:
    run(cli, job(select={"keep": 1}))
    out = tmp_path / "out"
    claimed = json.loads((out / "job.json").read_text())
    for number in (0, 1):
        metadata = pq.read_metadata(out / "data" / f"part-{number:06d}.parquet").metadata
        footer = json.loads(metadata[b"promptmill"])
        assert footer["fingerprint"] == claimed["fingerprint"]
        assert footer["shard"]["number"] == number
        assert footer["counts"] == {"samples": 4, "kept": 2, "rejected": 2, "failed": 0}
        (side,) = footer["side_objects"]
        assert (out / side).exists()
        assert (out / "receipts" / f"part-{number:06d}.json").exists()
    rejected = records(out, "rejects")
    assert {row["reason"] for row in rejected} == {"not_selected"}
    assert all(row["image"] is None and row["clip_score"] is not None for row in rejected)
    best = {row["prompt"]: row["clip_score"] for row in records(out)}
    assert all(row["clip_score"] <= best[row["prompt"]] for row in rejected)
    assert (out / "README.md").exists()
    assert json.loads((out / "croissant.json").read_text())["@type"] == "sc:Dataset"
    assert (out / "report" / "index.html").exists()


def test_rejected_images_where_asked_for(cli: Cli, job: MakeJob, tmp_path: Path) -> None:
    run(cli, job(select={"keep": 1}, output={"keep_rejected_images": True}))
    assert all(Image.open(io.BytesIO(row["image"]["bytes"])).size for row in records(tmp_path / "out", "rejects"))


def test_columns_whose_names_are_taken(cli: Cli, job: MakeJob, tmp_path: Path) -> None:
    path = tmp_path / "taken.parquet"
    table = {
        "text": ["a red circle"],
        "prompt": ["another column"],
        "seed": ["not a number"],
        "input_seed": [1.5],
        "nested": [[{"class": "x", "n": 1}]],
        "image": [b"bytes"],
    }
    pq.write_table(pa.table(table), path)
    run(cli, job(prompts={"source": str(path), "columns": {"prompt": "text"}}, generation={"images_per_prompt": 1}))
    (row,) = records(tmp_path / "out")
    assert row["prompt"] == "a red circle"
    assert row["input_prompt"] == "another column"
    assert row["input_seed"] == 1.5
    assert row["input_input_seed"] == "not a number"
    assert row["nested"] == [{"class": "x", "n": 1}]
    assert row["input_image"] == b"bytes"


def test_mapped_columns(cli: Cli, job: MakeJob, tmp_path: Path) -> None:
    path = tmp_path / "mapped.parquet"
    table = {
        "p": ["a red circle"] * 3,
        "n": ["blue", None, ""],
        "s": [7, None, -1],
        "c": ["a caption", None, None],
        "key": ["x", "y", "z"],
    }
    pq.write_table(pa.table(table), path)
    columns = {"prompt": "p", "negative_prompt": "n", "seed": "s", "caption": "c", "id": "key"}
    made = job(prompts={"source": str(path), "columns": columns}, generation={"negative_prompt": "green"})
    run(cli, made)
    rows = records(tmp_path / "out")
    assert [row["prompt_id"] for row in rows] == ["x", "x", "y", "y", "z", "z"]
    assert [row["negative_prompt"] for row in rows] == ["blue", "blue", "green", "green", "", ""]
    assert [row["seed"] for row in rows[:2]] == [7, 8]
    assert [row["caption"] for row in rows] == ["a caption"] * 2 + ["a red circle"] * 4
    assert rows[4]["seed"] == sample_seed(0, "z", 0)  # -1 leaves the derived one
    assert set(rows[0]) == set(RECORD.names)


def test_retry_leaves_what_the_source_is_at_fault_for(cli: Cli, job: MakeJob, tmp_path: Path) -> None:
    """Made from what `failures/` holds, a row of a bad seed would come out with a seed of its own."""
    path = tmp_path / "mixed.parquet"
    prompts = ["a red circle", "a red circle", None, "  "]
    pq.write_table(pa.table({"prompt": prompts, "seed": [1, -1, 2, 3]}), path)
    run(cli, job(prompts={"source": str(path), "columns": {"seed": "seed"}}), code=3)
    before = {entry: entry.read_bytes() for entry in (tmp_path / "out").rglob("*") if entry.is_file()}
    answer = cli("retry", tmp_path / "out", "--in-process", "--json")
    assert (answer.code, answer.json["made"]["samples"], answer.json["failed"]) == (3, 0, 4)
    said = cli("retry", tmp_path / "out", "--in-process").out
    assert "own rows" in said
    assert "makes them again" not in said
    after = {entry: entry.read_bytes() for entry in (tmp_path / "out").rglob("*") if entry.is_file()}
    assert {e for e in after if e.parent.name in ("data", "failures")} <= before.keys()
    assert all(
        before[entry] == content for entry, content in after.items() if entry.parent.name in ("data", "failures")
    )
    assert cli("verify", tmp_path / "out", "--deep").code == 0


def test_seeds_that_pandas_made_floats(cli: Cli, job: MakeJob, tmp_path: Path) -> None:
    path = tmp_path / "pandas.parquet"
    seeds = pa.array([float(2**53 - 2), None, float("nan"), 1.5, -1.0, 0.0], from_pandas=False)
    pq.write_table(pa.table({"prompt": ["a red circle"] * 6, "seed": seeds}), path)
    made = job(prompts={"source": str(path), "columns": {"seed": "seed"}}, generation={"images_per_prompt": 1})
    answer = cli("validate", made)
    assert (answer.code, "row 3: expected an integer" in answer.err, "got 1.5" in answer.err) == (2, True, True)
    pq.write_table(pa.table({"prompt": ["a red circle"] * 5, "seed": seeds.take([0, 1, 2, 4, 5])}), path)
    run(cli, made)
    rows = records(tmp_path / "out")
    assert [rows[0]["seed"], rows[-1]["seed"], len(rows)] == [2**53 - 2, 0, 5]


@pytest.mark.parametrize(("name", "kind"), [("png", "PNG"), ("webp", "WEBP"), ("jpeg", "JPEG")])
def test_image_formats_carry_how_they_were_made(cli: Cli, job: MakeJob, tmp_path: Path, name: str, kind: str) -> None:
    run(cli, job(output={"image_format": name}, generation={"images_per_prompt": 1, "negative_prompt": "blå, grön"}))
    row = records(tmp_path / "out")[0]
    image = Image.open(io.BytesIO(row["image"]["bytes"]))
    assert image.format == kind
    if name == "png":
        text = image.info["parameters"]
        xmp = image.info["XML:com.adobe.xmp"]
    else:
        comment = image.getexif().get_ifd(0x8769)[0x9286]
        assert comment.startswith(b"UNICODE\0")
        text, xmp = comment[8:].decode("utf-16-be"), image.info["xmp"].decode()
    first, negative, settings = text.split("\n")
    assert first == row["prompt"]
    assert negative == "Negative prompt: blå, grön"
    assert f"Seed: {row['seed']}, " in settings
    assert settings.startswith("Steps: 2, Sampler: ")
    assert "trainedAlgorithmicMedia" in xmp


@pytest.mark.parametrize("name", ["png", "webp", "jpeg"])
def test_a_prompt_longer_than_a_jpeg_can_hold(cli: Cli, job: MakeJob, tmp_path: Path, name: str) -> None:
    path = tmp_path / "long.parquet"
    long = "rød circle 𝄞 " * 3_800
    pq.write_table(pa.table({"prompt": [long]}), path)
    made = job(prompts={"source": str(path)}, output={"image_format": name}, generation={"images_per_prompt": 1})
    run(cli, made)
    (row,) = records(tmp_path / "out")
    assert row["prompt"] == long
    image = Image.open(io.BytesIO(row["image"]["bytes"]))
    comment = image.info.get("parameters") or image.getexif().get_ifd(0x8769)[0x9286][8:].decode("utf-16-be")
    prompt, settings = comment.split("\n")
    assert settings.startswith("Steps: 2, Sampler: ")
    assert prompt == long if name != "jpeg" else len(prompt) > 29_000 and long.startswith(prompt.removesuffix("…"))


def test_embedding_can_be_turned_off(cli: Cli, job: MakeJob, tmp_path: Path) -> None:
    run(cli, job(output={"embed_parameters": False, "embed_source_type": False}))
    image = Image.open(io.BytesIO(records(tmp_path / "out")[0]["image"]["bytes"]))
    assert not image.info


def test_sweep_cells_share_seeds(cli: Cli, job: MakeJob, tmp_path: Path) -> None:
    made = job(sweep={"guidance_scale": [1.0, 7.0], "num_inference_steps": [1, 2]}, generation={"images_per_prompt": 1})
    assert run(cli, made)["samples"] == 16
    rows = records(tmp_path / "out")
    by_cell: dict[str, list[dict[str, object]]] = {}
    for row in rows:
        by_cell.setdefault(row["variant"], []).append(row)
    assert {json.loads(cell)["guidance_scale"] for cell in by_cell} == {1.0, 7.0}
    assert len(by_cell) == 4
    seeds = [[row["seed"] for row in cell] for cell in by_cell.values()]
    assert all(cell == seeds[0] for cell in seeds)
    assert len({row["sample_id"] for row in rows}) == 16
    assert len({row["image_sha256"] for row in rows}) == 16
    for cell, its in by_cell.items():
        assert {row["num_inference_steps"] for row in its} == {json.loads(cell)["num_inference_steps"]}


def test_same_job_same_bytes(cli: Cli, job: MakeJob, tmp_path: Path) -> None:
    """Made at once, or stopped after the first shard and continued: the same objects to the last byte."""
    made = job(select={"keep": 1})
    run(cli, made)
    whole = {path.name: path.read_bytes() for path in (tmp_path / "out" / "data").iterdir()}
    (tmp_path / "out" / "data" / "part-000001.parquet").unlink()
    assert cli("verify", tmp_path / "out").code == 1
    again = run(cli, made)
    assert again["made"]["samples"] == 4  # type: ignore[index]
    assert whole == {path.name: path.read_bytes() for path in (tmp_path / "out" / "data").iterdir()}
    other = job(name="other.yaml", select={"keep": 1}, output={"url": str(tmp_path / "other")})
    run(cli, other)
    assert whole == {path.name: path.read_bytes() for path in (tmp_path / "other" / "data").iterdir()}
    assert cli("verify", tmp_path / "other", "--deep").code == 0


def test_image_can_be_made_again_from_its_row(cli: Cli, job: MakeJob, tmp_path: Path, models: Path) -> None:
    import torch
    from diffusers import StableDiffusionPipeline

    run(cli, job(generation={"batch_size": 1}))
    row = records(tmp_path / "out")[3]
    pipe = StableDiffusionPipeline.from_pretrained(row["model"], dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    image = pipe(
        row["prompt"],
        negative_prompt=row["negative_prompt"],
        num_inference_steps=row["num_inference_steps"],
        guidance_scale=row["guidance_scale"],
        generator=torch.Generator().manual_seed(row["seed"]),
    ).images[0]
    assert image.tobytes() == Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB").tobytes()


def test_extend_makes_only_what_is_new(cli: Cli, job: MakeJob, tmp_path: Path) -> None:
    folder = tmp_path / "daily"
    folder.mkdir()
    pq.write_table(pa.table({"prompt": ["a red circle"]}), folder / "b.parquet")
    made = job(prompts={"source": str(folder / "*.parquet")})
    run(cli, made)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out" / "data").iterdir()}
    pq.write_table(pa.table({"prompt": ["a blue square", "a green ring"]}), folder / "a.parquet")
    answer = cli("run", made, "--in-process")
    assert answer.code == 2
    assert "--extend" in answer.err
    assert "a.parquet" in answer.err
    answer = cli("run", made, "--in-process", "--extend", "--json")
    assert (answer.code, answer.json["made"]["samples"], answer.json["samples"]) == (0, 4, 6)
    after = {path.name: path.read_bytes() for path in (tmp_path / "out" / "data").iterdir()}
    assert before.items() <= after.items()
    assert cli("run", made, "--in-process", "--json").json["made"]["samples"] == 0
    assert cli("verify", tmp_path / "out", "--deep", "--json").json["samples"] == 6
    pq.write_table(pa.table({"prompt": ["a red circle", "a pink cross"]}), folder / "b.parquet")
    answer = cli("run", made, "--in-process", "--extend", "--json")
    assert (answer.code, answer.json["made"]["samples"], answer.json["samples"]) == (0, 2, 8)
    pq.write_table(pa.table({"prompt": ["a red ring", "a pink cross", "a star"]}), folder / "b.parquet")
    answer = cli("run", made, "--in-process", "--extend")
    assert answer.code == 2
    assert "b.parquet" in answer.err
    assert "new prompts in a new file" in " ".join(answer.err.split())
    assert cli("run", job(seed=5, prompts={"source": str(folder / "*.parquet")}), "--in-process", "--extend").code == 2


def test_status_while_unfinished(cli: Cli, job: MakeJob, tmp_path: Path) -> None:
    run(cli, job())
    (tmp_path / "out" / "data" / "part-000000.parquet").unlink()
    shown = cli("status", tmp_path / "out", "--json").json
    assert (shown["shards"], shown["shards_done"], shown["samples"], shown["complete"]) == (2, 1, 4, False)
    assert cli("status", tmp_path / "nothing").code == 2


@pytest.mark.parametrize(
    ("broken", "left"), [("report.build.build_report", "card"), ("export.card.write_card", "report")]
)
def test_report_and_card_do_not_need_each_other(
    cli: Cli, job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, left: str
) -> None:
    """Without the report there was no card either, and the last line named a page that was not there."""

    def defect(*_: object, **__: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(f"promptmill.pipeline.{broken}", defect)
    answer = cli("run", job(generation={"images_per_prompt": 1}), "--in-process")
    assert answer.code == 0, answer
    assert "RuntimeError: a defect" in answer.err and "tries again" in answer.err
    there = {path.name for path in (tmp_path / "out").iterdir()} & {"README.md", "croissant.json", "report"}
    assert there == ({"report"} if left == "report" else {"README.md", "croissant.json"})
    assert ("report/index.html" in answer.out) == (left == "report")
    assert "data/*.parquet" in answer.out


def test_plan_counts_as_status_does(cli: Cli, job: MakeJob, tmp_path: Path) -> None:
    """It took every name for a shard, and gave the folder's old place for a dataset that was moved."""
    made = job()
    run(cli, made)
    moved = (tmp_path / "out").rename(tmp_path / "moved")
    (moved / "data" / "part-000000.parquet").write_bytes(b"")
    pq.write_table(pa.table({"a": [1]}), moved / "data" / "part-000099.parquet")
    planned = cli("plan", made, "--set", f"output.url={moved}", "--json").json
    assert (planned["shards_done"], planned["output"]) == (1, str(moved))
    assert planned["shards_done"] == cli("status", moved, "--json").json["shards_done"]
    whole = (moved / "data" / "part-000001.parquet").stat().st_size
    assert planned["bytes_estimated"] == 2 * whole


def test_version(cli: Cli) -> None:
    answer = cli("--version")
    assert (answer.code, answer.out.split()[0]) == (0, "promptmill")
