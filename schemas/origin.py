"""Where the images of a dataset come from: from words, over real images, or over what a model made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from promptmill.schemas.checked import checked, count
from promptmill.schemas.inputs import Input, Role

Origin = Literal["generated", "edited_from_real", "edited_from_synthetic"]
SYNTHETIC: Final[Origin] = "edited_from_synthetic"
MOST_GENERATIONS: Final = 1000

# https://cv.iptc.org/newscodes/digitalsourcetype: `trainedAlgorithmicMedia`, `compositeWithTrainedAlgorithmicMedia`.
# The word stands as it is in XMP and in a C2PA manifest, whoever wrote it.
_MARK: Final = b"rainedAlgorithmicMedia"


def is_marked(data: bytes) -> bool:
    """Whether an image file says of itself that a model made it, wholly or in part."""
    return _MARK in data


def origin_of(inputs: Mapping[Role, Input]) -> Origin | None:
    """By the image that was drawn over, None where it was not read. A control or reference image leaves no pixels."""
    image = inputs.get("image")
    if image is None:
        return "generated"
    if image.sha256 is None:
        return None
    return SYNTHETIC if image.synthetic else "edited_from_real"


@dataclass(frozen=True)
class Lineage:
    """Of a dataset's own images `generation` is 1 for those made of words or real images, else one more than the
    largest of the datasets of ours whose images they were made of; `datasets` are the fingerprints of these. `whole` is
    whether all images are of such, with or without a mark in them.

    `license` is that of the source, as the job or the source's own card says it.
    """

    generation: int = 1
    datasets: tuple[str, ...] = ()
    license: str | None = None
    whole: bool = False


def checked_lineage(content: object) -> Lineage:
    """Raises ValueError."""
    found = checked(Lineage, content)
    count(found.generation - 1, "generation", MOST_GENERATIONS)
    return found
