"""The world that the built-in model knows: coloured shapes on a plain ground.

A scene holds one object in one of five places, or two objects side by side or one above the other. Coordinates are
pixels of the 64×64 image, x to the right, y down. Nothing here needs torch.

Splits. A tenth of the combinations is never rendered in training: for one object (colour, shape, ground), for two
objects (colour, shape, axis, colour, shape) with the left or upper object first. `is_held_out` decides by a hash of
the combination's words, so the split depends on no seed and no order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

SIZE_PX = 64

# sRGB. The closest two, orange and yellow, are 102 apart; no ground is nearer than 115 to a colour.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 20, 30),
    "orange": (255, 128, 0),
    "yellow": (255, 230, 0),
    "green": (20, 150, 40),
    "cyan": (0, 220, 230),
    "blue": (20, 50, 230),
    "purple": (130, 20, 170),
    "pink": (255, 130, 190),
}
GROUNDS: dict[str, tuple[int, int, int]] = {"black": (0, 0, 0), "white": (255, 255, 255), "gray": (128, 128, 128)}
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring")
SIZES = ("small", "large")
PLACES = ("left", "right", "top", "bottom", "center")
RELATIONS = ("left of", "right of", "above", "below")
INVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}

RADIUS_PX = {"small": (8.0, 10.0), "large": (13.0, 15.5)}
PAIR_RADIUS_PX = (9.0, 12.0)
SIZE_LIMIT_PX = 11.5  # between the two sizes; objects in pairs have no size of their own
PLACE_OFFSET_PX = 14.0
PAIR_OFFSET_PX = 16.0
_DIRECTION = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1), "center": (0, 0)}

Split = Literal["train", "held_out"]
Kind = Literal["colour", "shape", "one", "size", "place", "placed", "two", "relation"]
KINDS: tuple[Kind, ...] = ("colour", "shape", "one", "size", "place", "placed", "two", "relation")


@dataclass(frozen=True)
class Object:
    """One drawn shape: centre (x, y) and radius in pixels."""

    colour: str
    shape: str
    x: float
    y: float
    radius: float

    @property
    def size(self) -> str:
        return "small" if self.radius < SIZE_LIMIT_PX else "large"

    @property
    def place(self) -> str:
        return place_of(self.x, self.y)


@dataclass(frozen=True)
class Scene:
    """A ground and one or two objects; of two, the left or upper one comes first."""

    ground: str
    objects: tuple[Object, ...]

    @property
    def relation(self) -> str | None:
        """How the first object stands to the second: "left of" or "above"; None with a single object."""
        return relation_of(*self.objects) if len(self.objects) == 2 else None

    @property
    def held_out(self) -> bool:
        return is_held_out(self)


@dataclass(frozen=True)
class ObjectClaim:
    """What a caption says of one object; None where it says nothing."""

    colour: str | None = None
    shape: str | None = None
    size: str | None = None
    place: str | None = None


@dataclass(frozen=True)
class Claims:
    """What a caption says of a scene; `relation` reads from the first object to the second."""

    objects: tuple[ObjectClaim, ...]
    relation: str | None = None
    ground: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """A form that JSON can hold; `from_dict` reads it back."""
        return {"objects": [asdict(o) for o in self.objects], "relation": self.relation, "ground": self.ground}

    @staticmethod
    def from_dict(value: Mapping[str, Any]) -> Claims:
        """Raises KeyError or TypeError for a dict that `to_dict` did not write."""
        return Claims(tuple(ObjectClaim(**o) for o in value["objects"]), value["relation"], value["ground"])


def place_of(x: float, y: float) -> str:
    """The place whose direction dominates; the middle reaches 7 pixels from the image's centre."""
    dx, dy = x - SIZE_PX / 2, y - SIZE_PX / 2
    if max(abs(dx), abs(dy)) < PLACE_OFFSET_PX / 2:
        return "center"
    if abs(dx) > abs(dy):
        return "left" if dx < 0 else "right"
    return "top" if dy < 0 else "bottom"


def relation_of(first: Object, second: Object) -> str:
    dx, dy = second.x - first.x, second.y - first.y
    if abs(dx) > abs(dy):
        return "left of" if dx > 0 else "right of"
    return "above" if dy > 0 else "below"


def is_held_out(scene: Scene) -> bool:
    """Whether the scene's combination (see the module's docstring) belongs to the tenth that training never sees."""
    if len(scene.objects) == 1:
        words = [scene.objects[0].colour, scene.objects[0].shape, scene.ground]
    else:
        a, b = scene.objects
        words = [a.colour, a.shape, "h" if scene.relation == "left of" else "v", b.colour, b.shape]
    digest = hashlib.blake2b(" ".join(words).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") % 10 == 0


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def _single(rng: np.random.Generator) -> Scene:
    size, place = _pick(rng, SIZES), _pick(rng, PLACES)
    along, across = rng.uniform(-1.5, 1.5), rng.uniform(-2.0, 2.0)
    ux, uy = _DIRECTION[place]
    jx, jy = (along, across) if uy == 0 else (across, along)
    x, y = SIZE_PX / 2 + PLACE_OFFSET_PX * ux + jx, SIZE_PX / 2 + PLACE_OFFSET_PX * uy + jy
    thing = Object(_pick(rng, list(COLOURS)), _pick(rng, SHAPES), x, y, rng.uniform(*RADIUS_PX[size]))
    return Scene(_pick(rng, list(GROUNDS)), (thing,))


def _pair(rng: np.random.Generator) -> Scene:
    horizontal = bool(rng.integers(2))
    things: list[Object] = []
    for side in (-1, 1):
        along, across = SIZE_PX / 2 + side * PAIR_OFFSET_PX + rng.uniform(-1.5, 1.5), SIZE_PX / 2 + rng.uniform(-3, 3)
        x, y = (along, across) if horizontal else (across, along)
        things.append(Object(_pick(rng, list(COLOURS)), _pick(rng, SHAPES), x, y, rng.uniform(*PAIR_RADIUS_PX)))
    a, b = things
    if (a.colour, a.shape) == (b.colour, b.shape):
        b = replace(b, colour=_pick(rng, [c for c in COLOURS if c != a.colour]))
    return Scene(_pick(rng, list(GROUNDS)), (a, b))


def sample_scene(rng: np.random.Generator, split: Split = "train", count: int = 1) -> Scene:
    """A random scene of `split` with `count` (1 or 2) objects."""
    while True:
        scene = _pair(rng) if count == 2 else _single(rng)
        if is_held_out(scene) == (split == "held_out"):
            return scene
