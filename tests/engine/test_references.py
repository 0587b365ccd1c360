"""Reference images in a job, and scales and times that a row says itself."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.engine.conftest import Answer, records
from tests.engine.test_inputs import picture, write
from tests.models.controls import build_control
from tests.models.references import build_ip_adapter

Cli = Callable[..., Answer]
Job = Callable[..., Path]
COLUMNS = {"reference_image": "subject"}


@pytest.fixture
def looks(models: Path) -> Path:
    path = models / "looks"
    return path if path.exists() else build_ip_adapter(models / "sd", path)


@pytest.fixture
def source(tmp_path: Path) -> str:
    """Three rows, of which the last names an image that is not there."""
    (tmp_path / "in").mkdir()
    for number in range(2):
        picture(number, (80, 48)).save(tmp_path / "in" / f"{number}.png")
    numbers = {"much": [0.0, None, 0.5], "till": [0.5, None, 1.0]}
    rows = [
        {
            "prompt": "a red circle",
            "subject": f"{i}.png",
            "map": f"{i % 2}.png",
            **{k: v[i] for k, v in numbers.items()},
        }
        for i in range(3)
    ]
    return write(tmp_path / "in", rows)


def differ(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """By more than rounding, as another batch may."""
    shown = [np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))).astype(int) for row in (one, other)]
    return bool(np.abs(shown[0] - shown[1]).max() > 1)


def test_each_row_is_drawn_after_its_own_image(
    cli: Cli, job: Job, looks: Path, source: str, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = {**COLUMNS, "reference_scale": "much"}
    plain, with_looks = {"path": str(models / "sd")}, {"path": str(models / "sd"), "ip_adapter": {"path": str(looks)}}
    path = job(
        prompts={"source": source, "columns": columns},
        generation={"images_per_prompt": 1, "reference_scale": 2.0},
        sweep={"model": [plain, with_looks]},
    )
    assert cli("plan", path, "--json").json["models"][1]["ip_adapter"]["encoder"] == "image_encoder"
    assert cli("run", path, "--in-process").code == 3
    rows = records(tmp_path / "out")
    assert [row["ip_adapter"] and row["ip_adapter"]["scale"] for row in rows] == [None, None, 0.0, 2.0]
    assert [row["reference_scale"] for row in rows] == [0.0, None, 0.0, None]
    assert not differ(rows[0], rows[2]) and differ(rows[1], rows[3])
    assert {(row["width"], row["height"], row["task"]) for row in rows} == {(64, 64, "text-to-image")}
    assert all(len(row["input_image_sha256"]["reference_image"]) == 64 for row in rows)
    assert rows[3]["ip_adapter"]["revision"].startswith("local-")
    picture(7).save(tmp_path / "in" / "2.png")
    assert cli("retry", tmp_path / "out", "--in-process").code == 0
    retried = records(tmp_path / "out")[4:]
    retried.sort(key=lambda row: row["ip_adapter"] is not None)
    assert [row["ip_adapter"] and row["ip_adapter"]["scale"] for row in retried] == [None, 0.5]
    monkeypatch.chdir(tmp_path)  # where it writes the image
    for row in (rows[3], retried[1]):
        answer = cli("reproduce", tmp_path / "out", row["sample_id"], "--json")
        assert answer.code == 0 and answer.json["identical"], answer.err


def test_a_row_says_how_strongly_and_how_long_a_map_steers(
    cli: Cli, job: Job, models: Path, source: str, tmp_path: Path
) -> None:
    """In the pipeline's call they are one value for a batch: rows that differ go apart, and are never averaged."""
    net = models / "net"
    net = net if net.exists() else build_control(models / "sd", net)
    columns = {"control_image": "map", "control_scale": "much", "control_end": "till"}
    model = {"controlnets": [{"name": "edges", "path": str(net), "scale": 0.5}]}
    generation = {"images_per_prompt": 1, "control_scale": 1.5}

    def made(columns: dict[str, str], name: str) -> list[dict[str, Any]]:
        output = {"url": str(tmp_path / name)}
        path = job(prompts={"source": source, "columns": columns}, model=model, generation=generation, output=output)
        assert cli("run", path, "--in-process").code == 0
        return records(tmp_path / name)

    rows, one = made(columns, "rows"), made({"control_image": "map"}, "one")
    assert [row["control_scale"] for row in rows] == [0.0, None, 0.5]
    acted = [(row["controls"][0]["scale"], row["controls"][0]["end"]) for row in rows]
    assert acted == [(0.0, 0.5), (0.75, 1.0), (0.25, 1.0)]
    assert [differ(row, other) for row, other in zip(rows, one, strict=True)] == [True, False, True]


def test_a_row_whose_control_ends_before_it_begins_costs_only_itself(
    cli: Cli, job: Job, models: Path, source: str, tmp_path: Path
) -> None:
    """Its kind of failure was unknown: the shard ended in a traceback."""
    net = models / "net"
    net = net if net.exists() else build_control(models / "sd", net)
    path = job(
        prompts={"source": source, "columns": {"control_image": "map", "control_end": "till"}},
        model={"controlnets": [{"name": "edges", "path": str(net)}]},
        generation={"images_per_prompt": 1, "control_start": 0.6},
    )
    answer = cli("run", path, "--in-process")
    assert answer.code == 3, answer.err
    (failed,) = records(tmp_path / "out", "failures")
    assert failed["error_kind"] == "invalid_steering"
    assert failed["message"] == "expected control_start below control_end, got 0.6 and 0.5"
    assert len(records(tmp_path / "out")) == 2


def test_a_project_that_moved_finds_its_ip_adapter(
    cli: Cli, job: Job, looks: Path, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    shutil.copytree(tmp_path / "in", here / "in")
    shutil.copytree(looks, here / "looks")
    monkeypatch.chdir(here)
    path = job(
        prompts={"source": "in/prompts.jsonl", "columns": COLUMNS, "limit": 2},
        model={"ip_adapter": {"path": "looks/ip-adapter.safetensors"}},
        generation={"images_per_prompt": 1},
        output={"url": "out"},
        score=None,
    )
    assert cli("run", path, "--in-process").code == 0
    planned = json.loads((here / "out" / "job.json").read_text())["plan"]["models"][0]
    assert planned["ip_adapter"]["location"] == "looks"
    first = records(here / "out")
    monkeypatch.chdir(tmp_path)
    here.rename(there)
    answer = cli("reproduce", there / "out", first[0]["sample_id"], "--out", tmp_path / "again.png", "--json")
    assert answer.code == 0 and answer.json["identical"], answer.err


def test_each_setting_is_part_of_the_fingerprint(cli: Cli, job: Job, looks: Path, source: str, models: Path) -> None:
    other = models / "looks-too"
    other = other if other.exists() else build_ip_adapter(models / "sd", other, seed=1)

    def fingerprint(path: Path = looks, generation: dict[str, Any] | None = None, **given: Any) -> str:
        model = {"ip_adapter": {"path": str(path), **given}}
        asked = job(prompts={"source": source, "columns": COLUMNS}, model=model, generation=generation or {})
        answer = cli("plan", asked, "--json")
        assert answer.code == 0, answer.err
        return str(answer.json["fingerprint"])

    found = [
        fingerprint(),
        fingerprint(other),
        fingerprint(scale=0.5),
        fingerprint(generation={"reference_scale": 1.0}),
    ]
    assert len(set(found)) == 4 and fingerprint(scale=1.0) == found[0]


@pytest.mark.parametrize(
    ("columns", "given", "generation", "place", "said"),
    [
        (COLUMNS, None, {}, "prompts.columns.reference_image", "nothing without `model.ip_adapter`"),
        ({}, {}, {}, "prompts.columns.reference_image", "a column's name"),
        ({}, None, {"reference_scale": 1.0}, "generation.reference_scale", "model.ip_adapter"),
        ({"reference_scale": "much"}, None, {}, "prompts.columns.reference_scale", "model.ip_adapter"),
        ({"control_scale": "much"}, None, {}, "prompts.columns.control_scale", "model.controlnets"),
        ({**COLUMNS, "reference_scale": "prompt"}, {}, {}, "prompts.columns.reference_scale", "a number column"),
        ({**COLUMNS, "reference_scale": "far"}, {}, {}, "prompts.columns.reference_scale", "a number from 0 to 10"),
        (COLUMNS, {"path": "nowhere"}, {}, "model.ip_adapter.path", "nothing at"),
        (COLUMNS, {"path": "org/name"}, {}, "model.ip_adapter.revision", "40 hex digits"),
        (COLUMNS, {"scale": float("nan")}, {}, "model.ip_adapter.scale", "expected"),
        (COLUMNS, {}, {"reference_scale": 11}, "generation.reference_scale", "expected"),
    ],
)
def test_what_cannot_work_is_refused_by_name(
    cli: Cli,
    job: Job,
    looks: Path,
    tmp_path: Path,
    source: str,
    columns: dict[str, str],
    given: dict[str, Any] | None,
    generation: dict[str, Any],
    place: str,
    said: str,
) -> None:
    rows = [json.loads(line) for line in Path(source).read_text().splitlines()]
    write(tmp_path / "in", [{**row, "far": 11.0} for row in rows])
    model = {} if given is None else {"ip_adapter": {"path": str(looks), **given}}
    answer = cli("validate", job(prompts={"source": source, "columns": columns}, model=model, generation=generation))
    assert answer.code == 2
    assert place in answer.err and said in answer.err, answer.err
