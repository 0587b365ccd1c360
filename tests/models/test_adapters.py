"""LoRA adapters: held against the base before use, switched without touching it, and gone without a trace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from promptmill.pipeline.models.catalog.adapters import resolve_adapter
from promptmill.pipeline.models.catalog.resolve import resolve_model
from promptmill.pipeline.models.diffusion.generator import DiffusersGenerator
from promptmill.schemas.additions import Adapter
from promptmill.schemas.errors import JobError, ModelLoadError
from promptmill.schemas.job import Generation, Model
from promptmill.schemas.plan import ResolvedAdapter, ResolvedModel, Sample

SETTINGS = Generation(num_inference_steps=2, guidance_scale=3.0)
SAMPLE = Sample("s", "p", 0, 0, 0, "a red circle", "", "a red circle")
TARGETS = ("to_q", "to_k", "to_v", "conv1")
Folder = Callable[[str], Path]


def write_lora(base: Path, path: Path, seed: int, targets: tuple[str, ...] = TARGETS) -> Path:
    """A LoRA of random weights for a tiny Stable Diffusion, as diffusers saves it."""
    pipe = StableDiffusionPipeline.from_pretrained(base, use_safetensors=True)
    pipe.unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=list(targets), init_lora_weights=False))
    generator = torch.Generator().manual_seed(seed)
    state = {
        name: torch.randn(value.shape, generator=generator) * 0.2
        for name, value in get_peft_model_state_dict(pipe.unet).items()
    }
    StableDiffusionPipeline.save_lora_weights(path, unet_lora_layers=state)
    return path / "pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def base(folder: Folder) -> ResolvedModel:
    return resolve_model(Model(path=str(folder("sd15"))), "model")


@pytest.fixture(scope="module")
def files(folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("loras")
    return [write_lora(folder("sd15"), root / str(seed), seed) for seed in range(2)]


def resolved(path: Path, base: ResolvedModel, weight: float = 1.0, name: str = "one") -> ResolvedAdapter:
    return resolve_adapter(Adapter(name=name, path=str(path), weight=weight), base, "model.adapters[0]")


def draw(made_by: DiffusersGenerator) -> np.ndarray:
    (made,) = made_by.generate([SAMPLE], SETTINGS, lambda: None)
    assert made.pixels is not None, made.error
    return made.pixels.astype(int)


def test_on_off_mixed_and_gone_without_a_trace(base: ResolvedModel, files: list[Path]) -> None:
    made_by = DiffusersGenerator(base, "cpu")
    plain = draw(made_by)
    one, two = (resolved(path, base, name=f"a{i}") for i, path in enumerate(files))
    images = {}
    for key, adapters in {"one": [one], "two": [two], "both": [one, two], "half": [replace(one, weight=0.5)]}.items():
        made_by.use(adapters)
        images[key] = draw(made_by)
    assert len({image.tobytes() for image in [plain, *images.values()]}) == 5
    made_by.use([one])
    assert np.array_equal(draw(made_by), images["one"])
    made_by.use([replace(one, weight=0.0)])
    assert np.abs(draw(made_by) - plain).max() == 0
    made_by.use([])
    assert np.array_equal(draw(made_by), plain)


def test_adapters_do_not_make_a_model_another(base: ResolvedModel, files: list[Path]) -> None:
    with_one = replace(base, adapters=(resolved(files[0], base),))
    assert with_one == base and hash(with_one) == hash(base)


def spoiled(path: Path, to: Path, change: Callable[[str, torch.Tensor], tuple[str, torch.Tensor]]) -> Path:
    save_file({k: v.contiguous() for k, v in (change(*item) for item in load_file(path).items())}, to)
    return to


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda k, v: (k.replace("unet.", "transformer."), v), "for modules it lacks: transformer."),
        (lambda k, v: (k.replace("lora_B", "lora_Q"), v), "keys of a LoRA"),
        (lambda k, v: (k.replace("to_q", "to_z"), v), "to_z"),
        (lambda k, v: (k, v[:0] if "lora_A" in k else v), "a rank of at least 1"),
        (lambda k, v: (k, torch.cat([v, v]) if "lora_B" in k else v), "halves that make"),
        (lambda k, v: (k if "lora_A" in k else k.replace("to_", "for_"), v), "both halves of each change"),
    ],
    ids=["prefix", "misspelt", "module", "rank 0", "shape", "half"],
)
def test_a_file_that_would_not_do_what_it_says_is_refused(
    base: ResolvedModel, files: list[Path], tmp_path: Path, change: Callable[..., tuple[str, torch.Tensor]], said: str
) -> None:
    with pytest.raises(JobError, match=said) as refused:
        resolved(spoiled(files[0], tmp_path / "spoiled.safetensors", change), base)
    assert str(refused.value).startswith("model.adapters[0]")


def test_other_files_are_refused_by_name(base: ResolvedModel, folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"x")
    (tmp_path / "cut.safetensors").write_bytes(b"x")
    for path, said in (
        (tmp_path / "weights.bin", "never opened"),
        (tmp_path / "none.safetensors", "nothing at"),
        (tmp_path / "cut.safetensors", "whole safetensors"),
    ):
        with pytest.raises(JobError, match=said):
            resolved(path, base)
    other = resolve_model(Model(path=str(folder("pixart"))), "model")
    with pytest.raises(JobError, match="a model that takes LoRA adapters"):
        resolved(tmp_path / "none.safetensors", other)


def test_an_adapter_for_another_base_is_refused(folder: Folder, files: list[Path]) -> None:
    other = resolve_model(Model(path=str(folder("sdxl"))), "model")
    with pytest.raises(JobError, match="Is it for another base"):
        resolved(files[0], other)


def test_a_file_that_changed_since_the_plan_does_not_load(
    base: ResolvedModel, files: list[Path], tmp_path: Path
) -> None:
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(files[0].read_bytes())
    planned = resolved(mine, base)
    mine.write_bytes(files[1].read_bytes())
    with pytest.raises(ModelLoadError, match="is not the file it was"):
        DiffusersGenerator(base, "cpu").use([planned])
