"""`score:` and `select:` of the job file, and what is known of each score without making it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from pydantic import ConfigDict, Field, model_serializer, model_validator

from promptmill.schemas.rules import StrictModel, Text, broken_rule, raise_all

SCORE_KINDS: Final = ("clip", "relative", "metric", "classifier", "python")


@dataclass(frozen=True)
class ScoreFacts:
    """Of one score. `least` and `most` are None where it has no such bound."""

    name: str
    meaning: str = ""
    least: float | None = None
    most: float | None = None
    lower_is_better: bool = False

    @property
    def bounds(self) -> tuple[float, float] | None:
        return None if self.least is None or self.most is None else (self.least, self.most)


METRICS: Final = {
    "image": (
        ScoreFacts("sharpness", "variance of the Laplacian of luma", least=0),
        ScoreFacts("contrast", "standard deviation of luma", least=0),
        ScoreFacts("colourfulness", "Hasler and Süsstrunk's M(3)", least=0),
        ScoreFacts("near_black", "share of pixels that are nearly black", 0, 1, lower_is_better=True),
    ),
    "verified": (
        ScoreFacts("verified", "whether the image shows all that its caption claims", 0, 1),
        ScoreFacts("verified_share", "share of the caption's claims that hold", 0, 1),
    ),
}
"""By the word of a `metric` that needs no model, made by the file of that name in `pipeline/scores/`.

A score of the user's own is `python:` in the job file."""
METRIC_SCORES: Final = {word: tuple(facts.name for facts in scores) for word, scores in METRICS.items()}
CLASSIFIER: Final = (
    ScoreFacts("agrees", "whether a classifier sees the class that the label says", 0, 1),
    ScoreFacts("label_probability", "how likely a classifier holds the label's class", 0, 1),
)
CLASSIFIER_SCORES: Final = tuple(facts.name for facts in CLASSIFIER)
JUDGES: Final = ("verified", "agrees")
"""Scores that are 1 for an image that is right, the exact one first."""
_BY_NAME: Final = {facts.name: facts for scores in (*METRICS.values(), CLASSIFIER) for facts in scores}
LOWER_IS_BETTER: Final = frozenset(name for name, facts in _BY_NAME.items() if facts.lower_is_better)


def bounds_of(score: str) -> tuple[float, float] | None:
    facts = _BY_NAME.get(score)
    return None if facts is None else facts.bounds


if TYPE_CHECKING:
    _Metric = str
else:
    _Metric = Literal[tuple(METRICS)]


class Score(StrictModel):
    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": [kind], "properties": {kind: {"type": "string"}}} for kind in SCORE_KINDS]
        }
    )

    clip: Text | None = None
    """Cosine of image and caption, by an open_clip model: `name/tag`, `hf-hub:org/name[@commit]`, `local-dir:folder`
    or `builtin:shapes`."""
    relative: Text | None = None
    """How surely an open_clip model picks the caption among `distractors`, 0 to 1. Without those, in a job with
    classes, the wording of an image's class among those of all."""
    distractors: Annotated[tuple[Text, ...], Field(strict=False)] = ()
    """Captions that `relative` holds against that of the image."""
    metric: _Metric | None = None
    """`image`: `sharpness`, `contrast`, `colourfulness`, `near_black`. `verified`: whether the image shows what a
    caption of the shapes world says, and `verified_share`, the share of its claims that hold."""
    classifier: Text | None = None
    """A folder that `AutoModelForImageClassification` of transformers loads from safetensors, or with the same
    configuration and an ONNX file, and that names a class as each of the job's: `agrees`, whether that of the image is
    the likeliest of all, and `label_probability`."""
    python: Text | None = None
    """A score of your own: the import path of its class, `package.module:Class`, or the name of an entry point in the
    group `promptmill.scores`. The class says what its scores are called."""
    name: Text | None = None
    """Key of `clip` or `relative` in the `scores` column, and what `select.by` refers to. Null is that word."""

    @property
    def model(self) -> str | None:
        """The open_clip model or the classifier, None where the score needs none."""
        return self.clip or self.relative or self.classifier

    @property
    def names(self) -> tuple[str, ...]:
        """Keys in the `scores` column; none for `python`, whose class has them: `Plan.score_names`."""
        if self.python is not None:
            return ()
        if self.classifier is not None:
            return CLASSIFIER_SCORES
        if self.metric is not None:
            return METRIC_SCORES[self.metric]
        return (str(self.name),)

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("name") is not None:
            return data
        return {**data, "name": next((kind for kind in ("clip", "relative") if data.get(kind)), None)}

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [kind for kind in SCORE_KINDS if getattr(self, kind) is not None]
        wrong = []
        if len(given) != 1:
            hint = "One item of the list, one kind of score: `- clip: builtin:shapes`, `- metric: image`."
            got = " and ".join(given) or "nothing"
            loc = given[1] if given else "clip"
            wrong.append(
                broken_rule((loc,), "one of `clip`, `relative`, `metric`, `classifier`, `python`", got, hint, "score")
            )
        elif given in (["metric"], ["classifier"], ["python"]) and self.name is not None:
            fixed = f"Its scores are called {', '.join(self.names)}." if self.names else "Its class names its scores."
            wrong.append(broken_rule(("name",), "null", repr(self.name), fixed, "score"))
        if self.distractors and "relative" not in given:
            wrong.append(broken_rule(("distractors",), "none without `relative`", list(self.distractors), "", "score"))
        raise_all(wrong)
        return self

    @model_serializer
    def _in_use(self) -> dict[str, Any]:
        """Only the fields in use, which are those that differ from their defaults."""
        return {key: value for key, value in self if value != type(self).model_fields[key].default}


NOT_SELECTED: Final = "not_selected"
BELOW_MIN: Final = "below_min"
NO_SCORE: Final = "no_score"
EXACT: Final = "exact_copy"
NEAR: Final = "near_copy"
MEMORISED: Final = "memorised"
LEAK: Final = "leak"
UNREADABLE: Final = "unreadable"
OVER: Final = "over_per_class"
"""Of `curate`: an image that is right, and more than its class is to have. It may be the twin that a copy names."""
NAMES_A_TWIN: Final = (EXACT, NEAR, MEMORISED, LEAK)
"""Reasons of `curate` that go on with a colon and the name of what the image is a copy of."""


def reason_kind(reason: str) -> str:
    """Without the twin that it names, so that reasons can be counted."""
    kind = reason.partition(":")[0]
    return kind if kind in NAMES_A_TWIN else reason


UNSAFE_FLAGS: Final = ("nsfw",)
"""Of an image that a safety checker blanked: it is never kept, and the flag is the reason."""


MOST_ROUNDS: Final = 12
_PERCENTILES: Final = ("at_least_percentile", "at_most_percentile", "percentile")


class Condition(StrictModel):
    """Bounds of one score, which an image must keep to."""

    score: Text
    """Name of a score that the job makes."""
    at_least: float | None = None
    """Images that score below are rejected."""
    at_most: float | None = None
    """Images that score above are rejected."""

    def unmet(self, value: float | None) -> str | None:
        """The reason why an image with this score is rejected."""
        if value is None or math.isnan(value):
            return NO_SCORE
        if self.at_least is not None and value < self.at_least:
            return f"{self.score} below {self.at_least:.9g}"
        if self.at_most is not None and value > self.at_most:
            return f"{self.score} above {self.at_most:.9g}"
        return None

    @model_validator(mode="before")
    @classmethod
    def _no_percentile(cls, data: Any) -> Any:
        asked = next((name for name in _PERCENTILES if isinstance(data, dict) and name in data), None)
        if asked is not None:
            hint = "It needs all images of a class: `promptmill curate URL --to URL2 --percentile clip=30` has them."
            raise_all([broken_rule((asked,), "at_least or at_most", data[asked], hint, "select.where")])
        return data

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        least, most = self.at_least, self.at_most
        if least is None and most is None:
            hint = f"For example `{{score: {self.score}, at_least: 0.2}}`."
            raise_all([broken_rule(("at_least",), "a number, here or in at_most", "null", hint, "select.where")])
        if least is not None and most is not None and least > most:
            hint = "No image could be kept."
            raise_all([broken_rule(("at_least",), f"up to at_most, {most:g}", least, hint, "select.where")])
        return self


class Select(StrictModel):
    keep: Annotated[int, Field(ge=1)] | None = 1
    """Best so many images of each prompt and variant; null keeps all that pass `min`."""
    by: Text = "clip"
    """Name of a score. Higher is better, but for `near_black`."""
    min: float | None = None
    """Images that score below are rejected."""
    where: Annotated[tuple[Condition, ...], Field(strict=False, max_length=100)] = ()
    """Conditions that an image must meet before the best are chosen. Without a score `clip` and without `by` the first
    `keep` of those are kept."""
    per_class: Annotated[int, Field(ge=1)] | None = None
    """So many images of each class (and of each variant of a sweep), exactly.

    A class that lacks some after a round is drawn again, each lacking image with twice as many tries."""
    max_rounds: Annotated[int, Field(ge=1, le=MOST_ROUNDS)] = 4
    """After so many rounds a class that still lacks images is left, and the command ends with exit code 3.

    More may be given later: the same job then goes on."""
