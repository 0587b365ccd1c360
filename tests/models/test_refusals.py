"""A class that makes images from text and is not let in says which promise it would break."""

from __future__ import annotations

import pytest

from promptmill.pipeline.models.catalog import diffusers_source
from promptmill.pipeline.models.catalog.refusals import refused_class, unknown_class

SECOND, PRIOR, GIVEN_UP, UNTRIED = "a second pipeline", "a prior must draw first", "given it up", "has not been tried"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("StableCascadeCombined", SECOND),
        ("KandinskyCombined", SECOND),
        ("KandinskyV22Combined", SECOND),
        ("StableUnCLIP", SECOND),
        ("StableCascadeDecoder", PRIOR),
        ("Kandinsky", PRIOR),
        ("KandinskyV22", PRIOR),
        ("WuerstchenCombined", GIVEN_UP),
        ("Amused", GIVEN_UP),
        ("UnCLIP", GIVEN_UP),
        ("StableDiffusionSAG", GIVEN_UP),
        ("StableDiffusionPanorama", GIVEN_UP),
        ("StableDiffusionAttendAndExcite", GIVEN_UP),
        ("OmniGen", UNTRIED),
        ("BriaFibo2", UNTRIED),
        ("DreamLite", UNTRIED),
        ("Flux2KleinKV", UNTRIED),
        ("Cosmos3Omni", UNTRIED),
    ],
)
def test_the_reason_is_told(name: str, reason: str) -> None:
    assert f"{name}Pipeline" in diffusers_source.pipeline_modules()
    assert not diffusers_source.makes_images_from_text(f"{name}Pipeline")
    assert reason in refused_class(f"{name}Pipeline", "model", "").got


def test_what_makes_no_images_from_text_is_named_alone() -> None:
    assert refused_class("WanPipeline", "model", "").got == "WanPipeline"


def test_an_older_name_is_said_to_be_older() -> None:
    assert "the older name of LuminaPipeline" in unknown_class("LuminaText2ImgPipeline", "model").got
    assert "newer diffusers" in unknown_class("TomorrowPipeline", "model").hint
