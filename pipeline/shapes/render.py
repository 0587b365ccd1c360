"""Drawing scenes: signed distances to each shape's outline, one pixel of linear anti-aliasing, on numpy alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from promptmill.pipeline.shapes.world import COLOURS, GROUNDS, SIZE_PX, Scene

# Half of the larger side of each shape's box, in radii.
EXTENT = {"circle": 1.0, "square": 0.88, "triangle": 1.0, "diamond": 1.05, "cross": 1.0, "ring": 1.0}
_RING_HOLE = 0.48
_CROSS_ARM = 0.34
_TRIANGLE_BASE = 0.85

Array = NDArray[np.float32]


def signed_distance(shape: str, x: Array, y: Array, radius: Array) -> Array:
    """Distance in pixels to the outline, negative inside; `x` and `y` relative to the centre, y down."""
    ax, ay = np.abs(x), np.abs(y)
    distance: Array
    if shape == "circle":
        distance = np.hypot(x, y) - radius
    elif shape == "ring":
        middle, half = (1 + _RING_HOLE) / 2, (1 - _RING_HOLE) / 2
        distance = np.abs(np.hypot(x, y) - middle * radius) - half * radius
    elif shape == "square":
        distance = np.maximum(ax, ay) - EXTENT["square"] * radius
    elif shape == "diamond":
        distance = (ax + ay - EXTENT["diamond"] * radius) / np.float32(np.sqrt(2))
    elif shape == "cross":
        arm = _CROSS_ARM * radius
        distance = np.minimum(np.maximum(ax - radius, ay - arm), np.maximum(ax - arm, ay - radius))
    elif shape == "triangle":
        slope = 1 + _TRIANGLE_BASE
        side = (slope * ax - (y + radius)) / np.float32(np.hypot(slope, 1.0))
        distance = np.maximum(y - _TRIANGLE_BASE * radius, side)
    else:
        raise ValueError(f"unknown shape {shape!r}")
    return distance


def render_batch(scenes: Sequence[Scene], size: int = SIZE_PX) -> NDArray[np.uint8]:
    """uint8 [n, size, size, 3]. Sizes other than 64 draw the same scene at another scale."""
    scale = size / SIZE_PX
    axis = ((np.arange(size) + 0.5) / scale).astype(np.float32)
    image = np.empty((len(scenes), size, size, 3), np.float32)
    image[:] = np.array([GROUNDS[s.ground] for s in scenes], np.float32)[:, None, None, :]
    by_shape: dict[str, list[tuple[int, int]]] = {}
    for i, scene in enumerate(scenes):
        for j, thing in enumerate(scene.objects):
            by_shape.setdefault(thing.shape, []).append((i, j))
    for shape, places in by_shape.items():
        things = [scenes[i].objects[j] for i, j in places]
        x, y, r = (np.array([getattr(t, k) for t in things], np.float32)[:, None, None] for k in ("x", "y", "radius"))
        distance = signed_distance(shape, axis[None, None, :] - x, axis[None, :, None] - y, r) * scale
        alpha = np.clip(0.5 - distance, 0, 1)[..., None]
        for k, (i, _) in enumerate(places):
            image[i] += alpha[k] * (np.array(COLOURS[things[k].colour], np.float32) - image[i])
    drawn: NDArray[np.uint8] = np.rint(image).astype(np.uint8)
    return drawn


def render(scene: Scene, size: int = SIZE_PX) -> NDArray[np.uint8]:
    """uint8 [size, size, 3]."""
    image: NDArray[np.uint8] = render_batch([scene], size)[0]
    return image
