"""Adapters in a job: an axis of the sweep on weights that are loaded once, and named in every record."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engine.conftest import Answer, records
from tests.models.test_adapters import write_lora

Cli = Callable[..., Answer]


def test_a_sweep_of_adapters_loads_the_model_once(
    cli: Cli, job: Callable[..., Path], models: Path, tmp_path: Path
) -> None:
    file = write_lora(models / "sd", tmp_path / "lora", 1)
    base = str(models / "sd")
    cells = [{"path": base}] + [
        {"path": base, "adapters": [{"name": "bold", "path": str(file), "weight": weight}]} for weight in (0.5, 1.0)
    ]
    path = job(sweep={"model": cells}, generation={"images_per_prompt": 1})
    answer = cli("run", path, "--in-process", "--json")
    assert answer.code == 0, answer.err
    rows = records(tmp_path / "out")
    assert [[each["weight"] for each in row["adapters"]] for row in rows] == [[]] * 4 + [[0.5]] * 4 + [[1.0]] * 4
    assert {each["name"] for row in rows for each in row["adapters"]} == {"bold"}
    assert len({row["image_sha256"] for row in rows}) == 12
    summary = json.loads((tmp_path / "out" / "report" / "summary.json").read_text())
    assert [cell["name"].split(" + ")[1:] for cell in summary["cells"]] == [[], ["bold × 0.5"], ["bold"]]
    assert len({row["sample_id"] for row in rows}) == 12
    loads = [json.loads(each.read_text())["model_loads"] for each in (tmp_path / "out" / "receipts").glob("*.json")]
    assert sum(loads) == 1


def test_another_file_of_the_same_name_is_another_job(
    cli: Cli, job: Callable[..., Path], models: Path, tmp_path: Path
) -> None:
    file = write_lora(models / "sd", tmp_path / "lora", 1)
    path = job(model={"adapters": [{"name": "bold", "path": str(file)}]}, generation={"images_per_prompt": 1})
    assert cli("run", path, "--in-process").code == 0
    file.write_bytes(write_lora(models / "sd", tmp_path / "other", 2).read_bytes())
    answer = cli("run", path, "--in-process")
    assert answer.code == 2
    assert "model.adapter_weights" in answer.err


@pytest.mark.parametrize(("adapters", "said"), [([{"name": "a", "path": "x.safetensors"}], "nothing at")])
def test_validate_names_what_is_wrong(
    cli: Cli, job: Callable[..., Path], adapters: list[dict[str, str]], said: str
) -> None:
    answer = cli("validate", job(model={"adapters": adapters}))
    assert answer.code == 2
    assert "model.adapters.0.path" in answer.err and said in answer.err
    answer = cli("validate", job(model={"adapters": [*adapters, *({**each} for each in adapters)]}))
    assert "names that differ" in answer.err


def test_a_row_chooses_its_adapters_and_a_trigger_stands_before_its_prompt(
    cli: Cli, job: Callable[..., Path], models: Path, tmp_path: Path
) -> None:
    files = [write_lora(models / "sd", tmp_path / name, seed) for seed, name in enumerate(("bold", "thin"))]
    rows = ["a red circle,bold", "a red circle,thin+bold", "a red circle,none", "a red circle,"]
    source = tmp_path / "rows.csv"
    wild = "a red circle,wild\n"
    source.write_text("prompt,style\n" + "\n".join(rows) + "\n" + wild)
    adapters = [
        {"name": "bold", "path": str(files[0]), "trigger": "blurry"},
        {"name": "thin", "path": str(files[1]), "weight": 0.5},
    ]
    path = job(
        prompts={"source": str(source), "columns": {"adapter": "style"}},
        model={"adapters": adapters},
        generation={"images_per_prompt": 1, "batch_size": 8},
        output={"images_per_shard": 8},
    )
    answer = cli("validate", path)
    assert answer.code == 2 and "prompts.columns.adapter: rows.csv" in answer.err and "got 'wild'" in answer.err
    source.write_text(source.read_text().removesuffix(wild))
    found = set()
    for columns in ({}, {"adapter": "style"}):
        given = {"source": str(source), "columns": columns}
        elsewhere = {"url": str(tmp_path / "elsewhere")}
        planned = job("other.yaml", prompts=given, model={"adapters": adapters}, output=elsewhere)
        found.add(cli("plan", planned, "--json").json["fingerprint"])
    assert len(found) == 2
    assert cli("run", path, "--in-process").code == 0
    with source.open("a") as file:  # what comes later to a dataset that is there fails alone
        file.write(wild)
    assert cli("run", path, "--in-process", "--extend").code == 3
    kept = records(tmp_path / "out")
    assert [[each["name"] for each in row["adapters"]] for row in kept] == [
        ["bold"],
        ["bold", "thin"],
        [],
        ["bold", "thin"],
    ]
    assert [row["prompt"] for row in kept] == ["blurry, a red circle"] * 2 + ["a red circle", "blurry, a red circle"]
    assert {row["caption"] for row in kept} == {"a red circle"}
    (failed,) = records(tmp_path / "out", "failures")
    assert failed["error_kind"] == "invalid_adapter" and "'wild'" in failed["message"]
    answer = cli("validate", job(prompts={"source": str(source), "columns": {"adapter": "style"}}))
    assert answer.code == 2 and "nothing without `model.adapters`" in answer.err
