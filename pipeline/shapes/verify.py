"""Which claims of a caption hold in an image: pixels, geometry and thresholds, no model.

The ground is the border's colour. What differs from it falls into regions; each region's colour is the median of its
core, its shape the nearest of six templates in the frame of its own box, its size and place follow from that box.
Images of other sizes are brought to 64 pixels on the shorter side first. Thresholds are in sRGB distance and pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from promptmill.pipeline.shapes.captions import parse
from promptmill.pipeline.shapes.render import EXTENT, render
from promptmill.pipeline.shapes.world import (
    COLOURS,
    GROUNDS,
    SHAPES,
    SIZE_PX,
    Claims,
    Object,
    ObjectClaim,
    Scene,
    relation_of,
)

COLOUR_LIMIT = 58.0  # about half the distance of the closest two colours, or of a colour and a ground
REGION_LIMIT = 40.0  # a pixel farther than this from the ground belongs to a region
MIN_AREA_PX = 14  # the smallest object covers 60; less than this is a speck and no object
SHAPE_LIMIT = 0.17  # mean absolute difference to the nearest template; true scenes stay under 0.06
_GRID = 16

_PALETTE = np.array(list(COLOURS.values()), np.float32)
_GROUND_PALETTE = np.array(list(GROUNDS.values()), np.float32)

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Seen:
    """What was found: None for a ground that is none of the three; unclear colours and shapes are empty strings."""

    ground: str | None
    objects: tuple[Object, ...]


@dataclass(frozen=True)
class Verdict:
    """`claims` says for each claim of the caption, and for the number of objects ("count"), whether it holds."""

    claims: dict[str, bool]
    seen: Seen

    @property
    def correct(self) -> bool:
        return all(self.claims.values())


def verify(image: Image, caption: str | Claims | Scene | Mapping[str, Any]) -> Verdict:
    """Check an image (uint8 [h, w, 3]) against a caption of the grammar, its claims, or all that holds in a scene.

    Raises ValueError for an image of another form and for a caption without any claim.
    """
    claims = _as_claims(caption)
    seen = see(image)
    held: dict[str, bool] = {"count": len(seen.objects) == len(claims.objects)}
    if claims.ground:
        held["ground"] = seen.ground == claims.ground
    # Of a pair, the order that satisfies more claims counts; missing objects fail each of their claims.
    found: list[Object | None] = [*seen.objects, *[None] * (len(claims.objects) - len(seen.objects))]
    orders = permutations(found[:4], len(claims.objects))
    best = max((_check_objects(claims, order) for order in orders), key=lambda c: sum(c.values()))
    return Verdict({**held, **best}, seen)


def _as_claims(caption: str | Claims | Scene | Mapping[str, Any]) -> Claims:
    if isinstance(caption, str):
        return parse(caption)
    if isinstance(caption, Scene):
        from promptmill.pipeline.shapes.captions import claims_of_scene

        return claims_of_scene(caption)
    return caption if isinstance(caption, Claims) else Claims.from_dict(caption)


def _check_objects(claims: Claims, objects: tuple[Object | None, ...]) -> dict[str, bool]:
    held: dict[str, bool] = {}
    for i, (claim, thing) in enumerate(zip(claims.objects, objects, strict=True)):
        suffix = f" {i + 1}" if len(claims.objects) > 1 else ""
        held.update({k + suffix: v for k, v in _check_object(claim, thing).items()})
    if claims.relation:
        a, b = objects
        held["relation"] = a is not None and b is not None and relation_of(a, b) == claims.relation
    return held


def _check_object(claim: ObjectClaim, thing: Object | None) -> dict[str, bool]:
    kinds = ("colour", "shape", "size", "place")
    return {k: thing is not None and getattr(thing, k) == getattr(claim, k) for k in kinds if getattr(claim, k)}


def see(image: Image) -> Seen:
    """The ground and the objects, the largest first, of an image uint8 [h, w, 3]."""
    pixels = _at_64(image)
    ground = _ground(pixels)
    difference = pixels - ground
    distance = np.sqrt(np.einsum("hwc,hwc->hw", difference, difference))
    labelled, count = ndimage.label(distance > REGION_LIMIT, np.ones((3, 3), np.int8))
    boxes = ndimage.find_objects(labelled, count)
    areas = np.bincount(labelled.ravel())[1:]
    order = [int(i) for i in np.argsort(-areas) if areas[i] >= MIN_AREA_PX]
    objects = tuple(_object(pixels, ground, distance, labelled, i + 1, boxes[i]) for i in order[:6])
    nearest = np.linalg.norm(_GROUND_PALETTE - ground, axis=1)
    name = list(GROUNDS)[int(nearest.argmin())] if nearest.min() < COLOUR_LIMIT else None
    return Seen(name, objects)


def _at_64(image: Image) -> Floats:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < 8:
        raise ValueError(f"expected uint8 [h, w, 3] of 8 pixels or more a side, got {image.dtype} {image.shape}")
    pixels = image.astype(np.float32)
    scale = SIZE_PX / min(image.shape[:2])
    if scale == 1:
        return pixels
    scaled: Floats = ndimage.zoom(pixels, (scale, scale, 1), order=1, grid_mode=True, mode="nearest")
    return scaled


def _ground(pixels: Floats) -> Floats:
    """The median colour of the frame two pixels wide."""
    frame = [pixels[:2].reshape(-1, 3), pixels[-2:].reshape(-1, 3), pixels[2:-2, :2].reshape(-1, 3)]
    border = np.concatenate([*frame, pixels[2:-2, -2:].reshape(-1, 3)])
    median: Floats = np.median(border, axis=0).astype(np.float32)
    return median


def _object(
    pixels: Floats, ground: Floats, distance: Floats, labelled: NDArray[np.int32], label: int, box: tuple[slice, slice]
) -> Object:
    rows, columns = (slice(max(0, s.start - 1), s.stop + 1) for s in box)
    mask = labelled[rows, columns] == label
    patch, far = pixels[rows, columns], np.where(mask, distance[rows, columns], 0)
    core = far >= 0.8 * np.quantile(far[mask], 0.9)
    colour = np.median(patch[core], axis=0)
    away = np.linalg.norm(_PALETTE - colour, axis=1)
    name = list(COLOURS)[int(away.argmin())] if away.min() < COLOUR_LIMIT else ""
    axis = colour - ground
    alpha = np.clip((patch - ground) @ axis / max(float(axis @ axis), 1.0), 0, 1) * mask
    top, bottom = _span(alpha.max(1))
    left, right = _span(alpha.max(0))
    shape, difference = _nearest_shape(alpha, (top, bottom, left, right))
    radius = max(bottom - top, right - left) / 2 / EXTENT.get(shape, 1.0)
    x, y = columns.start + (left + right) / 2, rows.start + (top + bottom) / 2
    return Object(name, shape if difference < SHAPE_LIMIT else "", x, y, radius)


def _span(profile: Floats) -> tuple[float, float]:
    """Where a profile first and last passes one half, in pixels from the patch's edge, between pixel centres."""
    inside = np.flatnonzero(profile >= 0.5)
    if len(inside) == 0:
        return 0.0, float(len(profile))
    first, last = int(inside[0]), int(inside[-1])
    # The outermost half-covered pixel tells how far the outline reaches beyond the last full one.
    before = float(profile[first - 1]) if first > 0 else 0.0
    after = float(profile[last + 1]) if last + 1 < len(profile) else 0.0
    return first - before + (1 - float(profile[first])), last + 1 + after - (1 - float(profile[last]))


def _in_box(alpha: Floats, box: tuple[float, float, float, float]) -> Floats:
    """Coverage sampled on a regular grid over the box (top, bottom, left, right): float [_GRID, _GRID]."""
    top, bottom, left, right = box
    steps = (np.arange(_GRID) + 0.5) / _GRID
    rows, columns = top + steps * (bottom - top) - 0.5, left + steps * (right - left) - 0.5
    grid = np.meshgrid(rows, columns, indexing="ij")
    sampled: Floats = ndimage.map_coordinates(alpha, grid, order=1, mode="nearest").astype(np.float32)
    return sampled


def _nearest_shape(alpha: Floats, box: tuple[float, float, float, float]) -> tuple[str, float]:
    sample = _in_box(alpha, box)
    distances = np.abs(_templates() - sample).mean((2, 3)).min(1)
    index = int(distances.argmin())
    return SHAPES[index], float(distances[index])


@cache
def _templates() -> Floats:
    """Each shape at radii 8.5 to 14.5, drawn and measured as images are: float [6, radii, _GRID, _GRID]."""
    centres = ((32.0, 32.0), (32.5, 32.25), (31.75, 32.5))
    bank = [[np.mean([_template(s, r, *c) for c in centres], axis=0) for r in (8.5, 10.5, 14.5)] for s in SHAPES]
    return np.array(bank, np.float32)


def _template(shape: str, radius: float, x: float, y: float) -> Floats:
    yellow_on_black = render(Scene("black", (Object("yellow", shape, x, y, radius),)))
    alpha = (yellow_on_black[..., 0] / COLOURS["yellow"][0]).astype(np.float32)
    return _in_box(alpha, (*_span(alpha.max(1)), *_span(alpha.max(0))))
