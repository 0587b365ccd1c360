"""The `sweep` of a job: axes as lists or ranges, presets, and the variants left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic_core import InitErrorDetails

from promptmill.schemas.grid import Grid
from promptmill.schemas.rules import StrictModel, broken_rule, raise_all, repeats

MAX_RANGE = 10_000
"""Values of one range: an axis is held in memory, variants are not."""
_SHOWN = 8
_AXIS = "axis"
"""Marks the fields of a sweep that are axes."""


class Range(StrictModel):
    """Evenly spaced numbers from `from` to `to`, in exact decimal arithmetic."""

    start: float = Field(alias="from")
    """The first number."""
    to: float
    """The last one where the step meets it; no number lies beyond."""
    step: float | None = None
    """Distance of neighbours, below 0 to count down."""
    count: Annotated[int, Field(ge=2, le=MAX_RANGE)] | None = None
    """How many numbers, in place of `step`; the first is `from`, the last is `to`."""

    @model_validator(mode="after")
    def _has_values(self) -> Self:
        up = self.to >= self.start
        found: list[InitErrorDetails] = []
        if (self.step is None) == (self.count is None):
            got = "neither" if self.step is None else "both"
            found.append(broken_rule(() if self.step is None else ("count",), "either `step` or `count`", got, "", ""))
        elif self.step is not None and (self.step == 0 or (self.step > 0) != up):
            expected = "a number above 0" if up else "a number below 0, because `to` is below `from`"
            found.append(broken_rule(("step",), expected, self.step, "With this step the range has no values.", ""))
        elif self.count is not None and self.to == self.start:
            found.append(broken_rule(("to",), "another number than `from`", self.to, "", ""))
        elif self._length() > MAX_RANGE:
            found.append(broken_rule((), f"at most {MAX_RANGE:,} values", f"{self._length():,}", "Widen the step.", ""))
        raise_all(found)
        return self

    def _spacing(self) -> Fraction:
        if self.count is not None:
            return (_exact(self.to) - _exact(self.start)) / (self.count - 1)
        return _exact(self.step or 0.0)

    def _length(self) -> int:
        return int((_exact(self.to) - _exact(self.start)) / self._spacing()) + 1

    def values(self) -> list[int | float]:
        """Whole numbers as integers."""
        exact = (_exact(self.start) + i * self._spacing() for i in range(self._length()))
        return [int(value) if value.denominator == 1 else float(value) for value in exact]


def _exact(value: float) -> Fraction:
    # The decimal that was written, not its nearest binary number: three steps of 0.1 are 0.3.
    return Fraction(repr(value))


def axis(annotation: Any) -> Any:
    """Field definition of an axis for values of this type: a list, for numbers also a range."""
    # strict=False lets a YAML list become a tuple; the elements stay strict.
    listed = Annotated[tuple[annotation, ...], Field(min_length=1, strict=False)]
    element = TypeAdapter(annotation, config=ConfigDict(strict=True))
    described = element.json_schema()
    if not {"integer", "number"} & {each.get("type") for each in (described, *described.get("anyOf", ()))}:
        return (Annotated[listed | None, _AXIS], None)
    either = listed | Range | None
    return (Annotated[listed | None, BeforeValidator(_expander(element), json_schema_input_type=either), _AXIS], None)


def _expander(element: TypeAdapter[Any]) -> Callable[[Any], Any]:
    def expand(value: Any) -> Any:
        """The numbers of a range, each held against the field's type; other values as they are."""
        if not isinstance(value, dict):
            return value
        numbers = Range.model_validate(value).values()
        for place, number in enumerate(numbers, 1):
            try:
                element.validate_python(number)
            except ValidationError as error:
                expected = error.errors()[0]["msg"].removeprefix("Input should be ")
                got = f"{number}, number {place} of the range"
                raise_all([broken_rule((), f"numbers that the field takes ({expected})", got, "", "")])
        return numbers

    return expand


class Partial(StrictModel):
    """Some fields of a variant; those that are not given stay as the job has them."""

    def given(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}

    @model_serializer(mode="wrap")
    def _only_given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        dumped = handler(self)
        return {name: dumped[name] for name in self.given()}


PRESETS = "settings"
"""The key of presets in the job file and in a record's `variant`."""


class SweepAxes(StrictModel):
    """`settings` in the file, `presets` in here: names, each with fields that go together."""

    if TYPE_CHECKING:
        settings: Mapping[str, Partial] | None = None
        exclude: tuple[Partial, ...] = ()

    @property
    def presets(self) -> Mapping[str, Partial]:
        return self.settings or {}

    def axes(self) -> dict[str, tuple[Any, ...]]:
        """The axes in use and their values; of presets the names. All variants of one model are neighbours."""
        return self._axes

    @cached_property
    def _axes(self) -> dict[str, tuple[Any, ...]]:
        fields = type(self).model_fields.items()
        axes = {name: getattr(self, name) for name, field in fields if name == PRESETS or _AXIS in field.metadata}
        if self.presets:
            models = [_comparable(each.given().get("model")) for each in self.presets.values()]
            first = dict(zip(self.presets, map(models.index, models), strict=True))
            axes[PRESETS] = tuple(sorted(self.presets, key=first.__getitem__))
        return {name: values for name, values in axes.items() if values is not None}

    @cached_property
    def grid(self) -> Grid:
        exclusions = (_matching(self.axes(), each.given()) for each in self.exclude)
        return Grid(tuple(map(len, self.axes().values())), tuple(exclusions))

    def values_of(self, field: str, default: Any) -> Iterator[tuple[str, Any]]:
        """Every value that variants have for a field, each with its place in the job; `default` where one has none."""
        if field in self.axes():
            yield from ((f"sweep.{field}", value) for value in self.axes()[field])
            return
        presets = {name: each.given() for name, each in self.presets.items()}
        yield from (
            (f"sweep.{PRESETS}.{name}.{field}", given[field]) for name, given in presets.items() if field in given
        )
        if not presets or any(field not in given for given in presets.values()):
            yield field if field == "model" else f"generation.{field}", default

    @model_validator(mode="after")
    def _sound(self) -> Self:
        raise_all([*self._equal_values(), *self._doubled_fields()])
        raise_all(list(self._odd_exclusions()))
        if self.exclude and self.grid.cells == 0:
            every = Grid(self.grid.sizes).cells
            raise_all([broken_rule(("exclude",), "at least one variant to be left", f"none of {every:,}", "", "sweep")])
        return self

    def _equal_values(self) -> Iterator[InitErrorDetails]:
        for name, values in self.axes().items():
            for index, first in repeats(map(_comparable, values)):
                shown = repr(values[index]) if isinstance(values[index], str) else values[index]
                hint = f"It equals number {first + 1} of the list; remove one of the two."
                yield broken_rule((name, index), "values that differ", shown, hint, f"sweep.{name}")
        presets = list(self.presets.items())
        fields = [tuple((field, _comparable(value)) for field, value in each.given().items()) for _, each in presets]
        for index, first in repeats(fields):
            got = f"those of {presets[first][0]!r}"
            yield broken_rule(
                (PRESETS, presets[index][0]), "settings that differ", got, "Remove one of the two.", "sweep"
            )

    def _doubled_fields(self) -> Iterator[InitErrorDetails]:
        hint = "A field is an axis of its own, or part of named settings."
        for name, each in self.presets.items():
            for field in each.given().keys() & self.axes().keys():
                fields = f"sweep.{PRESETS} sweep.{field}"
                yield broken_rule((PRESETS, name, field), "a field that is no axis", f"`{field}`", hint, fields)

    def _odd_exclusions(self) -> Iterator[InitErrorDetails]:
        axes = self.axes()
        in_presets = {field for each in self.presets.values() for field in each.given()}
        for number, each in enumerate(self.exclude):
            if not each.given():
                hint = "It would leave out every variant."
                yield broken_rule(("exclude", number), "at least one field", "an empty mapping", hint, "sweep")
            for field, value in each.given().items():
                loc = ("exclude", number, field)
                if field not in axes:
                    hint = "Name the settings it is part of: `settings: …`." if field in in_presets else ""
                    expected = f"a field that is swept ({', '.join(axes) or 'this job has none'})"
                    yield broken_rule(loc, expected, f"`{field}`", hint, "sweep")
                elif not _places(axes[field], value):
                    shown = [str(getattr(each, "path", each)) for each in axes[field]]
                    several = ", ".join(shown[:_SHOWN]) + (", …" if len(shown) > _SHOWN else "")
                    hint = "It would leave out nothing."
                    yield broken_rule(loc, f"a value of that axis ({several})", repr(value), hint, "sweep")


def _comparable(value: Any) -> Any:
    """A model of which only the path is given equals that path, and one that only lies elsewhere equals it too."""
    if isinstance(value, BaseModel):
        value = getattr(value, "as_drawn", value)
        path = getattr(value, "path", None)
        return path if value == type(value)(path=path) else value
    return value


def _places(values: tuple[Any, ...], wanted: Any) -> frozenset[int]:
    """Where on an axis a value stands; a model's path stands for all models with that path."""
    found = (i for i, value in enumerate(values) if wanted in (value, getattr(value, "path", value)))
    return frozenset(found)


def _matching(axes: Mapping[str, tuple[Any, ...]], given: Mapping[str, Any]) -> tuple[frozenset[int] | None, ...]:
    return tuple(_places(values, given[name]) if name in given else None for name, values in axes.items())
