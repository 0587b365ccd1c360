"""What the catalog says of model folders, good and bad. No test here needs a network or runs a model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from promptmill.pipeline.models.catalog import diffusers_source
from promptmill.pipeline.models.catalog.resolve import (
    BUILTIN_MAX_SIZE,
    BYTES_PER_PIXEL,
    device_bytes,
    memory_needed_bytes,
    resolve_model,
)
from promptmill.pipeline.models.catalog.sizes import check_size
from promptmill.schemas.errors import JobError
from promptmill.schemas.generation import Model
from promptmill.schemas.resolved import ResolvedModel

WHERE = "job.yaml:4: model"
Folder = Callable[[str], Path]


@pytest.fixture
def copy(folder: Folder, tmp_path: Path) -> Path:
    """A Stable Diffusion folder to spoil."""
    return Path(shutil.copytree(folder("sd15"), tmp_path / "model"))


def resolve(path: Path | str, **options: Any) -> ResolvedModel:
    return resolve_model(Model(path=str(path), **options), WHERE)


def complaint(path: Path | str, **options: Any) -> str:
    with pytest.raises(JobError) as raised:
        resolve(path, **options)
    assert all(WHERE in str(problem) for problem in raised.value.problems)
    assert all(": expected " in str(problem) and ", got " in str(problem) for problem in raised.value.problems)
    return str(raised.value)


def edit(path: Path, **changes: Any) -> None:
    """A value of None removes the key."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


@pytest.mark.parametrize(
    ("family", "pipeline_class", "scheduler", "size", "multiple"),
    [
        ("sd15", "StableDiffusionPipeline", "DDIMScheduler", 64, 8),
        ("sdxl", "StableDiffusionXLPipeline", "EulerDiscreteScheduler", 64, 8),
        ("sd3", "StableDiffusion3Pipeline", "FlowMatchEulerDiscreteScheduler", 64, 16),
        ("flux", "FluxPipeline", "FlowMatchEulerDiscreteScheduler", 1024, 16),
        ("pixart", "PixArtSigmaPipeline", "DPMSolverMultistepScheduler", 64, 16),
    ],
)
def test_families(family: str, pipeline_class: str, scheduler: str, size: int, multiple: int, folder: Folder) -> None:
    found = resolve(folder(family))
    assert (found.pipeline_class, found.scheduler) == (pipeline_class, scheduler)
    assert (found.width, found.height, found.size_multiple, found.max_size) == (size, size, multiple, None)
    weights = sum(path.stat().st_size for path in folder(family).rglob("*.safetensors"))
    assert found.weights_bytes == weights
    assert found.is_local
    assert found.location == str(folder(family))
    held = device_bytes(found) - found.width * found.height * BYTES_PER_PIXEL
    assert held == pytest.approx(weights, rel=0.1)  # headers aside
    assert memory_needed_bytes(found) > 900e6 + weights * 0.9


def test_relative_folder(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder("sd15").parent)
    assert resolve("./sd15").location == str(folder("sd15"))
    assert resolve("sd15").revision == resolve(folder("sd15")).revision


def test_revision_follows_content(copy: Path, folder: Folder) -> None:
    """A moved or copied folder is the same model; another weight or setting makes another."""
    before = resolve(copy).revision
    assert before == resolve(folder("sd15")).revision
    (copy / "README.md").write_text("a note")
    assert resolve(copy).revision == before
    edit(copy / "scheduler" / "scheduler_config.json", beta_end=0.013)
    changed = resolve(copy).revision
    assert changed != before
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    assert resolve(copy).revision not in (before, changed)


def test_nothing_there(tmp_path: Path) -> None:
    assert "got nothing at" in complaint(tmp_path / "absent")
    assert "got nothing at" in complaint("/absent/folder")


def test_a_single_file(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert "converted to a diffusers folder" in complaint(tmp_path / "model.safetensors")


def test_a_folder_of_something_else(tmp_path: Path, folder: Folder) -> None:
    (tmp_path / "notes.txt").write_text("")
    assert "model_index.json" in complaint(tmp_path)
    assert "a single model's folder" in complaint(folder("sd15") / "unet")


def test_only_pickles(copy: Path) -> None:
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    text = complaint(copy)
    assert "only diffusion_pytorch_model.bin" in text
    assert "never loaded" in text


def test_pickles_beside_safetensors_do_not_matter(copy: Path) -> None:
    (copy / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    resolve(copy)


def test_code_in_a_config(copy: Path) -> None:
    edit(copy / "text_encoder" / "config.json", auto_map={"AutoModel": "evil.Model"})
    assert "`auto_map`" in complaint(copy)


def test_code_as_a_component(copy: Path) -> None:
    edit(copy / "model_index.json", unet=["my_unet", "MyUNet"])
    (copy / "unet" / "my_unet.py").write_text("raise SystemExit")
    text = complaint(copy)
    assert "my_unet.MyUNet" in text
    assert "never run" in text


def test_code_as_a_pipeline(copy: Path) -> None:
    edit(copy / "model_index.json", _class_name=["pipeline", "MyPipeline"])
    assert "custom code" in complaint(copy)


def test_unknown_pipeline(copy: Path) -> None:
    edit(copy / "model_index.json", _class_name="StableDiffusion9Pipeline")
    assert "StableDiffusion9Pipeline" in complaint(copy)


@pytest.mark.parametrize(
    "name",
    [
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionUpscalePipeline",
        "StableDiffusionControlNetPipeline",
        "StableAudioPipeline",
        "WanPipeline",
        "StableVideoDiffusionPipeline",
        "TextToVideoSDPipeline",
        "MarigoldDepthPipeline",
        "DDPMPipeline",
        "ShapEPipeline",
    ],
)
def test_not_text_to_image(name: str, copy: Path) -> None:
    edit(copy / "model_index.json", _class_name=name)
    assert "makes images from text" in complaint(copy)


def test_classes_let_in() -> None:
    """Those that AutoPipelineForText2Image offers and that need nothing but text, and few besides."""
    known = ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "StableDiffusion3Pipeline", "FluxPipeline")
    more = (
        "PixArtAlphaPipeline",
        "SanaPipeline",
        "QwenImagePipeline",
        "Flux2Pipeline",
        "LatentConsistencyModelPipeline",
    )
    assert all(diffusers_source.makes_images_from_text(name) for name in known + more)


def test_no_scheduler(copy: Path) -> None:
    edit(copy / "model_index.json", scheduler=[None, None])
    assert "a scheduler" in complaint(copy)
    edit(copy / "model_index.json", scheduler=["diffusers", "DDIMScheduler"])
    shutil.rmtree(copy / "scheduler")
    assert "the part scheduler" in complaint(copy)


def test_missing_component_config_and_weights_are_all_reported(copy: Path) -> None:
    shutil.rmtree(copy / "vae")
    (copy / "unet" / "config.json").unlink()
    (copy / "text_encoder" / "model.safetensors").unlink()
    text = complaint(copy)
    assert "the part vae" in text
    assert "unet/config.json" in text
    assert "safetensors in" in text
    assert len(text.splitlines()) == 3


@pytest.mark.parametrize("keep", [0, 4, 100, 5000, -1])
def test_truncated_weights(keep: int, copy: Path) -> None:
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    assert "whole safetensors" in complaint(copy)


def test_garbage_for_weights(copy: Path) -> None:
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(b"\x10" + b"\0" * 7 + b"{not json at all" + b"\0" * 99)
    assert "broken safetensors header" in complaint(copy)
    weights.write_bytes(b"\xff" * 200)
    assert "no safetensors header" in complaint(copy)


def test_git_lfs_pointer(copy: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 3438167534\n"
    (copy / "unet" / "diffusion_pytorch_model.safetensors").write_text(pointer)
    assert "git lfs pull" in complaint(copy)


def test_missing_shard(copy: Path) -> None:
    unet = copy / "unet"
    weights = unet / "diffusion_pytorch_model.safetensors"
    weights.rename(unet / "diffusion_pytorch_model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "diffusion_pytorch_model-00001-of-00002.safetensors"}}
    index["weight_map"]["b"] = "diffusion_pytorch_model-00002-of-00002.safetensors"
    (unet / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    assert "00002-of-00002.safetensors missing (1 of 2)" in complaint(copy)


def test_broken_json(copy: Path) -> None:
    (copy / "unet" / "config.json").write_text('{"sample_size": ')
    assert "broken JSON" in complaint(copy)
    (copy / "model_index.json").write_text("[]")
    assert "JSON of type list" in complaint(copy)
    (copy / "model_index.json").write_bytes(b"\xff\xfe")
    assert "broken JSON" in complaint(copy)


def test_only_half_precision_files(copy: Path) -> None:
    for path in list(copy.rglob("*.safetensors")):
        path.rename(path.with_suffix(".fp16.safetensors"))
    assert resolve(copy).weights_bytes > 0


def test_revision_is_for_hub_ids(copy: Path) -> None:
    assert "no revision for a folder" in complaint(copy, revision="main")


def test_hub_id_needs_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert "40 hex digits" in complaint("org/name")
    refs = tmp_path / "models--org--name" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text("a" * 40)
    assert "a" * 40 in complaint("org/name", revision="main")


def test_hub_id_in_the_cache(folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    commit = "0123456789" * 4
    assert "which is not in" in complaint("org/name", revision=commit)
    shutil.copytree(folder("sd15"), tmp_path / "models--org--name" / "snapshots" / commit)
    found = resolve("org/name", revision=commit)
    assert (found.location, found.revision, found.is_local) == ("org/name", commit, False)
    assert found.weights_bytes == resolve(folder("sd15")).weights_bytes


def test_builtin() -> None:
    assert "one of builtin:shapes" in complaint("builtin:circles")
    found = resolve("builtin:shapes")
    assert found.max_size == BUILTIN_MAX_SIZE
    assert found.pipeline_class == "StableDiffusionPipeline"


@pytest.mark.parametrize(
    ("width", "height", "hint"),
    [(100, None, "96 and 104"), (None, 60, "56 and 64"), (4, None, "Nearest: 8"), (136, None, "Nearest: 128")],
)
def test_sizes_refused(width: int | None, height: int | None, hint: str, folder: Folder) -> None:
    model = replace(resolve(folder("sd15")), max_size=128)
    with pytest.raises(JobError) as raised:
        check_size(width, height, model, "job.yaml:9: generation")
    assert hint in str(raised.value)
    assert ("generation.width" if width else "generation.height") in str(raised.value)


def test_sizes_let_through(folder: Folder) -> None:
    for size in (None, 8, 64, 1024):
        check_size(size, size, resolve(folder("sd15")), "generation")
    with pytest.raises(JobError) as raised:
        check_size(12, 20, resolve(folder("flux")), "generation")
    assert len(raised.value.problems) == 2


def test_takes_no_heavy_import_and_under_a_second(folder: Folder) -> None:
    script = f"""
import sys
from promptmill.pipeline.models.catalog.resolve import resolve_model, memory_needed_bytes
from promptmill.pipeline.models.catalog.sizes import check_size
from promptmill.pipeline.models.catalog.clips import resolve_clip
from promptmill.pipeline.models.catalog.schedulers import check_scheduler
from promptmill.schemas.generation import Model
model = resolve_model(Model(path={str(folder("sd15"))!r}), "model")
check_scheduler("dpm++", model, "scheduler")
check_size(64, 64, model, "generation")
memory_needed_bytes(model)
resolve_clip("ViT-B-32/laion2b_s34b_b79k", "score")
heavy = {{"torch", "diffusers", "transformers", "ray", "open_clip", "huggingface_hub"}} & set(sys.modules)
sys.exit(str(heavy) if heavy else 0)
"""
    times = []
    for _ in range(2):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", script], check=True, env=os.environ | {"PYTHONPATH": str(Path.cwd())})
        times.append(time.perf_counter() - started)
    assert min(times) < 3  # 0.5 s on a quiet machine; test machines are busy
