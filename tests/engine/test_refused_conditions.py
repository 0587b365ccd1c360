"""Conditions that cannot be met, through the command line: refused by `validate`, with place and reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.engine.conftest import Answer
from tests.engine.test_inputs import picture, write
from tests.models import tiny
from tests.models.controls import build_control
from tests.models.references import build_ip_adapter
from tests.models.test_adapters import write_lora

Cli = Callable[..., Answer]
Job = Callable[..., Path]


@pytest.fixture(scope="module")
def parts(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters of the tiny model, good and bad, and networks for another family."""
    root = tmp_path_factory.mktemp("parts")
    lora = load_file(write_lora(models / "sd", root / "lora", 1))
    empty = {key: (value[:0] if "lora_A" in key else value[:, :0]).contiguous() for key, value in lora.items()}
    save_file(empty, root / "rank0.safetensors")
    torch.save(lora, root / "lora.bin")
    large = tiny.build_sdxl(root / "sdxl")
    build_control(large, root / "net")
    build_ip_adapter(large, root / "looks")
    return root


def adapters(*names: str) -> dict[str, Any]:
    return {"adapters": [{"name": "a", "path": name} for name in names]}


@pytest.mark.parametrize(
    ("column", "model", "generation", "place", "said"),
    [
        ("image", {}, {"strength": 0}, "generation.strength", "above 0 and at most 1"),
        ("image", {}, {"strength": 1.2}, "generation.strength", "above 0 and at most 1"),
        ("image", {}, {"strength": float("nan")}, "generation.strength", "above 0 and at most 1"),
        ("image", {}, {"mask_blur": 4}, "prompts.columns.mask", "It is about masks"),
        ("image", {}, {"mask_crop": 8}, "prompts.columns.mask", "It is about masks"),
        ("image", {}, {"mask_blur": -1}, "generation.mask_blur", "from 0 to 1000"),
        ("", adapters("rank0.safetensors"), {}, "model.adapters[0].path", "a rank of at least 1"),
        ("", adapters("lora.bin"), {}, "model.adapters[0].path", "pickles (.bin, .pt) are never opened"),
        ("", adapters("lora", "lora"), {}, "model.adapters.1.name", "names that differ"),
        ("", {"path": "sdxl", **adapters("lora")}, {}, "model.adapters[0].path", "Is it for another base model?"),
        ("control_image", {"controlnets": [{"name": "n", "path": "net"}]}, {}, "controlnets[0].path", "another base"),
        ("reference_image", {"ip_adapter": {"path": "looks"}}, {}, "model.ip_adapter.path", "another base"),
    ],
)
def test_refused_by_name(
    cli: Cli,
    job: Job,
    models: Path,
    parts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    column: str,
    model: dict[str, Any],
    generation: dict[str, Any],
    place: str,
    said: str,
) -> None:
    monkeypatch.chdir(parts)
    picture().save(tmp_path / "0.png")
    given = {"source": write(tmp_path, [{"prompt": "a star", "photo": "0.png"}])}
    given |= {"columns": {column: "photo"}} if column else {}
    model = {"path": str(models / "sd"), **model}
    answer = cli("validate", job(prompts=given, model=model, generation=generation), "--json")
    assert answer.code == 2
    text = json.dumps(json.loads(answer.out or answer.err), ensure_ascii=False)
    assert place.replace("[0]", "") in text.replace("[0]", "").replace(".0.", ".") and said in text, text
