"""Which variant is better, on what kind of prompt, by how much, and how sure is that: the numbers of the page."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from promptmill.pipeline.dataset.samples import FAILED
from promptmill.pipeline.planning.variants import shown_value, variant_name
from promptmill.pipeline.report.frame import Bounds, Frame
from promptmill.pipeline.report.shares import Floats
from promptmill.pipeline.report.stats import Estimate, Integers, differences, means, rank_correlation
from promptmill.schemas.columns import of_kind
from promptmill.schemas.identity import canonical_json
from promptmill.schemas.reports import (
    ComparedVariant,
    Correlation,
    Difference,
    Interval,
    MainEffect,
    MetricAnswer,
)

MAX_CELLS = 60
"""Of a larger sweep the page compares the best so many by the first metric; `summary.json` lists all."""

ALL_BASELINES = 12
"""Up to so many variants the kinds of prompts are compared with each; of more, with the first and the best."""


@dataclass(frozen=True)
class Group:
    """Over all prompts, or those of one kind. `differences` are by the number of the baseline, as text."""

    means: list[Interval]
    differences: dict[str, list[Difference]]


@dataclass(frozen=True)
class Metric:
    name: str
    lower_is_better: bool
    bounds: Bounds
    images: int


@dataclass(frozen=True)
class MetricResult:
    """`facets` has a group for each value of each kind of prompt, `main_effects` are by axis."""

    all: Group
    facets: dict[str, list[Group]]
    main_effects: dict[str, MainEffect]


@dataclass(frozen=True)
class Analysis:
    """What the page's plots and tables are made of. `cells` are the variants shown, `cell_texts` their records' texts;
    the last four are said by those who write the page."""

    cell_texts: list[str]
    cells: list[ComparedVariant]
    made: int
    cells_left_out: int
    axes: dict[str, list[Any]]
    metrics: list[Metric]
    facets: dict[str, list[str]]
    results: dict[str, MetricResult]
    correlations: list[Correlation]
    baselines: int
    url: str
    same_seeds: bool = True
    answers: dict[str, MetricAnswer] = field(default_factory=dict)
    thumb_files: list[str] = field(default_factory=list)


def analyse(frame: Frame, url: str, url_of: Callable[[str], str] | None = None) -> Analysis:
    """Variants, metrics, and for each metric the estimates over all prompts and over each kind of prompt.

    `url` is the dataset's; of several, `url_of` gives it by the text of the variant.
    """
    metrics = frame.metrics()
    shown = _shown_variants(frame, metrics)
    texts = [frame.variant_texts[index] for index in shown]
    return Analysis(
        cell_texts=texts,
        cells=[_variant(frame, i, url_of(text) if url_of else url) for i, text in zip(shown, texts, strict=True)],
        made=sum(status != FAILED for status in frame.status),
        cells_left_out=len(frame.variant_texts) - len(shown),
        axes=frame.axes,
        metrics=[_metric(frame, name) for name in metrics],
        facets={name: values for name, (values, _) in frame.facets.items()},
        results={name: _compare(frame, name, shown) for name in metrics},
        correlations=_correlations(frame, metrics),
        baselines=len(shown),
        url=url,
    )


def _metric(frame: Frame, name: str) -> Metric:
    images = int(np.isfinite(frame.samples.score(name)).sum())
    return Metric(name, name in frame.lowest_is_best, frame.bounds(name), images)


def _shown_variants(frame: Frame, metrics: Sequence[str]) -> list[int]:
    every = range(len(frame.variant_texts))
    if len(every) <= MAX_CELLS or not metrics:
        return list(every)[:MAX_CELLS]
    sign = 1 if metrics[0] in frame.lowest_is_best else -1
    average = [np.nan if not np.isfinite(c).any() else float(np.nanmean(c)) for c in frame.matrix(metrics[0]).T]
    best = sorted(every[1:], key=lambda i: sign * average[i] if np.isfinite(average[i]) else np.inf)
    return [0, *sorted(best[: MAX_CELLS - 1])]


def _variant(frame: Frame, index: int, url: str) -> ComparedVariant:
    text = frame.variant_texts[index]
    values = json.loads(text)
    speed = frame.seconds.get(text)
    return ComparedVariant(
        name=variant_name(values),
        values={name: shown_value(value) for name, value in values.items()},
        settings=settings_of(frame, index),
        **frame.counts[index],
        seconds=None if speed is None else speed.mean,
        seconds_deviation=None if speed is None else speed.deviation,
        url=url,
    )


def settings_of(frame: Frame, index: int) -> dict[str, Any]:
    """From the first row of the variant that has them, so that they are those that ran."""
    rows = np.flatnonzero(frame.variant_of == index)
    table = frame.samples.table
    found: dict[str, Any] = {}
    for name in (name for name in of_kind("setting") if name in table.column_names):
        column = table.column(name).take(pa.array(rows[:50]))
        found[name] = next((value for value in column.to_pylist() if value is not None), None)
    return {name: value for name, value in found.items() if value is not None}


def _compare(frame: Frame, metric: str, shown: Sequence[int]) -> MetricResult:
    """Over all prompts against each variant; by kind, of many variants, against the first and the best."""
    matrix = frame.matrix(metric)[:, list(shown)]
    bounds = frame.bounds(metric)
    every = _group(matrix, bounds, range(len(shown)))
    few = (
        range(len(shown))
        if len(shown) <= ALL_BASELINES
        else sorted({0, best_of(every.means, metric in frame.lowest_is_best)})
    )
    facets = {
        name: [_group(matrix[rows], bounds, few) for rows in _rows_of_values(frame, name)] for name in frame.facets
    }
    return MetricResult(every, facets, main_effects(frame, metric))


def best_of(averages: Sequence[Sequence[float | None]], lowest: bool) -> int:
    """Place of the best mean, the first of equals; 0 where there is none."""
    sign = 1 if lowest else -1
    known = [(sign * one[0], place) for place, one in enumerate(averages) if one[0] is not None]
    return min(known)[1] if known else 0


def main_effects(frame: Frame, metric: str) -> dict[str, MainEffect]:
    """For each axis the mean over all other variants at each of its values, and its difference to the first value.

    Of each prompt the variants of a value are averaged first, so that the difference is paired by prompt. `range` is
    the distance of the best to the worst value.
    """
    matrix = frame.matrix(metric)
    variants = [json.loads(text) for text in frame.variant_texts]
    bounds = frame.bounds(metric)
    found = {}
    for axis, values in frame.axes.items():
        if len(values) < 2:
            continue
        value_of = [canonical_json(shown_value(variant.get(axis))) for variant in variants]
        columns = []
        for value in values:
            here = [place for place, text in enumerate(value_of) if text == canonical_json(value)]
            columns.append(_row_means(matrix[:, here]))
        group = _group(np.stack(columns, axis=1), bounds, range(1))
        averages = [one[0] for one in group.means if one[0] is not None]
        distance = max(averages) - min(averages) if averages else None
        found[axis] = MainEffect(group.means, group.differences, distance)
    return found


def _row_means(matrix: Floats) -> Floats:
    """Of the rows that have a value in every column; a row with gaps would mix variants."""
    if not matrix.shape[1]:
        return np.full(len(matrix), np.nan)
    found: Floats = matrix.mean(axis=1)
    return found


def _rows_of_values(frame: Frame, facet: str) -> list[Integers]:
    """For each value of the facet the rows of the prompt × variant matrix that have it."""
    values, codes = frame.facets[facet]
    of_prompt = np.zeros(len(frame.prompt_ids), np.int64)
    of_prompt[frame.prompts] = codes
    return [np.flatnonzero(of_prompt == i) for i in range(len(values))]


def _group(matrix: Floats, bounds: Bounds, baselines: Sequence[int]) -> Group:
    found = differences(matrix, baselines, bounds)
    return Group(
        [triple(one) for one in means(matrix, bounds)],
        {str(place): [numbers(one) for one in row] for place, row in zip(baselines, found, strict=True)},
    )


def triple(one: Estimate) -> Interval:
    """[mean, low, high, prompts] with six digits. What is left of sums that cancel is 0 and has no sign."""
    return [*(v if v is None else _short(v) for v in (one.mean, one.low, one.high)), one.n]


def numbers(one: Estimate) -> Difference:
    """As `triple`, with the p of no difference behind it."""
    return [*triple(one), None if one.p is None else float(f"{one.p:.3g}")]


def _short(value: float) -> float:
    return float(f"{value:.6g}") if abs(value) > 1e-12 else 0.0


def _correlations(frame: Frame, metrics: Sequence[str]) -> list[Correlation]:
    scores = {name: frame.samples.score(name) for name in metrics[:8]}
    names = list(scores)
    return [
        Correlation(a, b, triple(rank_correlation(scores[a], scores[b], frame.prompts)))
        for i, a in enumerate(names)
        for b in names[i + 1 :]
    ]
