"""ControlNets with real pipelines: held against the base before use, in batches as alone, and off without a trace."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from promptmill.pipeline.models.catalog.controls import check_start_end, resolve_control
from promptmill.pipeline.models.catalog.resolve import resolve_model
from promptmill.pipeline.models.catalog.tasks import class_for
from promptmill.pipeline.models.diffusion.generator import DiffusersGenerator
from promptmill.pipeline.models.diffusion.maps import control_map
from promptmill.schemas.additions import ControlNet, Preprocess
from promptmill.schemas.errors import JobError, ModelLoadError
from promptmill.schemas.generation import Generation, Model
from promptmill.schemas.inputs import Input, Role
from promptmill.schemas.plan import Sample
from promptmill.schemas.resolved import ResolvedControl
from tests.models.controls import build_control

SETTINGS = Generation(num_inference_steps=2, guidance_scale=3.0, width=64, height=64)
Folder = Callable[[str], Path]
Family = Callable[[str], DiffusersGenerator]


@pytest.fixture(scope="module")
def nets(folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Path]:
    root = tmp_path_factory.mktemp("nets")

    def build(family: str, seed: int = 0) -> Path:
        path = root / f"{family}-{seed}"
        return path if path.exists() else build_control(folder(family), path, seed)

    return build


def resolved(path: Path, base: Path, name: str = "edges", scale: float = 1.0) -> ResolvedControl:
    net = ControlNet(name=name, path=str(path), scale=scale)
    return resolve_control(net, resolve_model(Model(path=str(base)), "model"), "text-to-image", True, "net")


def sample(number: int, *roles: Role) -> Sample:
    rng = np.random.default_rng(number)
    mask = np.zeros((64, 64), np.uint8)
    mask[:32] = 255
    shapes = {role: rng.integers(0, 255, (64, 64, 3), dtype=np.uint8) for role in roles} | {"mask": mask}
    inputs = {role: Input(f"{role}.png", pixels=shapes[role]) for role in roles}
    strength = 0.6 if "image" in roles else None
    return Sample(f"s{number}", "p", 0, 0, number, "a red circle", "", "a red circle", inputs, strength)


def pixels(made_by: DiffusersGenerator, samples: list[Sample], settings: Generation = SETTINGS) -> np.ndarray:
    made = made_by.generate(samples, settings, lambda: None)
    assert [each.error for each in made] == [None] * len(samples)
    return np.stack([each.pixels for each in made if each.pixels is not None]).astype(int)


@pytest.mark.parametrize("family", ["sd15", "sdxl", "sd3", "flux"])
def test_a_batch_and_each_alone_agree_one_and_two_at_once(
    family: str, folder: Folder, nets: Callable[..., Path], generator: Family
) -> None:
    made_by, base = generator(family), folder(family)
    plain = pixels(made_by, [sample(0)])
    one, two = resolved(nets(family), base), resolved(nets(family, 1), base, "depth", 0.5)
    for controls, roles in (([one], ["control_image"]), ([one, two], ["control_image_edges", "control_image_depth"])):
        made_by.use([], controls)
        asked = [sample(number, *roles) for number in range(2)]
        batch = pixels(made_by, asked)
        assert np.array_equal(pixels(made_by, asked), batch)
        alone = np.concatenate([pixels(made_by, [each]) for each in asked])
        assert np.abs(batch - alone).max() <= 1
        assert np.abs(batch[0] - plain[0]).max() > 1
    made_by.use([], [])
    assert np.array_equal(pixels(made_by, [sample(0)]), plain)


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_scale_start_and_end_and_no_effect_at_zero(
    family: str, folder: Folder, nets: Callable[..., Path], generator: Family
) -> None:
    made_by = generator(family)
    plain = pixels(made_by, [sample(0)])
    made_by.use([], [resolved(nets(family), folder(family))])
    changes = [{"control_scale": 0.0}, {}, {"control_scale": 0.5}, {"control_start": 0.5}, {"control_end": 0.5}]
    made = [pixels(made_by, [sample(0, "control_image")], SETTINGS.model_copy(update=each)) for each in changes]
    made_by.use([], [])
    assert np.array_equal(made[0], plain)
    assert len({image.tobytes() for image in made}) == 5


@pytest.mark.parametrize("family", ["sd15", "sdxl", "flux"])
def test_from_an_image_with_a_mask_along_a_map(
    family: str, folder: Folder, nets: Callable[..., Path], generator: Family
) -> None:
    made_by = generator(family)
    made_by.use([], [resolved(nets(family), folder(family))])
    for roles in (("image", "control_image"), ("image", "mask", "control_image")):
        asked = [sample(number, *roles) for number in range(2)]
        batch = pixels(made_by, asked)
        assert np.abs(batch - np.concatenate([pixels(made_by, [each]) for each in asked])).max() <= 1
        if "mask" in roles:
            assert np.array_equal(batch[:, 32:], np.stack([each.inputs["image"].pixels for each in asked])[:, 32:])
    made_by.use([], [])


def test_a_network_of_another_family_is_refused_by_its_configuration(
    folder: Folder, nets: Callable[..., Path], tmp_path: Path
) -> None:
    for net, base, said in (
        (nets("sdxl"), "sd15", "`cross_attention_dim` of 32"),
        (nets("flux"), "sd15", "a ControlNetModel, as .* takes, got a FluxControlNetModel"),
        (nets("sd15"), "flux", "a FluxControlNetModel"),
        (nets("sd15"), "pixart", "a model that does text-to-image with ControlNets"),
        (folder("sd15"), "sd15", "config.json of a ControlNet"),
        (tmp_path / "none", "sd15", "nothing at"),
    ):
        with pytest.raises(JobError, match=said):
            resolved(net, folder(base))


def test_pickles_and_code_are_never_opened(folder: Folder, nets: Callable[..., Path], tmp_path: Path) -> None:
    shutil.copytree(nets("sd15"), tmp_path / "net")
    weights = tmp_path / "net" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(JobError, match="pickles are never opened"):
        resolved(tmp_path / "net", folder("sd15"))
    config = json.loads((tmp_path / "net" / "config.json").read_text())
    (tmp_path / "net" / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "x.y"}}))
    with pytest.raises(JobError, match="without code"):
        resolved(tmp_path / "net", folder("sd15"))


def test_a_network_that_changed_since_the_plan_does_not_load(
    folder: Folder, nets: Callable[..., Path], generator: Family, tmp_path: Path
) -> None:
    shutil.copytree(nets("sd15"), tmp_path / "net")
    planned = resolved(tmp_path / "net", folder("sd15"))
    shutil.copyfile(
        nets("sd15", 1) / "diffusion_pytorch_model.safetensors", tmp_path / "net/diffusion_pytorch_model.safetensors"
    )
    with pytest.raises(ModelLoadError, match="has other content"):
        generator("sd15").use([], [planned])
    generator("sd15").use([], [])


def test_times_in_which_nothing_is_steered_are_refused(folder: Folder) -> None:
    base = resolve_model(Model(path=str(folder("sd15"))), "model")
    check_start_end(base, "text-to-image", 0.2, 0.8, "generation")
    with pytest.raises(JobError, match="control_start below control_end"):
        check_start_end(base, "text-to-image", 0.8, 0.8, "generation")
    hunyuan = replace(base, pipeline_class="ZImagePipeline")
    with pytest.raises(JobError, match="nothing for `control_end`"):
        check_start_end(hunyuan, "text-to-image", None, 0.5, "generation")


def test_maps_that_need_no_model() -> None:
    figure = np.full((64, 64, 4), 255, np.uint8)
    figure[16:48, 16:48, :3] = (200, 0, 0)
    figure[..., 3] = 0
    figure[16:48, 16:48, 3] = 255
    made: dict[Preprocess, np.ndarray] = {}
    for how in ("resize", "canny", "blur", "mask_from_alpha"):
        made[how] = control_map(figure, how)
        assert made[how].shape == (64, 64, 3) and made[how].dtype == np.uint8
    assert np.array_equal(made["resize"], figure[..., :3])
    assert set(np.unique(made["canny"])) == {0, 255} and 0.01 < (made["canny"] > 0).mean() < 0.1
    assert len(np.unique(made["blur"][32])) > 3
    assert made["mask_from_alpha"][0, 0, 0] == 255 and made["mask_from_alpha"][32, 32, 0] == 0
    assert control_map(np.asarray(Image.new("RGB", (8, 8), "red")), "mask_from_alpha").max() == 0


def test_classes_are_read_from_the_source_of_diffusers() -> None:
    assert class_for("text-to-image", "StableDiffusionPipeline", "controlnet") == "StableDiffusionControlNetPipeline"
    assert (
        class_for("inpainting", "StableDiffusionXLPipeline", "controlnet")
        == "StableDiffusionXLControlNetImg2ImgPipeline"
    )
    assert class_for("inpainting", "FluxPipeline", "controlnet") == "FluxControlNetInpaintPipeline"
    assert class_for("inpainting", "StableDiffusion3Pipeline", "controlnet") is None  # takes no image
    assert class_for("text-to-image", "QwenImagePipeline", "controlnet") == "QwenImageControlNetPipeline"
    assert class_for("text-to-image", "PixArtSigmaPipeline", "controlnet") is None
