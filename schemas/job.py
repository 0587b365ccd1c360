"""The job file as typed, frozen values. `schemas/job.schema.json` is generated from here (`promptmill schema`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, create_model, model_validator
from pydantic_core import InitErrorDetails

from promptmill.schemas.compute import Compute
from promptmill.schemas.curation import Curate
from promptmill.schemas.generation import CONTROL_FIELDS, INPUT_FIELDS, MASK_FIELDS, REFERENCE_FIELDS, Generation, Model
from promptmill.schemas.inputs import CONTROL, REFERENCE, Task, task_of
from promptmill.schemas.output import Output
from promptmill.schemas.prompts import MAX_SEED, Prompts
from promptmill.schemas.rules import StrictModel, Text, broken_rule, raise_all, repeats
from promptmill.schemas.scores import LOWER_IS_BETTER, Score, Select
from promptmill.schemas.sweep import PRESETS, Partial, SweepAxes, axis

SCHEMA_VERSION = 1


def _partial(name: str, **more: Any) -> Any:
    fields = {field: (info.rebuild_annotation(), info.default) for field, info in Generation.model_fields.items()}
    return create_model(name, __base__=Partial, **more, model=(Text | Model, None), **fields)  # type: ignore[call-overload]


if TYPE_CHECKING:
    Sweep = SweepAxes
else:
    _Presets = Annotated[dict[Text, _partial("Preset")], Field(min_length=1)]
    _Exclusion = _partial("Exclusion", settings=(Text, None))
    _together = "One axis of values that go together: names, each with the fields that it sets."
    _left_out = "Variants left out: those that have all values of one of these."
    # Built from Generation, so that a field added there can be swept the same day.
    Sweep = create_model(
        "Sweep",
        __base__=SweepAxes,
        model=axis(Text | Model),
        settings=(_Presets | None, Field(None, description=_together)),
        **{name: axis(field.rebuild_annotation()) for name, field in Generation.model_fields.items()},
        exclude=(tuple[_Exclusion, ...], Field((), max_length=1000, strict=False, description=_left_out)),
    )


class Job(StrictModel):
    name: Annotated[str, Field(min_length=1, max_length=200)]
    """Shown in progress, reports and the dataset card."""
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0
    """Start of all randomness: another seed gives other images of the same prompts."""
    prompts: Prompts
    """Where the prompts are."""
    model: Model = Model()
    """What makes the images."""
    generation: Generation = Generation()
    """How the images are made."""
    sweep: Sweep = Sweep()
    """Axes that multiply: any field of `generation`, `model`, and named settings, each a list or a range.

    Variants of one prompt share their seeds."""
    score: Annotated[tuple[Score, ...], Field(strict=False)] = ()
    """What each image is scored with."""
    select: Select | None = None
    """Which images are kept; leave it out to keep all."""
    output: Output
    """Where and how the dataset is written."""
    curate: Curate | None = None
    """A copy of the dataset without copies, made when all its samples are; not part of the result."""
    compute: Compute = Compute()
    """How the job runs; not part of the result."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        raise_all([*self._wrong_scores(), *self._wrong_select(), *self._wrong_columns(), *self._wrong_additions()])
        return self

    @property
    def score_names(self) -> list[str]:
        return [name for score in self.score for name in score.names]

    @property
    def per_class(self) -> int | None:
        return None if self.select is None else self.select.per_class

    @property
    def ranked_by(self) -> str | None:
        """The score by which the best are kept; None where there is none, and the first are."""
        if self.select is None:
            return None
        unscored = self.select.by == "clip" and not any(score.clip or score.python for score in self.score)
        may_lack = bool(self.select.where) or (self.select.per_class is not None and not self.score)
        return None if unscored and may_lack and "clip" not in self.score_names else self.select.by

    def _wrong_scores(self) -> list[InitErrorDetails]:
        places = [index for index, score in enumerate(self.score) for _ in score.names]
        names = self.score_names
        hint = "Give each `clip` and `relative` a `name` of its own; those of a `metric` are fixed."
        wrong = [
            broken_rule(("score", places[index], "name"), "names that differ", f"{names[first]!r} twice", hint, "score")
            for index, first in repeats(names)
        ]
        hint = "For example `distractors: [a photo of a dog, a blank image]`; a job with classes needs none."
        wrong += [
            broken_rule(("score", i, "classifier"), "null without labels", score.classifier, "", "score prompts")
            for i, score in enumerate(self.score)
            if score.classifier and not self.prompts.labelled
        ]
        return wrong + [
            broken_rule(("score", i, "distractors"), "captions", [], hint, "score prompts")
            for i, score in enumerate(self.score)
            if score.relative and not score.distractors and not self.prompts.labelled
        ]

    def _wrong_select(self) -> list[InitErrorDetails]:
        if self.select is None:
            return []
        wrong = []
        names = self.score_names
        wrong += self._wrong_balance() + self._wrong_conditions()
        known = self.ranked_by in (None, *names) or any(score.python for score in self.score)  # the plan knows those
        if not known:
            expected = "the name of a score (" + (", ".join(names) or "this job has none") + ")"
            hint = "" if names else "Add `score: [{clip: …}]`, or remove `select`."
            wrong.append(broken_rule(("select", "by"), expected, repr(self.select.by), hint, "select.by score"))
        if self.select.by in LOWER_IS_BETTER and self.select.min is not None:
            hint = "Of this score the lowest are kept, so a least value would reject the best."
            fields = "select.min select.by"
            wrong.append(broken_rule(("select", "min"), f"null with {self.select.by}", self.select.min, hint, fields))
        images = self.sweep.values_of("images_per_prompt", self.generation.images_per_prompt)
        least = min(value for _, value in images)
        if self.select.keep is not None and self.select.keep > least:
            fields = "select.keep generation.images_per_prompt sweep"
            hint = "More cannot be kept than are made: raise `generation.images_per_prompt` or lower `select.keep`."
            wrong.append(
                broken_rule(
                    ("select", "keep"), f"at most {least}, the images per prompt", self.select.keep, hint, fields
                )
            )
        return wrong

    def _wrong_conditions(self) -> list[InitErrorDetails]:
        """Of scores that the job does not make; those of `python` the plan knows."""
        assert self.select is not None
        if any(score.python for score in self.score):
            return []
        names = self.score_names
        expected = "the name of a score (" + (", ".join(names) or "this job has none") + ")"
        return [
            broken_rule(("select", "where", i, "score"), expected, repr(each.score), "", "select.where score")
            for i, each in enumerate(self.select.where)
            if each.score not in names
        ]

    def _wrong_balance(self) -> list[InitErrorDetails]:
        assert self.select is not None
        if self.select.per_class is None:
            return []
        wrong = []
        if not self.prompts.labelled:
            hint = "Name classes in `prompts.classes`, or the column that has them in `prompts.columns.label`."
            fields = "select.per_class prompts"
            wrong.append(
                broken_rule(("select", "per_class"), "null without labels", self.select.per_class, hint, fields)
            )
        if any(
            "images_per_prompt" in each
            for each in (self.sweep.axes(), *(p.given() for p in self.sweep.presets.values()))
        ):
            hint = "The rounds say how many images a place has."
            fields = "select.per_class sweep"
            wrong.append(broken_rule(("sweep",), "no images_per_prompt with `select.per_class`", "some", hint, fields))
        return wrong

    @property
    def task(self) -> Task:
        """What kind of pipeline the job needs: it follows from the images that its prompts have."""
        return task_of(self.prompts.mapped.images)

    def _wrong_columns(self) -> list[InitErrorDetails]:
        columns, wrong = self.prompts.columns, []
        if columns.mask is not None and columns.image is None:
            hint = "A mask says what of an image is drawn anew: name the column of the images too."
            fields = "prompts.columns.image prompts.columns.mask"
            wrong.append(broken_rule(("prompts", "columns", "image"), "a column's name", "null", hint, fields))
        wrong += self._without_images() if columns.image is None else []
        wrong += self._without_masks() if columns.mask is None else []
        wrong += self._without_adapters() if columns.adapter is not None else []
        wrong += self._wrong_references()
        return wrong + (self._wrong_maps() if self._controlled else self._without_nets())

    def _without_images(self) -> list[InitErrorDetails]:
        hint = "It is about input images: name their column in `prompts.columns.image`."
        fields = INPUT_FIELDS if self.prompts.columns.control_image is None else INPUT_FIELDS - {"fit"}
        strength = [("prompts", "columns", "strength")] if self.prompts.columns.strength is not None else []
        places = [*self._set(fields), *strength]
        return [_needs(loc, "prompts.columns.image", hint) for loc in places]

    def _without_masks(self) -> list[InitErrorDetails]:
        hint = "It is about masks: name their column in `prompts.columns.mask`."
        return [_needs(loc, "prompts.columns.mask", hint) for loc in self._set(MASK_FIELDS)]

    @property
    def treats_masks(self) -> bool:
        """Whether it says how masks are blurred or cropped to."""
        return bool(self._set(MASK_FIELDS))

    def _without_adapters(self) -> list[InitErrorDetails]:
        if any(isinstance(model, Model) and model.adapters for _, model in self._models()):
            return []
        hint = "It chooses among adapters: name them in `model.adapters`."
        return [_needs(("prompts", "columns", "adapter"), "model.adapters", hint)]

    def _without_nets(self) -> list[InitErrorDetails]:
        hint = "It is about ControlNets: name them in `model.controlnets`."
        column: list[tuple[str, ...]] = (
            [("prompts", "columns", CONTROL)] if self.prompts.columns.control_image is not None else []
        )
        column += self._own_columns(CONTROL_FIELDS)
        return [_needs(loc, "model.controlnets", hint) for loc in [*self._set(CONTROL_FIELDS), *column]]

    def _wrong_references(self) -> list[InitErrorDetails]:
        """Whether an IP-Adapter has its images, and images an IP-Adapter."""
        given, loc = self.prompts.columns.reference_image, ("prompts", "columns", REFERENCE)
        if any(isinstance(model, Model) and model.ip_adapter for _, model in self._models()):
            hint = "An IP-Adapter looks at an image: name the column of those images."
            fields = "prompts.columns.reference_image model.ip_adapter"
            return [] if given else [broken_rule(loc, "a column's name", "null", hint, fields)]
        hint = "It is about reference images, which need an IP-Adapter or Flux Redux: name it in `model.ip_adapter`."
        places = [*self._set(REFERENCE_FIELDS), *self._own_columns(REFERENCE_FIELDS), *([loc] if given else [])]
        return [_needs(place, "model.ip_adapter", hint) for place in places]

    def _own_columns(self, fields: frozenset[str]) -> list[tuple[str, ...]]:
        return [("prompts", "columns", name) for name in self.prompts.columns.steering if name in fields]

    def _set(self, fields: frozenset[str]) -> list[tuple[str, ...]]:
        """Where the job sets one of these fields of `generation`."""
        given = [(name, each.given().keys()) for name, each in self.sweep.presets.items()]
        return [
            *(("generation", field) for field in fields if getattr(self.generation, field) is not None),
            *(("sweep", field) for field in fields if field in self.sweep.axes()),
            *(("sweep", PRESETS, name, field) for name, own in given for field in sorted(fields & own)),
        ]

    @property
    def adapters_by_row(self) -> bool:
        """Whether rows choose among the adapters of the model, by a column or by tags in their prompts."""
        given = any(isinstance(model, Model) and model.adapters for _, model in self._models())
        return given and (self.prompts.mapped.adapter is not None or self.prompts.syntax is not None)

    @property
    def _controlled(self) -> bool:
        return any(isinstance(model, Model) and model.controlnets for _, model in self._models())

    def _wrong_maps(self) -> list[InitErrorDetails]:
        """Whether every ControlNet has its image, and every named image its ControlNet."""
        nets = {net.name for _, model in self._models() if isinstance(model, Model) for net in model.controlnets}
        given, loc = self.prompts.columns.control_image, ("prompts", "columns", CONTROL)
        fields = "prompts.columns.control_image model.controlnets"
        if given is None:
            hint = "A ControlNet draws along an image: name the column of those images."
            return [broken_rule(loc, "a column's name", "null", hint, fields)]
        if isinstance(given, str) or given.keys() == nets:
            return []
        expected, hint = f"a column for each of {', '.join(sorted(nets))}", "One column's name serves them all."
        return [broken_rule(loc, expected, ", ".join(sorted(given)), hint, fields)]

    def _models(self) -> Iterator[tuple[tuple[str | int, ...], str | Model]]:
        """Every model that is written in the job, with its place."""
        yield ("model",), self.model
        yield from ((("sweep", "model", i), value) for i, value in enumerate(self.sweep.axes().get("model", ())))
        for name, each in self.sweep.presets.items():
            if "model" in each.given():
                yield ("sweep", PRESETS, name, "model"), each.given()["model"]

    def _wrong_additions(self) -> list[InitErrorDetails]:
        # Not a rule of Model: a union whose member has one loses the place of what is wrong in it.
        return [
            broken_rule((*loc, kind, i, "name"), "names that differ", f"{names[i]!r} twice", "Give each its own.", "")
            for loc, model in self._models()
            if isinstance(model, Model)
            for kind, names in (
                ("adapters", [each.name for each in model.adapters]),
                ("controlnets", [each.name for each in model.controlnets]),
            )
            for i, _ in repeats(names)
        ]


def _needs(loc: tuple[str, ...], field: str, hint: str) -> InitErrorDetails:
    return broken_rule(loc, f"nothing without `{field}`", f"`{loc[-1]}`", hint, field)
