"""ControlNets in a job: an image a row steers them, a bad one costs its row, what does not fit is refused at once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.engine.conftest import Answer, records
from tests.models.controls import build_control
from tests.models.test_adapters import write_lora

Cli = Callable[..., Answer]
Job = Callable[..., Path]


@pytest.fixture
def net(models: Path) -> Path:
    path = models / "net"
    return path if path.exists() else build_control(models / "sd", path)


@pytest.fixture
def source(tmp_path: Path) -> str:
    """Three rows, of which the last names a map that is not there."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(2):
        lines = np.zeros((64, 64, 3), np.uint8)
        lines[10 + 20 * number : 14 + 20 * number] = 255
        Image.fromarray(lines).save(folder / f"{number}.png")
    rows = [{"prompt": "a red circle", "edges": f"{number}.png"} for number in range(3)]
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def prompts(source: str, column: Any = "edges") -> dict[str, Any]:
    return {"source": source, "columns": {"control_image": column}}


def test_a_map_a_row_and_one_that_is_missing(
    cli: Cli, job: Job, net: Path, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = {"controlnets": [{"name": "edges", "path": str(net), "scale": 0.5}]}
    path = job(
        prompts=prompts(source),
        model=model,
        generation={"images_per_prompt": 1, "control_end": 0.8},
        sweep={"control_scale": [0.0, 1.0]},
    )
    planned = cli("plan", path, "--json")
    assert planned.json["task"] == "text-to-image"
    assert planned.json["models"][0]["controlnets"][0]["name"] == "edges"
    answer = cli("run", path, "--in-process", "--json")
    assert answer.code == 3, answer.err
    rows = records(tmp_path / "out")
    assert len(rows) == 4 and len({row["image_sha256"] for row in rows}) == 4
    assert {row["pipeline_class"] for row in rows} == {"StableDiffusionControlNetPipeline"}
    (first,) = rows[0]["controls"]
    assert (first["name"], first["scale"], first["start"], first["end"]) == ("edges", 0.0, 0.0, 0.8)
    assert {row["controls"][0]["scale"] for row in rows} == {0.0, 0.5}
    assert all(len(row["input_image_sha256"]["control_image"]) == 64 for row in rows)
    failed = records(tmp_path / "out", "failures")
    assert {row["error_kind"] for row in failed} == {"input"} and len(failed) == 2
    (page,) = (tmp_path / "out" / "report" / "data").glob("prompts-000.*.js")
    # Three prompts: two maps behind the four results, from the next piece of 64 on, and one that is not there.
    assert '"inputs":{"control_image":[64,65,-1]}' in page.read_text()
    (tmp_path / "in" / "2.png").write_bytes((tmp_path / "in" / "1.png").read_bytes())
    assert cli("retry", tmp_path / "out", "--in-process").code == 0
    rows = records(tmp_path / "out")
    assert len(rows) == 6 and all(row["controls"] for row in rows)
    monkeypatch.chdir(tmp_path)  # where it writes the image
    assert cli("reproduce", tmp_path / "out", rows[0]["sample_id"]).code == 0


def test_each_setting_of_control_is_part_of_the_fingerprint(cli: Cli, job: Job, net: Path, source: str) -> None:
    def fingerprint(columns: Any = "edges", generation: dict[str, Any] | None = None, **changes: Any) -> str:
        nets = [{"name": "edges", "path": str(net), **changes}]
        path = job(prompts=prompts(source, columns), model={"controlnets": nets}, generation=generation or {})
        answer = cli("plan", path, "--json")
        assert answer.code == 0, answer.err
        return str(answer.json["fingerprint"])

    scales = [{"control_scale": 0.5}, {"control_start": 0.5}, {"control_end": 0.5}]
    found = [fingerprint(), fingerprint(scale=0.5), fingerprint(preprocess="blur"), fingerprint({"edges": "edges"})]
    assert len({*found, *(fingerprint(generation=each) for each in scales)}) == 7
    assert fingerprint(scale=1.0) == found[0]


def test_a_map_for_each_of_two_networks(cli: Cli, job: Job, net: Path, source: str, tmp_path: Path) -> None:
    nets = [{"name": "edges", "path": str(net)}, {"name": "soft", "path": str(net), "preprocess": "blur"}]
    columns = {"edges": "edges", "soft": "edges"}
    path = job(
        prompts={**prompts(source, columns), "limit": 2},
        model={"controlnets": nets},
        generation={"images_per_prompt": 1},
    )
    assert cli("run", path, "--in-process").code == 0
    rows = records(tmp_path / "out")
    assert [each["name"] for each in rows[0]["controls"]] == ["edges", "soft"]
    assert rows[0]["input_control_image_soft"].endswith("0.png")
    assert rows[0]["input_image_sha256"]["control_image_edges"] == rows[0]["input_image_sha256"]["control_image_soft"]


@pytest.mark.parametrize(
    ("sections", "place", "said"),
    [
        ({"columns": None}, "prompts.columns.control_image", "expected a column's name"),
        ({"nets": 0}, "prompts.columns.control_image", "nothing without `model.controlnets`"),
        ({"nets": 0, "columns": None, "generation": {"control_scale": 1.0}}, "generation.control_scale", "controlnets"),
        ({"columns": {"depth": "edges"}}, "prompts.columns.control_image", "a column for each of n0"),
        ({"columns": "maps"}, "prompts.columns.control_image", "a column 'maps'"),
        ({"nets": 2, "name": "same"}, "model.controlnets.1.name", "names that differ"),
        ({"path": "nowhere"}, "model.controlnets.0.path", "nothing at"),
        ({"generation": {"control_start": 0.5, "control_end": 0.5}}, "control_start", "below control_end"),
    ],
)
def test_what_cannot_work_is_refused_by_name(
    cli: Cli, job: Job, net: Path, source: str, sections: dict[str, Any], place: str, said: str
) -> None:
    names = [sections.get("name", f"n{i}") for i in range(sections.get("nets", 1))]
    nets = [{"name": name, "path": sections.get("path", str(net))} for name in names]
    given = prompts(source, sections.get("columns", "edges")) if sections.get("columns", "") is not None else {}
    answer = cli("validate", job(prompts=given, model={"controlnets": nets}, generation=sections.get("generation", {})))
    assert answer.code == 2
    assert place in answer.err and said in answer.err


def test_a_project_that_moved_finds_its_networks_and_adapters(
    cli: Cli, job: Job, net: Path, source: str, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    shutil.move(tmp_path / "in", here / "in")
    shutil.copytree(net, here / "net")
    write_lora(models / "sd", here / "lora", 1)
    monkeypatch.chdir(here)
    path = job(
        prompts={**prompts("in/prompts.jsonl"), "limit": 2},
        model={"controlnets": [{"name": "n", "path": "net"}], "adapters": [{"name": "a", "path": "lora"}]},
        generation={"images_per_prompt": 1},
        output={"url": "out"},
        score=None,
    )
    assert cli("run", path, "--in-process").code == 0
    planned = json.loads((here / "out" / "job.json").read_text())["plan"]["models"][0]
    assert planned["controlnets"][0]["location"] == "net"
    assert planned["adapters"][0]["location"] == "lora/pytorch_lora_weights.safetensors"
    first = records(here / "out")
    monkeypatch.chdir(tmp_path)
    here.rename(there)
    answer = cli("reproduce", there / "out", first[0]["sample_id"], "--out", tmp_path / "again.png", "--json")
    assert answer.code == 0 and answer.json["identical"], answer.err
    (there / "out" / "data" / "part-000000.parquet").unlink()
    monkeypatch.chdir(there)
    assert cli("run", path, "--in-process").code == 0
    assert [row["image_sha256"] for row in records(there / "out")] == [row["image_sha256"] for row in first]
    elsewhere = yaml.safe_load(path.read_text())
    elsewhere["model"]["controlnets"][0]["path"] = str(there / "net")
    path.write_text(yaml.safe_dump(elsewhere))
    assert cli("plan", path, "--json").json["shards_done"] == 1  # by another path, and the same
