"""Which setting is better, on what kind of prompt, by how much, and how sure is that: as plain JSON for the page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from promptmill.pipeline.dataset.samples import FAILED, Samples
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.planning.variants import cell_name, model_name
from promptmill.pipeline.report.stats import (
    Estimate,
    Floats,
    Integers,
    cell_matrix,
    differences,
    means,
    rank_correlation,
)
from promptmill.pipeline.report.summary import cell_texts, seconds_per_image, status_counts
from promptmill.schemas.job import LOWER_IS_BETTER, Model

MAX_CELLS = 60
"""Of a larger sweep the page compares the best so many by the first metric; `summary.json` lists all."""

ALL_BASELINES = 12
"""Up to so many cells each can be chosen as baseline on the page; of more, only the first."""

FACET_VALUES = 40
FACETS = 6
BOUNDS = {"verified": (0.0, 1.0), "verified_share": (0.0, 1.0), "near_black": (0.0, 1.0)}


@dataclass(frozen=True)
class Frame:
    """The samples as numbers: prompt and cell of each, int64 [rows].

    `facets` are columns that sort prompts into kinds: their values, and which of them each sample has. `axes` are the
    swept fields with their values, `seconds` what an image takes, by the text of the cell.
    """

    samples: Samples
    prompt_ids: list[str]
    prompts: Integers
    cells: Integers
    cell_texts: list[str]
    facets: dict[str, tuple[list[str], Integers]]
    axes: dict[str, list[Any]]
    seconds: dict[str, float]

    @cached_property
    def status(self) -> list[str]:
        return self.samples.texts("status")

    @cached_property
    def counts(self) -> list[dict[str, int]]:
        return status_counts(self.samples, self.cells, len(self.cell_texts))

    def metrics(self) -> list[str]:
        """Those with a finite value; the exact one first."""
        names = [name for name in self.samples.score_names if np.isfinite(self.samples.score(name)).any()]
        return sorted(names, key=lambda name: name != "verified")

    def matrix(self, metric: str) -> Floats:
        shape = (len(self.prompt_ids), len(self.cell_texts))
        return cell_matrix(self.samples.score(metric), self.prompts, self.cells, shape)


def make_frame(plan: Plan, samples: Samples) -> Frame:
    prompt_ids, prompts = coded(samples.texts("prompt_id"))
    texts = cell_texts(plan, samples)
    axes = {name: [shown_value(value) for value in values] for name, values in plan.job.sweep.axes().items()}
    return frame_of(samples, prompt_ids, prompts, texts, axes, seconds_per_image(plan, samples.receipts))


def frame_of(
    samples: Samples,
    prompt_ids: list[str],
    prompts: Integers,
    texts: list[str],
    axes: dict[str, list[Any]],
    seconds: dict[str, float],
) -> Frame:
    place = {text: i for i, text in enumerate(texts)}
    cells = np.array([place[text] for text in samples.texts("variant")], np.int64)
    return Frame(samples, prompt_ids, prompts, cells, texts, _facets(samples), axes, seconds)


def coded(values: Sequence[str]) -> tuple[list[str], Integers]:
    """Distinct values in order of appearance, and which of them each is."""
    place: dict[str, int] = {}
    codes = [place.setdefault(value, len(place)) for value in values]
    return list(place), np.array(codes, np.int64)


def _facets(samples: Samples) -> dict[str, tuple[list[str], Integers]]:
    """Source columns of text, truth values or integers that take 2 to 40 values, most of them more than once."""
    found: dict[str, tuple[list[str], Integers]] = {}
    prompts = len(set(samples.texts("prompt_id")))
    for name in samples.source_columns:
        kind = samples.table.schema.field(name).type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        if not (
            pa.types.is_string(kind)
            or pa.types.is_large_string(kind)
            or pa.types.is_boolean(kind)
            or pa.types.is_integer(kind)
        ):
            continue
        values, codes = coded([text[:80] for text in samples.texts(name)])
        if 2 <= len(values) <= min(FACET_VALUES, max(2, prompts // 2)) and len(found) < FACETS:
            found[name] = (values, codes)
    return found


def analyse(frame: Frame) -> dict[str, Any]:
    """Cells, metrics, and for each metric the estimates over all prompts and over each kind of prompt."""
    metrics = frame.metrics()
    shown = _shown_cells(frame, metrics)
    return {
        "cell_texts": [frame.cell_texts[index] for index in shown],
        "cells": [_cell(frame, index) for index in shown],
        "made": sum(status != FAILED for status in frame.status),
        "cells_left_out": len(frame.cell_texts) - len(shown),
        "axes": frame.axes,
        "metrics": [
            {
                "name": name,
                "lower_is_better": name in LOWER_IS_BETTER,
                "bounds": BOUNDS.get(name),
                "images": int(np.isfinite(frame.samples.score(name)).sum()),
            }
            for name in metrics
        ],
        "facets": {name: values for name, (values, _) in frame.facets.items()},
        "results": {name: _compare(frame, name, shown) for name in metrics},
        "correlations": _correlations(frame, metrics),
        "baselines": len(shown) if len(shown) <= ALL_BASELINES else 1,
    }


def _shown_cells(frame: Frame, metrics: Sequence[str]) -> list[int]:
    every = range(len(frame.cell_texts))
    if len(every) <= MAX_CELLS or not metrics:
        return list(every)[:MAX_CELLS]
    sign = 1 if metrics[0] in LOWER_IS_BETTER else -1
    average = [np.nan if not np.isfinite(c).any() else float(np.nanmean(c)) for c in frame.matrix(metrics[0]).T]
    best = sorted(every[1:], key=lambda i: sign * average[i] if np.isfinite(average[i]) else np.inf)
    return [0, *sorted(best[: MAX_CELLS - 1])]


def _cell(frame: Frame, index: int) -> dict[str, Any]:
    text = frame.cell_texts[index]
    values = json.loads(text)
    return {
        "name": cell_name(values),
        "values": {name: shown_value(value) for name, value in values.items()},
        "settings": settings_of(frame, index),
        **frame.counts[index],
        "seconds": frame.seconds.get(text),
    }


def settings_of(frame: Frame, index: int) -> dict[str, Any]:
    """From the first row of the cell that has them, so that they are those that ran."""
    rows = np.flatnonzero(frame.cells == index)
    table = frame.samples.table
    names = ("model", "model_revision", "pipeline_class", "scheduler", "dtype", "num_inference_steps", "guidance_scale")
    sizes = ("width", "height")
    found: dict[str, Any] = {}
    for name in (n for n in (*names, *sizes) if n in table.column_names):
        column = table.column(name).take(pa.array(rows[:50]))
        found[name] = next((value for value in column.to_pylist() if value is not None), None)
    return {name: value for name, value in found.items() if value is not None}


def shown_value(value: Any) -> Any:
    """A model by name; other values as they are."""
    if isinstance(value, Model):
        value = value.model_dump(exclude_defaults=True)
    return model_name(value) if isinstance(value, dict) else value


def _compare(frame: Frame, metric: str, shown: Sequence[int]) -> dict[str, Any]:
    matrix = frame.matrix(metric)[:, list(shown)]
    bounds = BOUNDS.get(metric)
    baselines = len(shown) if len(shown) <= ALL_BASELINES else 1
    return {
        "all": _group(matrix, bounds, baselines),
        "facets": {
            name: [_group(matrix[rows], bounds, baselines) for rows in _rows_of_values(frame, name)]
            for name in frame.facets
        },
    }


def _rows_of_values(frame: Frame, facet: str) -> list[Integers]:
    """For each value of the facet the rows of the prompt × cell matrix that have it."""
    values, codes = frame.facets[facet]
    of_prompt = np.zeros(len(frame.prompt_ids), np.int64)
    of_prompt[frame.prompts] = codes
    return [np.flatnonzero(of_prompt == i) for i in range(len(values))]


def _group(matrix: Floats, bounds: tuple[float, float] | None, baselines: int) -> dict[str, Any]:
    return {
        "means": [triple(one) for one in means(matrix, bounds)],
        "differences": [[triple(e) for e in row] for row in differences(matrix, range(baselines), bounds)],
    }


def triple(one: Estimate) -> list[float | None]:
    """[mean, low, high, prompts] with six digits. What is left of sums that cancel is 0 and has no sign."""
    return [*(v if v is None else _short(v) for v in (one.mean, one.low, one.high)), one.n]


def _short(value: float) -> float:
    return float(f"{value:.6g}") if abs(value) > 1e-12 else 0.0


def _correlations(frame: Frame, metrics: Sequence[str]) -> list[dict[str, Any]]:
    scores = {name: frame.samples.score(name) for name in metrics[:8]}
    names = list(scores)
    return [
        {"a": a, "b": b, "spearman": triple(rank_correlation(scores[a], scores[b], frame.prompts))}
        for i, a in enumerate(names)
        for b in names[i + 1 :]
    ]
