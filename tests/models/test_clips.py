"""What the catalog says of open_clip models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest

from promptmill.pipeline.models.catalog import diffusers_source
from promptmill.pipeline.models.catalog.clips import resolve_clip
from promptmill.schemas.errors import JobError

WHERE = "job.yaml:20: score.0.clip"


@pytest.fixture
def copy(folder: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder("clip"), tmp_path / "clip"))


def complaint(spec: str) -> str:
    with pytest.raises(JobError) as raised:
        resolve_clip(spec, WHERE)
    assert WHERE in str(raised.value)
    return str(raised.value)


def test_folder(copy: Path, folder: Callable[[str], Path]) -> None:
    found = resolve_clip(f"local-dir:{copy}", WHERE)
    assert found.location == f"local-dir:{copy}"
    assert found.is_local
    assert found.tag is None
    assert found.weights_bytes == (copy / "open_clip_model.safetensors").stat().st_size
    assert found.revision == resolve_clip(f"local-dir:{folder('clip')}", WHERE).revision


def test_folder_revision_follows_content(copy: Path) -> None:
    before = resolve_clip(f"local-dir:{copy}", WHERE).revision
    content = json.loads((copy / "open_clip_config.json").read_text())
    content["preprocess_cfg"]["mean"] = [0.4, 0.5, 0.5]
    (copy / "open_clip_config.json").write_text(json.dumps(content))
    assert resolve_clip(f"local-dir:{copy}", WHERE).revision != before


def test_bad_folders(copy: Path) -> None:
    assert "an open_clip folder" in complaint(f"local-dir:{copy}/absent")
    weights = copy / "open_clip_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-7])
    assert "whole safetensors" in complaint(f"local-dir:{copy}")
    weights.rename(weights.with_suffix(".bin"))
    assert "only open_clip_model.bin" in complaint(f"local-dir:{copy}")
    weights.write_bytes(whole)
    (copy / "open_clip_config.json").write_text('{"model_cfg": 3}')
    assert "embed_dim" in complaint(f"local-dir:{copy}")
    (copy / "open_clip_config.json").unlink()
    weights.unlink()
    assert len(complaint(f"local-dir:{copy}").splitlines()) == 2


def test_published_names() -> None:
    found = resolve_clip("ViT-B-32/laion2b_s34b_b79k", WHERE)
    assert (found.location, found.tag, found.weights_bytes) == ("ViT-B-32", "laion2b_s34b_b79k", 0)
    assert "Did you mean ViT-B-32" in complaint("ViT-B32/openai")
    assert "Did you mean laion2b_s34b_b79k" in complaint("ViT-B-32/laion2b_s34b_b79")
    assert "name/tag" in complaint("ViT-B-32")
    assert "name/tag" in complaint("")


def test_a_folder_without_its_prefix(copy: Path) -> None:
    assert f"local-dir:{copy}" in complaint(str(copy))


def test_hub_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "hf download org/name" in complaint("hf-hub:org/name")
    assert "40 hex digits" in complaint("hf-hub:org/name@main")
    assert "hf-hub:organisation/name" in complaint("hf-hub:name")


def test_names_read_from_source_are_those_of_open_clip() -> None:
    assert {(name, tag) for name, tags in diffusers_source.clip_tags().items() for tag in tags} == set(
        open_clip.list_pretrained()
    )


def test_builtin() -> None:
    assert "builtin:shapes" in complaint("builtin:circles")
    assert resolve_clip("builtin:shapes", WHERE).weights_bytes > 0
