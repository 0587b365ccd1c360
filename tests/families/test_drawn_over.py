"""Classes that diffusers maps to image-to-image or inpainting, tiny: mates do not show, and sizes are kept."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from promptmill.pipeline.models.catalog.families import CHANNELS
from promptmill.pipeline.models.catalog.resolve import resolve_model
from promptmill.pipeline.models.catalog.tasks import check_task, class_for
from promptmill.schemas.errors import JobError
from promptmill.schemas.generation import Model
from promptmill.schemas.inputs import Input, Role
from promptmill.schemas.plan import Sample
from tests.families.builders import BUILDERS, OLDER
from tests.families.promises import LONG, OTHER, ROUNDING, SHORT, Family, furthest
from tests.models import tiny

ALL = bool(os.environ.get("FAMILIES"))
CORE = {f"{name}Pipeline" for name in ("QwenImage", "ZImage", "IF", "Kandinsky3")}
"""With Stable Diffusion, SDXL, SD 3, Flux and LCM in tests/models/test_images.py, and U-Nets of 9 channels in
tests/models/test_masked.py, all that are mapped and let in: of Kandinsky 2.1 and 2.2 diffusers maps combined pipelines,
which `validate` refuses (tests/models/test_refusals.py). FAMILIES=1 tries those outside of the mapping too (Chroma,
Kolors, Sana-Sprint, PAG, Flux.2 klein)."""
NAMES = sorted(name for name in {*BUILDERS, *OLDER} if " " not in name and (ALL or name in CORE))
PROMPTS = (SHORT, LONG, OTHER, SHORT)


def drawn_over(number: int, side: int, *roles: Role) -> Sample:
    rng = np.random.default_rng(number)
    mask = np.zeros((side, side), np.uint8)
    mask[: side // 2] = 255
    pixels = {"image": rng.integers(0, 255, (side, side, 3), dtype=np.uint8), "mask": mask}
    inputs = {role: Input(f"{role}.png", pixels=pixels[role]) for role in roles}
    return Sample(f"s{number}", "p", 0, number, number, PROMPTS[number], "", PROMPTS[number], inputs, 0.6)


def kept_promises(family: Family, *roles: Role) -> list[Sample]:
    side = family.settings.width or 64
    asked = [drawn_over(number, side, *roles) for number in range(4)]
    together = family.pixels(*asked, num_inference_steps=4)
    assert together.shape == (4, side, side, 3)
    assert furthest(together[1:2], family.pixels(asked[1], num_inference_steps=4)) <= ROUNDING
    changed = ({"seed": 99}, {"inputs": asked[1].inputs})
    others = [replace(asked[0], sample_id=f"o{i}", **each) for i, each in enumerate(changed)]
    for other in family.pixels(*others, num_inference_steps=4):
        assert (other != together[0]).any()
    if "mask" in roles:
        for sample, made in zip(asked, together, strict=True):
            assert np.array_equal(made[side // 2 :], sample.inputs["image"].pixels[side // 2 :])
    return asked


@pytest.mark.parametrize("name", [name for name in NAMES if class_for("image-to-image", name)])
def test_from_an_image(name: str, family: Callable[[str], Family]) -> None:
    kept_promises(family(name), "image")


# Tiny SD 3 has 4 channels, which its class for masks refuses: it has a test of its own below.
@pytest.mark.parametrize("name", [name for name in NAMES if class_for("inpainting", name) not in {None, *CHANNELS}])
def test_with_a_mask(name: str, family: Callable[[str], Family]) -> None:
    kept_promises(family(name), "image", "mask")


def test_channels_that_an_inpainting_class_insists_on_are_asked_before(tmp_path: Path) -> None:
    """Diffusers' class for Stable Diffusion 3 says so once the weights are loaded; and Chroma's fails on each image."""
    sd3 = resolve_model(Model(path=str(tiny.build_sd3(tmp_path / "four"))), "model")
    with pytest.raises(JobError, match="16 or 33 channels, .*got 4"):
        check_task(sd3, "inpainting", None, "prompts.columns.image")
    assert class_for("inpainting", "ChromaPipeline") is None
    whole = Family(resolve_model(Model(path=str(tiny.build_sd3(tmp_path / "sixteen", channels=16))), "model"))
    check_task(whole.model, "inpainting", None, "prompts.columns.image")
    kept_promises(whole, "image", "mask")
