"""A class that makes images from text and is not let in says which promise it would break."""

from __future__ import annotations

import pytest

from promptmill.pipeline.models.catalog import diffusers_source
from promptmill.pipeline.models.catalog.refusals import refused_class, unknown_class

SECOND, PRIOR, GIVEN_UP, VIDEO = "a second pipeline", "a prior must draw first", "given it up", "it makes a video"


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
        ("Cosmos3Omni", VIDEO),
        ("Wan", VIDEO),
    ],
)
def test_the_reason_is_told(name: str, reason: str) -> None:
    assert f"{name}Pipeline" in diffusers_source.pipeline_modules()
    assert not diffusers_source.makes_images_from_text(f"{name}Pipeline")
    assert reason in refused_class(f"{name}Pipeline", "model", "").got


def test_no_class_that_takes_a_prompt_is_refused_without_a_reason() -> None:
    """But those whose name says another input, or that are given an image to work on; also of a newer diffusers."""
    refused = [
        name for name in diffusers_source.pipeline_modules() if not diffusers_source.makes_images_from_text(name)
    ]
    silent = [name for name in refused if refused_class(name, "model", "").got == name]
    unnamed = [name for name in silent if not diffusers_source.NOT_TEXT_TO_IMAGE.search(name)]
    taken = {name: diffusers_source.call_parameters(name) for name in unnamed}
    assert [name for name, call in taken.items() if "prompt" in call and "image" not in call] == []


def test_what_makes_no_images_from_text_is_named_alone() -> None:
    assert refused_class("MarigoldDepthPipeline", "model", "").got == "MarigoldDepthPipeline"


def test_an_older_name_is_said_to_be_older() -> None:
    assert "the older name of LuminaPipeline" in unknown_class("LuminaText2ImgPipeline", "model").got
    assert "newer diffusers" in unknown_class("TomorrowPipeline", "model").hint
