"""What decides that two images are one: options of `promptmill curate`, and the section `curate:` of the job file."""

from __future__ import annotations

from typing import Annotated, Final, Self

from pydantic import Field, model_validator

from promptmill.schemas.rules import StrictModel, Text, broken_rule, raise_all

QUANTILE: Final = 0.9998


class Curation(StrictModel):
    model: Text | None = None
    """Sees what is alike: an open_clip model (`builtin:shapes` too), or a folder of transformers such as DINOv2.

    Without one only copies of the very same pixels are found."""
    real: Annotated[tuple[Text, ...], Field(strict=False)] = ()
    """Images it was made from: folders, or Parquet files with a column `image`. Copies of them are `memorised`."""
    test: Annotated[tuple[Text, ...], Field(strict=False)] = ()
    """Images of an evaluation. Copies of them are a `leak`."""
    threshold: Annotated[float, Field(gt=-1, lt=1)] | None = None
    """Cosine above which two images are copies; null to find it by `real` and `test`."""
    quantile: Annotated[float, Field(ge=0.5, lt=1)] = QUANTILE
    """Share of images known not to be copies that may stay."""
    label: Text | None = None
    """Column of the classes inside which copies are looked for; null for `label_name` or `label` where there is one."""
    percentiles: dict[Text, Annotated[float, Field(gt=0, lt=100)]] = Field(default_factory=dict)
    """Scores with the share, of 100, of each class that goes for it before: `{clip: 30}`."""
    per_class: Annotated[int, Field(ge=1)] | None = None
    """At most so many images of each class (and variant) stay, the first ones, so that classes are of one size again. A
    class that has fewer ends the command with exit code 3. A copy may name a twin that goes for this, as
    `over_per_class`."""

    @model_validator(mode="after")
    def _sees(self) -> Self:
        if self.threshold is not None and self.model is None:
            hint = "Such as builtin:shapes, or a folder with DINOv2."
            expected = "a model, of whose embeddings the threshold is a cosine"
            raise_all([broken_rule(("model",), expected, "none", hint, "curate.threshold curate.model")])
        return self


class Curate(Curation):
    to: Text
    """Folder or URL of the curated dataset, beside that of the job. `{date}` as in `output.url`."""
