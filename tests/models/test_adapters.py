"""LoRA adapters: held against the base before use, switched without touching it, and gone without a trace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from promptmill.pipeline.models.catalog.adapters import resolve_adapter
from promptmill.pipeline.models.catalog.keys import parse
from promptmill.pipeline.models.catalog.resolve import resolve_model
from promptmill.pipeline.models.diffusion.generator import DiffusersGenerator
from promptmill.schemas.additions import Adapter
from promptmill.schemas.errors import JobError, ModelLoadError
from promptmill.schemas.generation import Generation, Model
from promptmill.schemas.plan import Sample
from promptmill.schemas.resolved import ResolvedAdapter, ResolvedModel
from tests.models import test_images

SETTINGS = Generation(num_inference_steps=2, guidance_scale=3.0)
SAMPLE = Sample("s", "p", 0, 0, 0, "a red circle", "", "a red circle")
TARGETS = ("to_q", "to_k", "to_v", "conv1")
Folder = Callable[[str], Path]


def write_lora(base: Path, path: Path, seed: int, targets: tuple[str, ...] = TARGETS) -> Path:
    """A LoRA of random weights for a tiny pipeline, as diffusers saves it."""
    pipe = DiffusionPipeline.from_pretrained(base, use_safetensors=True)
    part = "unet" if hasattr(pipe, "unet") else "transformer"
    denoiser = getattr(pipe, part)
    denoiser.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=list(targets), init_lora_weights=False))
    generator = torch.Generator().manual_seed(seed)
    state = {
        name: torch.randn(value.shape, generator=generator) * 0.2
        for name, value in get_peft_model_state_dict(denoiser).items()
    }
    type(pipe).save_lora_weights(path, **{f"{part}_lora_layers": state})
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


@pytest.mark.parametrize(
    "way",
    [
        "quanto_int8",
        pytest.param("torchao_int8", marks=pytest.mark.skipif(not find_spec("torchao"), reason="torchao is optional")),
    ],
)
def test_on_and_off_over_weights_made_small(way: Any, folder: Folder, base: ResolvedModel, files: list[Path]) -> None:
    """Nearly what it does to the whole weights, and gone without a trace."""
    small = DiffusersGenerator(resolve_model(Model(path=str(folder("sd15")), quantization=way), "model"), "cpu")
    plain, adapter = draw(small), resolved(files[0], base)
    small.use([adapter])
    styled = draw(small)
    whole = DiffusersGenerator(base, "cpu")
    whole.use([adapter])
    assert np.abs(styled - draw(whole)).mean() < np.abs(styled - plain).mean() / 4
    small.use([])
    assert np.array_equal(draw(small), plain)


@pytest.mark.parametrize("family", ["sdxl", "sd3", "flux"])
def test_on_and_off_in_other_families(
    family: str, folder: Folder, generator: Callable[[str], DiffusersGenerator], tmp_path: Path
) -> None:
    """From text and over an image, by the names that two rows choose, in one batch and alone."""
    made_by, base = generator(family), resolve_model(Model(path=str(folder(family))), "model")
    adapters = [
        resolved(
            write_lora(folder(family), tmp_path / str(seed), seed, ("to_q", "to_k", "to_v")), base, 8.0, f"a{seed}"
        )
        for seed in range(2)
    ]
    settings = SETTINGS.model_copy(update={"width": 64, "height": 64})

    def shown(*samples: Sample) -> np.ndarray:
        made = made_by.generate(list(samples), settings, lambda: None)
        assert [each.error for each in made] == [None] * len(samples)
        return np.stack([each.pixels for each in made]).astype(int)

    for roles in ((), ("image",)):
        rows = [replace(test_images.sample(n, *roles), adapters=(name,)) for n, name in enumerate(("a0", "a1"))]
        bare = [replace(row, adapters=()) for row in rows]
        made_by.use([])
        plain = shown(*bare)
        made_by.use(adapters)
        both = shown(*rows)
        assert all((both[n] != plain[n]).any() for n in range(2))
        assert np.abs(both - np.concatenate([shown(row) for row in rows])).max() <= 1
        assert (shown(replace(rows[0], adapters=("a1",)))[0] != both[0]).any()
        assert np.array_equal(shown(*bare), plain)
        made_by.use([])
        assert np.array_equal(shown(*bare), plain)


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


def as_kohya(path: Path, to: Path) -> Path:
    """The same changes under kohya's names, each with an alpha that says its rank."""
    state: dict[str, torch.Tensor] = {}
    for key, value in load_file(path).items():
        stem, half = key.removeprefix("unet.").removesuffix(".weight").rsplit(".", 1)
        name = f"lora_unet_{stem.replace('.', '_')}"
        state[f"{name}.{'lora_down' if half == 'lora_A' else 'lora_up'}.weight"] = value.contiguous()
        state[f"{name}.alpha"] = torch.tensor(2.0)
    save_file(state, to)
    return to


def test_the_keys_of_kohya_do_the_same(base: ResolvedModel, files: list[Path], tmp_path: Path) -> None:
    made_by = DiffusersGenerator(base, "cpu")
    one, other = resolved(files[0], base), resolved(as_kohya(files[0], tmp_path / "kohya.safetensors"), base)
    assert one.modules == other.modules and not one.on_text
    made_by.use([one])
    image = draw(made_by)
    made_by.use([other])
    assert np.array_equal(draw(made_by), image)


@pytest.mark.parametrize(
    ("key", "module"),
    [
        (
            "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.lora_up.weight",
            "unet.down_blocks_1_attentions_0_",
        ),
        ("lora_unet_input_blocks_2_0_in_layers_2.lora_up.weight", "unet.down_blocks_0_resnets_1_conv1"),
        ("lora_unet_middle_block_2_out_layers_3.lora_down.weight", "unet.mid_block_resnets_1_conv2"),
        ("lora_unet_output_blocks_5_1_proj_in.alpha", "unet.up_blocks_1_attentions_2_proj_in"),
        ("lora_unet_input_blocks_3_0_op.lora_up.weight", "unet.down_blocks_0_downsamplers_0_conv"),
        ("lora_te2_text_model_encoder_layers_3_mlp_fc1.lora_up.weight", "text_encoder_2.encoder_layers_3_mlp_fc1"),
        ("text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight", "text_encoder.encoder_layers_0_"),
    ],
)
def test_names_of_other_tools_lead_to_the_same_modules(key: str, module: str) -> None:
    found = parse(key, 2)
    assert found is not None and found.module.startswith(module)


def write_words(path: Path, vectors: int = 2, width: int = 32, key: str = "<any>") -> Path:
    save_file({key: torch.randn(vectors, width, generator=torch.Generator().manual_seed(vectors)) * 3}, path)
    return path


def test_a_textual_inversion_is_a_word_while_it_is_in_use(base: ResolvedModel, tmp_path: Path) -> None:
    made_by = DiffusersGenerator(base, "cpu")
    plain = draw(made_by)
    word = resolved(write_words(tmp_path / "word.safetensors"), base, name="circle")
    assert (word.kind, word.modules, word.on_text) == ("embedding", 2, True)
    made_by.use([word])
    with_word = draw(made_by)
    assert not np.array_equal(with_word, plain)
    (other,) = made_by.generate([replace(SAMPLE, prompt="a red square")], SETTINGS, lambda: None)
    made_by.use([])
    assert np.array_equal(draw(made_by), plain)
    (untouched,) = made_by.generate([replace(SAMPLE, prompt="a red square")], SETTINGS, lambda: None)
    assert np.array_equal(other.pixels, untouched.pixels)  # a prompt without the word


def test_a_textual_inversion_for_another_base_is_refused(base: ResolvedModel, folder: Folder, tmp_path: Path) -> None:
    wide = write_words(tmp_path / "wide.safetensors", width=64)
    with pytest.raises(JobError, match="vectors of 32 for text_encoder"):
        resolved(wide, base)
    with pytest.raises(JobError, match="1 for a textual inversion"):
        resolved(write_words(tmp_path / "word.safetensors"), base, weight=0.5)
    with pytest.raises(JobError, match="a model that takes textual inversions"):
        resolved(wide, resolve_model(Model(path=str(folder("sd3"))), "model"))
    with pytest.raises(JobError, match="for text_encoder and vectors of 32 for text_encoder_2"):
        resolved(write_words(tmp_path / "one.safetensors"), resolve_model(Model(path=str(folder("sdxl"))), "model"))


def test_rows_of_one_batch_choose_their_adapters(base: ResolvedModel, files: list[Path], tmp_path: Path) -> None:
    made_by = DiffusersGenerator(base, "cpu")
    given = [
        resolved(files[0], base, name="one"),
        resolved(write_words(tmp_path / "w.safetensors"), base, name="circle"),
    ]
    made_by.use(given)
    chosen = [(), ("one",), ("circle",), ("circle", "one"), None]
    samples = [replace(SAMPLE, sample_id=str(i), adapters=names) for i, names in enumerate(chosen)]
    made_by.prepare(samples, SETTINGS)
    together = [each.pixels for each in made_by.generate(samples, SETTINGS, lambda: None)]
    assert len({image.tobytes() for image in together if image is not None}) == 4
    assert np.array_equal(together[3], together[4])
    for names, image in zip(chosen[:3], together, strict=False):
        made_by.use([each for each in given if each.name in (names or ())])
        assert image is not None and np.abs(draw(made_by) - image).max() <= 1


def test_a_hub_id_needs_a_commit_and_a_file_has_none(base: ResolvedModel, files: list[Path]) -> None:
    for adapter, said in (
        (Adapter(name="a", path="org/name"), "a commit of 40 hex digits"),
        (Adapter(name="a", path="org/name/file.safetensors", revision="main"), "a commit of 40 hex digits"),
        (Adapter(name="a", path=str(files[0]), revision="0" * 40), "no revision for a file"),
    ):
        with pytest.raises(JobError, match=said):
            resolve_adapter(adapter, base, "model.adapters[0]")
