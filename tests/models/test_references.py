"""Reference images with real pipelines: each sample looks at its own, scale 0 is without, and the base comes back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import SiglipImageProcessor, SiglipVisionModel

from promptmill.pipeline.models.catalog.references import resolve_ip_adapter
from promptmill.pipeline.models.catalog.resolve import resolve_model
from promptmill.pipeline.models.diffusion.generator import DiffusersGenerator
from promptmill.schemas.additions import IpAdapter
from promptmill.schemas.errors import JobError, ModelLoadError
from promptmill.schemas.generation import Generation, Model
from promptmill.schemas.inputs import Input, Role
from promptmill.schemas.plan import Sample
from promptmill.schemas.resolved import ResolvedIpAdapter
from tests.models import test_images
from tests.models.references import build_heeding_flux, build_ip_adapter, build_redux

Folder = Callable[[str], Path]
Family = Callable[[str], DiffusersGenerator]
Bases = Callable[[str], tuple[Path, DiffusersGenerator]]
SETTINGS = Generation(num_inference_steps=2, guidance_scale=3.0, width=64, height=64)


@pytest.fixture(scope="module")
def looks(folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    root = tmp_path_factory.mktemp("looks")
    made = cache(lambda kind: build_redux(folder("flux"), root / kind) if kind == "redux" else None)
    return cache(lambda kind: made(kind) or build_ip_adapter(folder(kind), root / kind))


@pytest.fixture(scope="module")
def heeding(folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Flux whose images show what its prompts say."""
    return build_heeding_flux(folder("flux"), tmp_path_factory.mktemp("heeding") / "flux")


@pytest.fixture
def bases(folder: Folder, heeding: Path, generator: Family) -> Bases:
    """Folder and generator of the model that an image prompt is for."""
    redux = cache(lambda: DiffusersGenerator(resolve_model(Model(path=str(heeding)), "model")))
    return lambda kind: (heeding, redux()) if kind == "redux" else (folder(kind), generator(kind))


def resolved(adapter: Path, base: Path, **given: object) -> ResolvedIpAdapter:
    model = resolve_model(Model(path=str(base)), "model")
    return resolve_ip_adapter(IpAdapter(path=str(adapter), **given), model, "text-to-image", "model.ip_adapter")


def sample(number: int, *roles: Role, **changes: object) -> Sample:
    made = test_images.sample(number, *roles)
    shape = (40 + 8 * number, 64, 3)
    seen = np.random.default_rng(100 + number).integers(0, 255, shape, dtype=np.uint8)
    return replace(made, inputs={**made.inputs, "reference_image": Input("r.png", pixels=seen)}, **changes)


def pixels(made_by: DiffusersGenerator, samples: list[Sample], settings: Generation = SETTINGS) -> np.ndarray:
    made = made_by.generate(samples, settings, lambda: None)
    assert [each.error for each in made] == [None] * len(samples)
    return np.stack([each.pixels for each in made]).astype(int)


@pytest.mark.parametrize("kind", ["sd15", "sdxl", "lcm", "sd3", "flux", "redux"])
def test_each_sample_looks_at_its_own_image(kind: str, looks: Folder, bases: Bases) -> None:
    base, made_by = bases(kind)
    asked = [sample(number) for number in range(4)]
    before = pixels(made_by, asked[:1])
    made_by.use([], [], resolved(looks(kind), base))
    batch = pixels(made_by, asked)
    assert np.abs(batch[[1, 3]] - np.concatenate([pixels(made_by, [asked[n]]) for n in (1, 3)])).max() <= 1
    other, seed = replace(asked[0], inputs=asked[1].inputs), replace(asked[0], seed=99)
    changes = [np.abs(pixels(made_by, [each])[0] - batch[0]).max() for each in (other, seed)]
    assert min(changes) > 2, f"of 255, by image and seed: {changes}"
    without = pixels(made_by, asked[:1], SETTINGS.model_copy(update={"reference_scale": 0.0}))
    rows = pixels(made_by, [replace(asked[0], steering={"reference_scale": 0.0}), asked[1]])
    made_by.use([], [])
    assert np.array_equal(pixels(made_by, asked[:1]), before)
    assert np.array_equal(without, before) and np.array_equal(rows[0], before[0])
    assert np.abs(rows[1] - batch[1]).max() <= 1


@pytest.mark.parametrize("kind", ["sd15", "sdxl", "flux", "redux"])
def test_with_an_image_and_a_mask_too(kind: str, looks: Folder, bases: Bases) -> None:
    base, made_by = bases(kind)
    made_by.use([], [], resolved(looks(kind), base))
    for roles in (("image",), ("image", "mask")):
        asked = [sample(number, *roles) for number in range(2)]
        batch = pixels(made_by, asked)
        assert np.abs(batch - np.concatenate([pixels(made_by, [each]) for each in asked])).max() <= 1
    made_by.use([], [])


def test_redux_says_what_diffusers_own_pipeline_makes_of_it(looks: Folder, bases: Bases) -> None:
    (base, made_by), root = bases("redux"), looks("redux")
    made_by.use([], [], resolved(root, base, scale=0.5))
    asked = sample(1)
    ours = pixels(made_by, [asked])[0]
    made_by.use([], [])
    pipe = made_by._pipe
    parts = {name: pipe.components[name] for name in ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")}
    prior = diffusers.FluxPriorReduxPipeline(
        SiglipVisionModel.from_pretrained(root / "image_encoder").eval(),
        SiglipImageProcessor.from_pretrained(root / "feature_extractor"),
        ReduxImageEncoder.from_pretrained(root / "image_embedder").eval(),
        **parts,
    )
    given = prior(Image.fromarray(asked.inputs["reference_image"].pixels), prompt=asked.prompt)
    given.prompt_embeds[:, 512:] *= 0.5
    theirs = pipe(
        prompt_embeds=given.prompt_embeds,
        pooled_prompt_embeds=given.pooled_prompt_embeds,
        num_inference_steps=SETTINGS.num_inference_steps,
        guidance_scale=SETTINGS.guidance_scale,
        width=64,
        height=64,
        generator=torch.Generator().manual_seed(asked.seed),
        output_type="np",
    ).images[0]
    assert np.abs(ours - np.round(theirs * 255)).max() <= 1


def test_a_redux_for_another_model_is_refused(folder: Folder, looks: Folder, tmp_path: Path) -> None:
    root = looks("redux")
    known = resolved(root, folder("flux"))
    assert (known.weights, known.encoder) == ("image_embedder/diffusion_pytorch_model.safetensors", "image_encoder")
    assert "feature_extractor/preprocessor_config.json" in known.files

    def changed(name: str, **config: object) -> Path:
        shutil.copytree(root, tmp_path / name)
        place = tmp_path / name / "image_embedder" / "config.json"
        place.write_text(json.dumps({**json.loads(place.read_text()), **config}))
        return tmp_path / name

    wide = changed("wide", txt_in_features=48)
    wide_weights = {"redux_up.weight": (144, 64), "redux_up.bias": (144,), "redux_down.weight": (48, 144)}
    whole = {key: torch.ones(shape) for key, shape in {**wide_weights, "redux_down.bias": (48,)}.items()}
    save_file(whole, wide / "image_embedder" / "diffusion_pytorch_model.safetensors")
    for adapter, base, said in (
        (root, "sd15", "a Flux model for text-to-image, as Flux Redux needs"),
        (changed("half", txt_in_features=48), "flux", r"redux_up.weight \[144, 64\]"),
        (changed("seen", redux_dim=5), "flux", "one that makes vectors of 5, got 64"),
        (changed("other", _class_name="UNet2DModel"), "flux", "a ReduxImageEncoder in image_embedder"),
        (wide, "flux", "words of .* got 48.*Is it for another base model?"),
    ):
        with pytest.raises(JobError, match=said):
            resolved(adapter, folder(base))


def test_what_does_not_fit_is_refused_by_its_keys(folder: Folder, looks: Folder, tmp_path: Path) -> None:
    whole = load_file(looks("sd15") / "ip-adapter.safetensors")

    def changed(name: str, **tensors: torch.Tensor | None) -> Path:
        shutil.copytree(looks("sd15"), tmp_path / name)
        kept = {key: value for key, value in {**whole, **tensors}.items() if value is not None}
        save_file(kept, tmp_path / name / "ip-adapter.safetensors")
        return tmp_path / name

    faces = {key: None for key in whole if key.startswith("image_proj")}
    faces |= {"image_proj.proj.0.weight": torch.ones(8, 16), "image_proj.norm.weight": torch.ones(8)}
    for adapter, base, said in (
        (looks("sdxl"), "sd15", r"layers beside those of .*: \d+ of \[32, 32\], got \d+ of \[32, 64\]"),
        (looks("flux"), "sd15", "layers beside those of"),
        (looks("sd15"), "sd3", "layers beside those of"),
        (looks("sd15"), "pixart", "a model that takes IP-Adapters for text-to-image.*These do: Chroma"),
        (changed("half", **{"ip_adapter.1.to_k_ip.weight": None}), "sd15", "layers beside those of"),
        (changed("odd", **{"unet.x": torch.ones(1)}), "sd15", "keys of an IP-Adapter.*unet.x"),
        (changed("face", **faces), "sd15", "FaceID"),
        (changed("wide", **{"image_proj.proj.weight": torch.ones(8, 5)}), "sd15", "one that makes vectors of 5"),
        (folder("sd15"), "sd15", "one .safetensors file in"),
        (tmp_path / "none", "sd15", "nothing at"),
    ):
        with pytest.raises(JobError, match=said):
            resolved(adapter, folder(base))


def test_files_are_named_or_found_and_pickles_never_opened(folder: Folder, looks: Folder, tmp_path: Path) -> None:
    base, file = folder("sd15"), "models/ip-adapter.safetensors"
    shutil.copytree(looks("sd15"), tmp_path / "repo" / "models")
    named = resolved(tmp_path / "repo", base, weight_name=file)
    assert (named.weights, named.encoder) == (file, "models/image_encoder")
    assert resolved(looks("sd15") / "ip-adapter.safetensors", base).revision == resolved(looks("sd15"), base).revision
    (tmp_path / "repo" / "models" / "ip-adapter.safetensors").rename(tmp_path / "repo" / "models" / "a.bin")
    with pytest.raises(JobError, match=r"Pickles \(.bin, .pt\) are never opened"):
        resolved(tmp_path / "repo", base, weight_name="models/a.bin")
    with pytest.raises(JobError, match="no revision for a folder"):
        resolved(looks("sd15"), base, revision="0" * 40)
    with pytest.raises(JobError, match="an image encoder in .*no config.json"):
        resolved(looks("sd15"), base, image_encoder="elsewhere")


def test_one_that_changed_since_the_plan_does_not_load(
    folder: Folder, looks: Folder, generator: Family, tmp_path: Path
) -> None:
    shutil.copytree(looks("sd15"), tmp_path / "a")
    planned = resolved(tmp_path / "a", folder("sd15"))
    weights = tmp_path / "a" / "ip-adapter.safetensors"
    save_file({key: value + 1 for key, value in load_file(weights).items()}, weights)
    with pytest.raises(ModelLoadError, match="has other content"):
        generator("sd15").use([], [], planned)
    generator("sd15").use([], [])
