"""Why a pipeline class of the installed diffusers is not let in, in terms of what a row promises; from its source."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Final

from promptmill.pipeline.models.catalog.diffusers_source import (
    call_parameters,
    class_tree,
    package_root,
)
from promptmill.schemas.errors import Problem

OLDER: Final[Mapping[str, str]] = {
    "LuminaText2ImgPipeline": "LuminaPipeline",
    "Lumina2Text2ImgPipeline": "Lumina2Pipeline",
}
"""Names that diffusers gave up, and those of today."""
_NEEDED: Final = ("prompt", "num_inference_steps", "height", "width")
_SEVERAL: Final = re.compile(r"Decoder|Combined|UnCLIP|Kandinsky(V22)?Pipeline$")


def unknown_class(name: str, where: str) -> Problem:
    """Of a class that the installed diffusers does not have."""
    expected = "a pipeline class of the installed diffusers"
    if name in OLDER:
        hint = f"Write {OLDER[name]} as `_class_name` in model_index.json."
        return Problem(where, expected, f"{name}, the older name of {OLDER[name]}", hint)
    hint = "Code from model folders is never run; a newer diffusers may know the class."
    return Problem(where, expected, name, hint)


def refused_class(name: str, where: str, hint: str) -> Problem:
    """Of one that it has, but that is not drawn with."""
    reason = _broken_promise(name)
    got = name if reason is None else f"{name}: {reason}"
    return Problem(where, "a pipeline that makes images from text", got, hint)


def _broken_promise(name: str) -> str | None:
    """None where the class is not one that makes images from a prompt alone."""
    call = call_parameters(name)
    tree = class_tree(name)
    if tree is None and _is_given_up(name):
        return "diffusers has given it up and tests it no more, so nothing holds it to the promises of a row"
    if not call or tree is None or not ({"prompt", "image_embeds"} & call):
        return None
    if {"num_frames", "video_length"} & call:
        return "it makes a video, and a row says nothing of frames"
    if any(each.startswith(("prior_", "decoder_", "super_res_")) for each in call):
        return "a second pipeline in it makes steps of its own, so a row's settings would not be all that acted"
    if _SEVERAL.search(name) and {"image_embeds", "image_embeddings", "negative_image_embeds"} & call:
        return "a prior must draw first, which this folder lacks, so an image could not be made again from its row"
    missing = [each for each in _NEEDED if each not in call]
    if missing:
        return f"its call takes no {', '.join(missing)}, so a row would record what did not act"
    return None


@cache
def _is_given_up(name: str) -> bool:
    folder = package_root("diffusers") / "pipelines" / "deprecated"
    return any(f"class {name}(" in path.read_text("utf-8") for path in folder.rglob("*.py"))
