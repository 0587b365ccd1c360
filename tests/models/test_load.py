"""Loading: what is used, what is refused, and what is never asked of the network."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import torch

from promptmill.pipeline.models.catalog.clips import ResolvedClip
from promptmill.pipeline.models.catalog.resolve import resolve_model
from promptmill.pipeline.models.load import load_embedder, load_generator
from promptmill.schemas.errors import ModelLoadError
from promptmill.schemas.generation import Model
from tests.models.test_generator import generate, pixels, samples

Folder = Callable[[str], Path]


def test_what_was_used_is_said(folder: Folder) -> None:
    model = resolve_model(Model(path=str(folder("sd15")), dtype="bfloat16"), "model")
    loaded = load_generator(model, threads=1)
    assert loaded.dtype == "bfloat16"
    assert loaded.pipeline_class == "StableDiffusionPipeline"
    assert loaded.device == ("cuda" if torch.cuda.is_available() else "cpu")
    assert torch.get_num_threads() == 1


def test_weights_that_do_not_fit_the_configuration(folder: Folder, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder("sd15"), tmp_path / "model"))
    config = json.loads((copy / "unet" / "config.json").read_text())
    (copy / "unet" / "config.json").write_text(json.dumps(config | {"cross_attention_dim": 48}))
    with pytest.raises(ModelLoadError, match=r"does not load.*Tried: AutoPipelineForText2Image\.from_pretrained"):
        load_generator(resolve_model(Model(path=str(copy)), "model"), threads=1)


def test_folder_that_vanished_after_the_plan(folder: Folder, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder("sd15"), tmp_path / "model"))
    model = resolve_model(Model(path=str(copy)), "model")
    shutil.rmtree(copy)
    with pytest.raises(ModelLoadError):
        load_generator(model, threads=1)


def test_half_precision_files_load(folder: Folder, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder("sd15"), tmp_path / "model"))
    for path in list(copy.rglob("*.safetensors")):
        path.rename(path.with_suffix(".fp16.safetensors"))
    loaded = load_generator(resolve_model(Model(path=str(copy)), "model"), threads=1)
    assert pixels(generate(loaded, samples(1))).std() > 5  # type: ignore[arg-type]


def test_a_folder_needs_no_network_and_runs_no_pickle(
    folder: Folder, clip: ResolvedClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nothing in the environment forbids either."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a folder of safetensors needs neither network nor pickle")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(torch, "load", refuse)
    model = load_generator(resolve_model(Model(path=str(folder("sdxl"))), "model"), threads=1)
    scorer = load_embedder(clip, threads=1)
    made = pixels(generate(model, samples(1)))  # type: ignore[arg-type]
    scorer.cosines(list(made.astype(np.uint8)), ["a red circle"])
