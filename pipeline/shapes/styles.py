"""Scenes in a style, their edge maps, and what the verifier makes of them: numpy and scipy alone.

Two styles, chosen because the built-in autoencoder, which saw filled shapes alone, carries them (`STYLES` says how):
"hollow" cuts from each figure a hole of half its inner radius; crosses and rings are thinner than that and stay as they
are. "wide" stretches each figure about its centre. Of what else was tried, plain grounds of other
colours came out as the nearest known one, and bars or a frame around the image not at all.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from promptmill.pipeline.shapes.render import render_batch, signed_distance
from promptmill.pipeline.shapes.world import COLOURS, GROUNDS, SIZE_PX, Object, Scene

# Through the autoencoder, of 120 training scenes each: hollow 28 to 35 dB by shape and size, wide 34 dB.
STYLES = ("hollow", "wide")
STRETCH = (1.12, 0.75)  # of x and y; the figure's longer side, and so its size, stays near what it was
WIDE_LIMIT = 1.25  # width over height; of plain figures the widest has 1.12
HOLE_SHARE = 0.5  # of the inner radius
# The inner radius of each shape in radii: how far from its outline its deepest point lies.
_INNER = {"circle": 1.0, "square": 0.88, "diamond": 0.742, "triangle": 0.597}
_FINE = 4  # a pixel is the mean of 4×4 points
_GROUND_LIMIT = 58.0  # sRGB; as far from the ground as half the distance of any colour

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]


def render_styled(scenes: Sequence[Scene], styles: Sequence[str]) -> Image:
    """uint8 [n, 64, 64, 3], every scene in all of `styles`."""
    return np.stack([_styled(scene, "hollow" in styles, "wide" in styles) for scene in scenes])


def _styled(scene: Scene, hollow: bool, wide: bool) -> Image:
    image = np.empty((SIZE_PX, SIZE_PX, 3), np.float32)
    image[:] = GROUNDS[scene.ground]
    for thing in scene.objects:
        distance = _fine_distance(thing, STRETCH if wide else (1.0, 1.0))
        inside = distance < 0
        if hollow and thing.shape in _INNER:
            inside &= distance >= -(1 - HOLE_SHARE) * _INNER[thing.shape] * thing.radius
        cover = inside.astype(np.float32).reshape(SIZE_PX, _FINE, SIZE_PX, _FINE).mean((1, 3))[..., None]
        image += cover * (np.array(COLOURS[thing.colour], np.float32) - image)
    drawn: Image = np.rint(image).astype(np.uint8)
    return drawn


def _fine_distance(thing: Object, stretch: tuple[float, float]) -> Floats:
    """Distance to the outline before stretching, at 4×4 points a pixel: float [256, 256]."""
    axis = ((np.arange(SIZE_PX * _FINE) + 0.5) / _FINE).astype(np.float32)
    x = (axis[None, :] - np.float32(thing.x)) / np.float32(stretch[0])
    y = (axis[:, None] - np.float32(thing.y)) / np.float32(stretch[1])
    return signed_distance(thing.shape, x, y, np.full(1, thing.radius, np.float32))


def edge_maps(scenes: Sequence[Scene], width_px: Sequence[float] | NDArray[np.float64] | float = 1.5) -> Image:
    """White lines of `width_px` on black along the outlines: uint8 [n, 64, 64, 3]."""
    widths = np.broadcast_to(np.asarray(width_px, np.float32), len(scenes))
    axis = (np.arange(SIZE_PX) + 0.5).astype(np.float32)
    maps = np.zeros((len(scenes), SIZE_PX, SIZE_PX), np.float32)
    for i, scene in enumerate(scenes):
        for thing in scene.objects:
            x, y = axis[None, :] - np.float32(thing.x), axis[:, None] - np.float32(thing.y)
            distance = signed_distance(thing.shape, x, y, np.full(1, thing.radius, np.float32))
            maps[i] = np.maximum(maps[i], np.clip(0.5 + widths[i] / 2 - np.abs(distance), 0, 1))
    grey: Image = np.rint(maps * 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=3)


def figure_mask(image: Image) -> NDArray[np.bool_]:
    """What differs from the ground, the colour of the frame: bool [64, 64]."""
    pixels = image.astype(np.float32)
    frame = [pixels[:2].reshape(-1, 3), pixels[-2:].reshape(-1, 3), pixels[2:-2, :2].reshape(-1, 3)]
    ground = np.median(np.concatenate([*frame, pixels[2:-2, -2:].reshape(-1, 3)]), axis=0)
    mask: NDArray[np.bool_] = np.linalg.norm(pixels - ground, axis=2) > _GROUND_LIMIT
    return mask


def overlap(image: Image, scene: Scene) -> float:
    """Intersection over union of the image's figures with the scene's."""
    mine, theirs = figure_mask(image), figure_mask(render_batch([scene])[0])
    return float((mine & theirs).sum() / max(1, (mine | theirs).sum()))


def is_hollow(image: Image) -> bool:
    """Whether the figures enclose ground: a hole of 6 pixels or more."""
    mask = figure_mask(image)
    return int((ndimage.binary_fill_holes(mask) & ~mask).sum()) >= 6


def fill_holes(image: Image) -> Image:
    """The image with each figure's inside in the figure's own colour, so that `verify` can name the shape."""
    labelled, count = ndimage.label(figure_mask(image), np.ones((3, 3), np.int8))
    out = image.copy()
    for label in range(1, count + 1):
        region = labelled == label
        inside = ndimage.binary_erosion(ndimage.binary_fill_holes(region), iterations=2)
        out[inside] = _own_colour(image, region)
    return out


def _own_colour(image: Image, region: NDArray[np.bool_]) -> Floats:
    """The median of those pixels of a region that lie farthest from the frame's colour, as `verify` takes it."""
    pixels = image[region].astype(np.float32)
    ground = np.median(np.concatenate([image[:2].reshape(-1, 3), image[-2:].reshape(-1, 3)]), axis=0)
    far = np.linalg.norm(pixels - ground, axis=1)
    colour: Floats = np.median(pixels[far >= 0.8 * np.quantile(far, 0.9)], axis=0).astype(np.float32)
    return colour


def is_wide(image: Image) -> bool:
    """Whether the largest figure's box is wider than `WIDE_LIMIT` times its height."""
    labelled, count = ndimage.label(figure_mask(image), np.ones((3, 3), np.int8))
    if count == 0:
        return False
    areas = np.bincount(labelled.ravel())[1:]
    rows, columns = ndimage.find_objects(labelled)[int(areas.argmax())]
    return bool((columns.stop - columns.start) / (rows.stop - rows.start) >= WIDE_LIMIT)
