"""Nothing of a model's folder is run, unpickled or read elsewhere: refused by `validate`, and again by the worker."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from promptmill.pipeline.models.catalog.clips import resolve_clip
from promptmill.pipeline.models.catalog.resolve import resolve_model
from promptmill.pipeline.models.diffusion.closed import ClosedError, closed
from promptmill.pipeline.models.load import load_embedder, load_generator
from promptmill.schemas.errors import ModelLoadError
from promptmill.schemas.generation import Model
from tests.adversary import folders
from tests.engine.conftest import Answer

Copied = Callable[[str], Path]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def _refused(answer: Answer) -> None:
    assert answer.code == 2, answer
    assert "Traceback" not in answer.err


@pytest.mark.parametrize("attack", folders.CLIP)
def test_validate_refuses_a_hostile_clip(
    attack: str, copied: Copied, marker: Path, cli: Callable[..., Answer], job: Callable[..., Path]
) -> None:
    folder = copied("clip")
    folders.plant(folder, marker)
    folders.CLIP[attack](folder)
    answer = cli("validate", job(score=[{"clip": f"local-dir:{folder}"}]))
    _refused(answer)
    assert "score" in answer.err
    assert not marker.exists()


@pytest.mark.parametrize("attack", folders.PIPELINE)
def test_validate_refuses_a_hostile_pipeline(
    attack: str, copied: Copied, marker: Path, cli: Callable[..., Answer], job: Callable[..., Path]
) -> None:
    folder = copied("sd")
    folders.plant(folder, marker)
    folders.PIPELINE[attack](folder)
    answer = cli("validate", job(model={"path": str(folder)}))
    _refused(answer)
    assert "model" in answer.err
    assert not marker.exists()


def test_the_worker_looks_again_at_a_clip(copied: Copied, marker: Path) -> None:
    """It loaded before what was put there after `validate`."""
    folder = copied("clip")
    clip = resolve_clip(f"local-dir:{folder}", "score")
    folders.plant(folder, marker)
    for name in ("kwargs trust_remote_code", "linked tokenizer"):
        folders.CLIP[name](folder)
    with pytest.raises(ModelLoadError, match="auto_map|is not what it was"):
        load_embedder(clip, 1)
    assert not marker.exists()


@pytest.mark.parametrize(
    "attack", ["part from a module", "index names a pickle", "text encoder auto_map", "linked weights", "custom class"]
)
def test_the_worker_looks_again_at_a_pipeline(attack: str, copied: Copied, marker: Path) -> None:
    folder = copied("sd")
    model = resolve_model(Model(path=str(folder)), "model")
    folders.plant(folder, marker)
    folders.PIPELINE[attack](folder)
    with pytest.raises(ModelLoadError, match=re.escape(str(folder))):
        load_generator(model, 1)
    assert not marker.exists()


def test_behind_the_door_nothing_runs_or_unpickles(copied: Copied, marker: Path) -> None:
    """Should the look at the folder miss something: the libraries themselves are stopped."""
    folder = copied("clip")
    folders.plant(folder, marker)
    folders.CLIP["tokenizer auto_map"](folder)
    torch.save({"a": torch.zeros(1)}, folder / "model.bin")
    with closed(), pytest.raises(ClosedError, match="code"):
        AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    with closed(), pytest.raises(ClosedError, match="safetensors"):
        torch.load(folder / "model.bin", weights_only=True)
    assert not marker.exists()
    assert torch.load(folder / "model.bin", weights_only=True)["a"].shape == (1,)  # and opened again afterwards


def _as_hub_model(folder: Path, hub: Path, name: str) -> Path:
    """As huggingface_hub keeps it: a snapshot of links to blobs."""
    root = hub / f"models--org--{name}"
    snapshot = root / "snapshots" / COMMIT
    for number, path in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        blob = root / "blobs" / f"{number:040x}"
        blob.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, blob)
        link = snapshot / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(COMMIT)
    return snapshot


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_models_of_the_hub_pass_the_same_door(
    copied: Copied, hub: Path, marker: Path, cli: Callable[..., Answer], job: Callable[..., Path]
) -> None:
    clip, sd = copied("clip"), copied("sd")
    _as_hub_model(clip, hub, "clip")
    _as_hub_model(sd, hub, "sd")
    whole: dict[str, Any] = {
        "model": {"path": "org/sd", "revision": COMMIT},
        "score": [{"clip": f"hf-hub:org/clip@{COMMIT}"}],
    }
    assert cli("validate", job(**whole)).code == 0
    folders.plant(clip, marker)
    folders.CLIP["kwargs trust_remote_code"](clip)
    folders.PIPELINE["index names a pickle"](sd)
    shutil.rmtree(hub)
    snapshot = _as_hub_model(clip, hub, "clip")
    _as_hub_model(sd, hub, "sd")
    answer = cli("validate", job(**whole))
    _refused(answer)
    assert "auto_map" in answer.err
    assert "evil.bin" in answer.err
    assert not marker.exists()
    (snapshot / "tokenizer_config.json").unlink()
    (snapshot / "tokenizer_config.json").symlink_to("/etc/hostname")
    answer = cli("validate", job(**whole))
    _refused(answer)
    assert "a link out of it" in answer.err


@pytest.mark.parametrize("revision", ["../../../../secret", "/etc/hostname", "refs/heads/main", "main\n", "a" * 41])
def test_a_revision_is_a_commit_and_no_path(
    revision: str, copied: Copied, hub: Path, tmp_path: Path, cli: Callable[..., Answer], job: Callable[..., Path]
) -> None:
    """It was looked up below `refs/`, and what the file held stood in the message."""
    (tmp_path / "secret").write_text("the-secret")
    (hub / "models--org--sd" / "refs").mkdir(parents=True)
    answer = cli("validate", job(model={"path": "org/sd", "revision": revision}))
    _refused(answer)
    assert "40 hex digits" in answer.err
    assert "the-secret" not in answer.err + answer.out
    assert Path("/etc/hostname").read_text().strip() not in (answer.err + answer.out).replace(revision, "")


def test_a_reference_that_holds_no_commit_is_not_repeated(
    hub: Path, cli: Callable[..., Answer], job: Callable[..., Path]
) -> None:
    refs = hub / "models--org--sd" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text("the-secret")
    answer = cli("validate", job(model={"path": "org/sd"}))
    _refused(answer)
    assert "the-secret" not in answer.err
    answer = cli("validate", job(score=[{"clip": "hf-hub:org/sd"}]))
    _refused(answer)
    assert "the-secret" not in answer.err


def test_ordinary_folders_pass(copied: Copied) -> None:
    """What models of the hub carry along: where they were saved, templates, labels and tokens with slashes."""
    sd, clip = copied("sd"), copied("clip")
    folders.edit(sd / "text_encoder/config.json", _name_or_path="/home/somebody/model", id2label={"0": "a/b"})
    folders.edit(sd / "unet/config.json", _name_or_path="../unet", sample_size=8)
    folders.edit(
        sd / "tokenizer/tokenizer_config.json",
        name_or_path="/elsewhere/x",
        special_tokens_map_file="/elsewhere/special_tokens_map.json",
        chat_template="/{% for m in messages %}{{ m }}{% endfor %}",
        added_tokens_decoder={"0": {"content": "/", "special": True}, "1": {"content": "../"}},
        pad_token="/pad",
    )
    (sd / "convert.py").write_text("print('a script beside the parts is not theirs')")
    torch.save({}, sd / "unet" / "diffusion_pytorch_model.bin")
    (sd / "unet" / "diffusion_pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": "b.bin"}}))
    folders.edit(clip / "config.json", _name_or_path="/home/somebody", model_type="clip")
    torch.save({}, clip / "open_clip_pytorch_model.bin")
    resolve_model(Model(path=str(sd)), "model")
    resolve_clip(f"local-dir:{clip}", "score")


def test_a_part_may_be_a_link_within_the_folder(copied: Copied) -> None:
    sd = copied("sd")
    (sd / "vae").rename(sd / "vae_one")
    (sd / "vae").symlink_to("vae_one")
    (sd / "loop").symlink_to(".")
    (sd / "again").symlink_to("..")
    resolve_model(Model(path=str(sd)), "model")
