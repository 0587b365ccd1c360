"""Two datasets as one frame over the prompts they share, and what variant by variant differs between them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from promptmill.pipeline.dataset.samples import SOURCE_PREFIX, Samples, joined
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.planning.variants import shown_value, variant_name
from promptmill.pipeline.report.analysis import numbers, settings_of, triple
from promptmill.pipeline.report.cost import seconds_per_image
from promptmill.pipeline.report.frame import Frame, coded, frame_of
from promptmill.pipeline.report.stats import differences, holm, means, variant_matrix
from promptmill.pipeline.report.summary import variant_texts
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.identity import canonical_json
from promptmill.schemas.reports import Difference, Interval, MetricAnswer, VariantAnswer
from promptmill.schemas.sweep import PRESETS

SIDES = ("A", "B")


@dataclass(frozen=True)
class Side:
    label: str
    plan: Plan
    store: Store
    samples: Samples


def joined_frame(a: Side, b: Side, shared: set[str]) -> Frame:
    """One frame over both, whose first axis is the run; a prompt is its text."""
    axes = [name for name in {**a.plan.job.sweep.axes(), **b.plan.job.sweep.axes()} if name != PRESETS]
    tables = [_renamed(side, letter, shared, axes) for side, letter in zip((a, b), SIDES, strict=True)]
    one_sided = set(a.samples.source_columns) ^ set(b.samples.source_columns)
    samples = Samples(joined(tables).drop_columns([f"{SOURCE_PREFIX}{name}" for name in one_sided]), {})
    prompt_ids, prompts = coded(samples.texts("prompt"))
    texts = [_with_run(side, text, axes) for side in (a, b) for text in variant_texts(side.plan, side.samples)]
    seconds = {
        _with_run(side, text, axes): spent
        for side in (a, b)
        for text, spent in seconds_per_image(side.plan, side.samples.receipts).items()
    }
    frame = frame_of(samples, prompt_ids, prompts, texts, _axes(a, b, texts), seconds)
    lowest = (each.plan.lowest_is_best | each.samples.lowest_is_best for each in (a, b))
    return replace(frame, lowest_is_best=frozenset().union(*lowest))


def _renamed(side: Side, letter: str, shared: set[str], axes: Sequence[str]) -> pa.Table:
    table = side.samples.table
    table = table.filter(pc.is_in(table.column("prompt"), value_set=pa.array(sorted(shared))))
    columns = {
        "variant": [_with_run(side, str(text), axes) for text in table.column("variant").to_pylist()],
        "object": [f"{letter}:{key}" for key in table.column("object").to_pylist()],
    }
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values, pa.string()))
    return table


def _with_run(side: Side, text: str, axes: Sequence[str]) -> str:
    """The variant with its run, and with the value it used of each field that the other run sweeps."""
    values = json.loads(text)
    return canonical_json({"run": side.label, **{name: base_value(side.plan, name) for name in axes}, **values})


def base_value(plan: Plan, name: str) -> Any:
    """What images used of a field that is not swept; where the job leaves it open, what the model has."""
    if name == "model":
        return shown_value(plan.job.model)
    value = getattr(plan.job.generation, name, None)
    model = plan.variant(0).model
    return value if value is not None else getattr(model, name, None)


def _axes(a: Side, b: Side, texts: Sequence[str]) -> dict[str, list[Any]]:
    axes: dict[str, list[Any]] = {"run": [a.label, b.label]}
    names = {name for text in texts for name in json.loads(text)} - {"run"}
    for name in sorted(names):
        values = (shown_value(json.loads(text).get(name)) for text in texts)
        axes[name] = list({canonical_json(value): value for value in values}.values())
    return axes


@dataclass(frozen=True)
class Pair:
    """A variant that both runs have, and its place in each."""

    name: str
    places: tuple[int, int]


def pairs(frame: Frame) -> list[Pair]:
    """Variants that ran with the same settings; where there are none, those with the same swept values."""
    variants = [json.loads(text) for text in frame.variant_texts]
    runs = frame.axes["run"]
    without_run = [{name: value for name, value in variant.items() if name != "run"} for variant in variants]
    ran = [canonical_json(settings_of(frame, place)) for place in range(len(variants))]
    swept = [canonical_json({name: shown_value(v) for name, v in variant.items()}) for variant in without_run]
    for keys in ([f"{one}{two}" for one, two in zip(ran, swept, strict=True)], ran, swept):
        of_run = [{keys[i]: i for i, variant in enumerate(variants) if variant["run"] == run} for run in runs]
        common = [key for key in of_run[0] if key in of_run[1]]
        if common:
            return [Pair(variant_name(without_run[of_run[0][k]]), (of_run[0][k], of_run[1][k])) for k in common]
    return []


def answers(frame: Frame) -> dict[str, MetricAnswer]:
    """By metric the means of both runs and B − A, paired by prompt: [mean, low, high, prompts] and the p of none.

    `cells` has them for each variant that both runs have, with `holm`, the p raised for their number. Above them stands
    what holds over these together, or over all variants of each run where they share none.
    """
    runs = frame.axes["run"]
    common = pairs(frame)
    run_of = [runs.index(json.loads(text)["run"]) for text in frame.variant_texts]
    inside = {place for pair in common for place in pair.places} or set(range(len(run_of)))
    side = np.array([run if place in inside else -1 for place, run in enumerate(run_of)])[frame.variant_of]
    found = {}
    for metric in frame.metrics():
        scores = np.where(side >= 0, frame.samples.score(metric), np.nan)
        whole = variant_matrix(scores, frame.prompts, np.maximum(side, 0), (len(frame.prompt_ids), 2))
        bounds, matrix = frame.bounds(metric), frame.matrix(metric)
        both = [_both(matrix[:, list(pair.places)], bounds, runs) for pair in common]
        raised = holm([difference[4] for _, difference in both])
        by_variant = [
            VariantAnswer(pair.name, *numbers, p) for pair, numbers, p in zip(common, both, raised, strict=True)
        ]
        found[metric] = MetricAnswer(*_both(whole, bounds, runs), len(common), by_variant)
    return found


def _both(
    matrix: Any, bounds: tuple[float, float] | None, runs: Sequence[str]
) -> tuple[dict[str, Interval], Difference]:
    """Of each run the mean, and B − A."""
    average = [triple(one) for one in means(matrix, bounds)]
    return dict(zip(runs, average, strict=True)), numbers(differences(matrix, [0], bounds)[0][1])
