"""`model.quantization` and `model.offload` through the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.engine.conftest import Answer, records

Cli = Callable[..., Answer]


def test_a_job_of_weights_made_small(cli: Cli, job: Callable[..., Path], models: Path, tmp_path: Path) -> None:
    model: dict[str, Any] = {"path": str(models / "sd"), "quantization": "quanto_int8"}
    small = job(model=model)
    assert cli("validate", small).code == 0
    assert cli("run", "--in-process", small).code == 0
    rows = records(tmp_path / "out")
    assert {row["dtype"] for row in rows} == {"float32+quanto_int8"}
    again = cli("reproduce", tmp_path / "out", rows[0]["sample_id"], "--out", tmp_path / "again.png", "--json")
    assert again.json["verdict"] == "byte-identical"
    other = cli("run", "--in-process", job(model={"path": model["path"]}))
    assert other.code == 2
    assert "model.quantization" in other.err


def test_offload_is_how_a_job_runs_and_not_what_it_makes(cli: Cli, job: Callable[..., Path], models: Path) -> None:
    path = str(models / "sd")
    plain, offloaded = (
        cli("plan", job(model={"path": path, "offload": how}), "--json").json for how in ("none", "model")
    )
    assert plain["fingerprint"] == offloaded["fingerprint"]
    answer = cli("run", "--in-process", job(model={"path": path, "offload": "model"}))
    assert answer.code == 2
    assert "model.offload: expected a worker with a GPU, got cpu" in answer.err
    refused = cli("validate", job(model={"path": path, "offload": "model"}, compute={"gpus_per_worker": 0}))
    assert refused.code == 2
    swept = job(sweep={"model": [{"path": path}, {"path": path, "offload": "model"}]})
    assert "values that differ" in cli("validate", swept).err
