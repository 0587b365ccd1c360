"""Images that a prompt is drawn from: roles, references, and the task that follows from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

Role = str
"""One of ROLES, or the control image of one ControlNet by its name."""
ROLES: Final[tuple[Role, ...]] = ("image", "mask", "control_image", "reference_image")
CONTROL: Final = "control_image"

REFERENCE: Final = "reference_image"
STEERING: Final = ("control_scale", "control_start", "control_end", "reference_scale")
"""Fields of `generation` that a column may say for its row; in the pipeline's call they are one value for all."""

ControlKind = Literal["", "controlnet", "controlnet-union", "adapter"]
"""What steers a model beside its own weights: nothing, ControlNets, union ControlNets, or T2I-Adapters."""

MASK_LIMIT: Final = 128
"""From here on, of 255, a mask is white: drawn anew."""

TaskName = Literal["text-to-image", "image-to-image", "inpainting", "edit"]


def control_role(net: str) -> Role:
    """Of the image for one ControlNet alone."""
    return f"{CONTROL}_{net}"


def control_kind(class_name: str) -> ControlKind:
    """By the class of a network that steers."""
    if class_name == "T2IAdapter":
        return "adapter"
    return "controlnet-union" if "Union" in class_name else "controlnet"


def is_control(role: Role) -> bool:
    return role == CONTROL or role.startswith(f"{CONTROL}_")


@dataclass(frozen=True)
class Input:
    """One image of a prompt. `locator` says where its bytes are: a URL, or a row of a Parquet file's column.

    The rest is known once the bytes were read: `sha256` is theirs, `pixels` are uint8 [height, width, 3], or
    [height, width] for a mask, of the size that the sample is drawn in; `synthetic` is whether a model made it.
    """

    locator: str
    sha256: str | None = None
    pixels: Any = field(default=None, compare=False, repr=False)
    flags: tuple[str, ...] = ()
    synthetic: bool = False


@dataclass(frozen=True)
class Task:
    """What kind of pipeline a job needs, and the roles that each of its prompts must fill."""

    name: TaskName
    roles: frozenset[Role] = frozenset()

    @property
    def controlled(self) -> bool:
        return any(is_control(role) for role in self.roles)


def task_of(roles: Iterable[Role]) -> Task:
    """The task of prompts that have images in these roles; of a model that edits, image-to-image is `edit`.

    Raises ValueError for a mask without an image.
    """
    given = frozenset(roles)
    if "mask" in given and "image" not in given:
        raise ValueError("a mask needs an image")
    name: TaskName = "inpainting" if "mask" in given else "image-to-image" if "image" in given else "text-to-image"
    return Task(name, given)
