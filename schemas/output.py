"""The section `output:` of the job file."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from promptmill.schemas.rules import StrictModel, Text

ImageFormat = Literal["png", "webp", "jpeg"]
LARGEST_SIDE: Final = {"webp": 16_383}
"""Pixels that an image format can hold, where that is less than `Size` says."""


class Output(StrictModel):
    url: Text
    """Folder or URL (`s3://bucket/prefix`) of the dataset. `{date}` is the day, `{date:%Y/%m}` a part of it, in UTC."""
    image_format: ImageFormat = "png"
    """`png` (level 1), `webp` (lossless) or `jpeg`."""
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 95
    """Used for `jpeg` only."""
    images_per_shard: Annotated[int, Field(ge=1, le=100_000)] = 256
    """Images made per output object, before selection; the unit of work that a crash can cost."""
    embed_parameters: bool = True
    """Write prompt and settings into each image, as the `parameters` text that AUTOMATIC1111-style tools read."""
    embed_source_type: bool = True
    """Mark each image as made by a model: IPTC digital source type `trainedAlgorithmicMedia` in XMP."""
    keep_rejected_images: bool = False
    """Store the images of rejected samples too, beside their reasons."""
    keep_inputs: bool = False
    """Store each input image once, as it was read, under `inputs/images/` by its SHA-256."""
