"""Union ControlNets, told by name which kind of maps they get, and T2I-Adapters, with real pipelines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from promptmill.pipeline.models.catalog.controls import resolve_control
from promptmill.pipeline.models.catalog.resolve import resolve_model
from promptmill.pipeline.models.catalog.tasks import class_for
from promptmill.schemas.additions import ControlNet
from promptmill.schemas.errors import JobError
from promptmill.schemas.generation import Model
from promptmill.schemas.inputs import TaskName
from promptmill.schemas.resolved import ResolvedControl
from tests.models.controls import build_control, build_t2i
from tests.models.test_controls import SETTINGS, Family, Folder, pixels, sample


def resolved(path: Path, base: Path, task: TaskName = "text-to-image", **given: object) -> ResolvedControl:
    net = ControlNet(**{"name": "edges", "path": str(path), **given})
    return resolve_control(net, resolve_model(Model(path=str(base)), "model"), task, True, "net")


@pytest.fixture(scope="module")
def unions(folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("unions")

    def build(family: str) -> Path:
        path = root / family
        return path if path.exists() else build_control(folder(family), path, kinds=6)

    return build


@pytest.mark.parametrize("family", ["sdxl", "flux"])
def test_a_union_is_told_its_kind_of_maps_by_name(
    family: str, folder: Folder, unions: Callable[[str], Path], generator: Family
) -> None:
    made_by, base = generator(family), folder(family)
    plain = pixels(made_by, [sample(0)])
    canny, depth = (resolved(unions(family), base, name=mode, mode=mode) for mode in ("canny", "depth"))
    for controls, roles in (([canny], ("control_image",)), ([canny, depth], ("control_image",))):
        made_by.use([], controls)
        asked = [sample(number, *roles) for number in range(2)]
        batch = pixels(made_by, asked)
        assert np.abs(batch - np.concatenate([pixels(made_by, [each]) for each in asked])).max() <= 1
        assert (batch[0] != plain[0]).any()
    made_by.use([], [canny])
    first = pixels(made_by, [sample(0, "control_image")])
    drawn_over = pixels(made_by, [sample(0, "image", "control_image")])
    made_by.use([], [depth])
    assert (pixels(made_by, [sample(0, "control_image")]) != first).any() and drawn_over.shape == first.shape
    made_by.use([], [])
    assert np.array_equal(pixels(made_by, [sample(0)]), plain)


@pytest.mark.parametrize(("family", "channels"), [("sd15_crossing", 1), ("sdxl", 3)])
def test_a_t2i_adapter_steers_alone_and_beside_another(
    family: str, channels: int, folder: Folder, generator: Family, tmp_path: Path
) -> None:
    made_by, base = generator(family), folder(family)
    plain = pixels(made_by, [sample(0)])
    paths = [build_t2i(base, tmp_path / str(seed), seed, channels) for seed in range(2)]
    one, two = (resolved(path, base, name=f"n{i}") for i, path in enumerate(paths))
    shown = []
    for controls in ([one], [one, two]):
        made_by.use([], controls)
        asked = [sample(number, "control_image") for number in range(2)]
        batch = pixels(made_by, asked)
        assert np.abs(batch - np.concatenate([pixels(made_by, [each]) for each in asked])).max() <= 1
        shown.append(batch[0])
    made_by.use([], [one])
    off = pixels(made_by, [sample(0, "control_image")], SETTINGS.model_copy(update={"control_scale": 0.0}))
    made_by.use([], [])
    assert (shown[0] != plain[0]).any() and (shown[1] != shown[0]).any()
    assert np.abs(off - plain).max() <= 1


def test_what_does_not_fit_is_refused_by_name(folder: Folder, unions: Callable[[str], Path], tmp_path: Path) -> None:
    small, large = (build_t2i(folder(family), tmp_path / family) for family in ("sd15", "sdxl"))
    plain = build_control(folder("sd15"), tmp_path / "plain")
    for path, base, given, said in (
        (unions("sdxl"), "sdxl", {}, "net.mode: expected a kind of maps: pose, openpose, depth.*union ControlNet"),
        (unions("sdxl"), "sdxl", {"mode": "sketch"}, "got 'sketch'"),
        (unions("sdxl"), "sdxl", {"mode": 6}, "a number below 6"),
        (unions("flux"), "flux", {"mode": "low_quality"}, "canny, tile, depth, blur, pose, gray"),
        (plain, "sd15", {"mode": "canny"}, "no mode, for this is no union"),
        (unions("sdxl"), "sd15", {}, "with union ControlNets"),
        (small, "sdxl", {}, "channels .*, as .* has"),
        (large, "sd15", {}, "channels .*, as .* has"),
        (small, "flux", {}, "with T2I-Adapters"),
        (small, "sd15", {"task": "image-to-image"}, "image-to-image with T2I-Adapters.*from text alone"),
    ):
        with pytest.raises(JobError, match=said):
            resolved(path, folder(base), **given)


def test_classes_are_read_from_the_source_of_diffusers() -> None:
    union = "controlnet-union"
    assert class_for("text-to-image", "StableDiffusionXLPipeline", union) == "StableDiffusionXLControlNetUnionPipeline"
    found = class_for("inpainting", "StableDiffusionXLPipeline", union)
    assert found == "StableDiffusionXLControlNetUnionImg2ImgPipeline"
    assert class_for("text-to-image", "StableDiffusionPipeline", "adapter") == "StableDiffusionAdapterPipeline"
    assert class_for("image-to-image", "StableDiffusionPipeline", "adapter") is None
