"""Cases of drawing from images whose answer is known: change one figure's colour and shape, keep the rest. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from promptmill.pipeline.shapes import captions
from promptmill.pipeline.shapes.render import render
from promptmill.pipeline.shapes.styles import edge_maps
from promptmill.pipeline.shapes.world import COLOURS, SHAPES, SIZE_PX, Claims, Object, ObjectClaim, Scene, sample_scene

MARGIN_PX = 4.0
"""Of a mask around the figure that it frees."""


@dataclass(frozen=True)
class Edit:
    """`image` uint8 [64, 64, 3] shows `scene`, `mask` [64, 64] frees its first figure, `caption` asks for `claims`."""

    scene: Scene
    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    claims: Claims
    caption: str


def sample_edits(n: int, seed: int, figures: int = 1) -> Iterator[Edit]:
    """Scenes that training never saw, of which the first figure is to get another colour and another shape."""
    for index in range(n):
        rng = np.random.default_rng([seed, figures, index])
        scene = sample_scene(rng, "held_out", figures)
        old = scene.objects[0]
        colours = [each for each in COLOURS if each not in {o.colour for o in scene.objects}]
        shapes = [each for each in SHAPES if each != old.shape]
        asked = ObjectClaim(str(rng.choice(colours)), str(rng.choice(shapes)))
        others = [ObjectClaim(each.colour, each.shape) for each in scene.objects[1:]]
        claims = Claims((asked, *others), scene.relation, scene.ground)
        yield Edit(scene, render(scene), _mask(old), claims, captions.write(claims, rng))


@dataclass(frozen=True)
class ControlCase:
    """`edges` uint8 [64, 64, 3] are outlines of `scene`; `prompt` names a colour, `caption` all that is asked for."""

    scene: Scene
    edges: NDArray[np.uint8]
    prompt: str
    caption: str
    claims: Claims


def sample_cases(n: int, seed: int) -> Iterator[ControlCase]:
    """Outlines of scenes that training never saw, each to be filled with another colour than its own."""
    for index in range(n):
        rng = np.random.default_rng([seed, 3, index])
        scene = sample_scene(rng, "held_out", 1)
        old = scene.objects[0]
        colour = str(rng.choice([each for each in COLOURS if each != old.colour]))
        claims = Claims((ObjectClaim(colour, old.shape, old.size, old.place),))
        texts = [captions.write(each, rng) for each in (Claims((ObjectClaim(colour),)), claims)]
        yield ControlCase(scene, edge_maps([scene])[0], texts[0], texts[1], claims)


def keeps_place(claims_of: Scene) -> Claims:
    """What holds of the size and place of a scene's only figure, whatever it is."""
    thing = claims_of.objects[0]
    return Claims((ObjectClaim(size=thing.size, place=thing.place),))


def _mask(thing: Object) -> NDArray[np.uint8]:
    grown = replace(thing, radius=thing.radius + MARGIN_PX)
    axis = np.arange(SIZE_PX) + 0.5
    inside = np.maximum(abs(axis[None, :] - grown.x), abs(axis[:, None] - grown.y)) <= grown.radius
    mask: NDArray[np.uint8] = np.where(inside, 255, 0).astype(np.uint8)
    return mask
