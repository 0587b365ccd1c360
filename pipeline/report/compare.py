"""Two datasets on the prompts they share: the same statistics, the same page, and what differs in the jobs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pyarrow.compute as pc

from promptmill.pipeline.dataset.images import readable_images
from promptmill.pipeline.dataset.samples import REJECTED, plain
from promptmill.pipeline.dataset.selections import read_selected
from promptmill.pipeline.display import redact
from promptmill.pipeline.planning.fingerprint import differing_fields
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.planning.variants import shown_value
from promptmill.pipeline.report.analysis import analyse
from promptmill.pipeline.report.build import summarized, write_numbers, write_page
from promptmill.pipeline.report.cost import run_facts
from promptmill.pipeline.report.frame import Frame
from promptmill.pipeline.report.page_data import MAX_SHOWN
from promptmill.pipeline.report.pairing import SIDES, Side, answers, joined_frame
from promptmill.pipeline.report.stats import Integers
from promptmill.pipeline.report.summary import summarize
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.checked import checked
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.reports import CompareResult, MetricAnswer, Overview, VariantAnswer

_BESIDE = (MetricAnswer, VariantAnswer)
"""Whose fields stand beside the names of the two in `summary.json`."""
_COUNTS = ("samples", "kept", "rejected", "failed", "made", "shards", "shards_done")


Views = tuple[str | None, str | None]
"""Names of selections of the two, None for all that was made."""


def _side(label: str, plan: Plan, store: Store, selection: str | None) -> Side:
    """With a selection only the images that it keeps."""
    plan, samples = read_selected(plan, store, selection)
    if selection is not None:
        samples = replace(samples, table=samples.table.filter(pc.not_equal(samples.table.column("status"), REJECTED)))
    return Side(label, plan, store, samples)


def compare_datasets(
    first: tuple[Plan, Store], second: tuple[Plan, Store], out: Store, selections: Views = (None, None)
) -> CompareResult:
    """Writes `index.html`, `summary.json` and what the page loads to `out`; returns the summary.

    Prompts are matched by their text. Raises JobError where the two have none in common.
    """
    labels = _labels(first[1].url, second[1].url)
    sides = zip(labels, (first, second), selections, strict=True)
    a, b = (_side(label, *one, view) for label, one, view in sides)
    shared = _shared_prompts(a, b)
    frame = joined_frame(a, b, shared)
    urls = {side.label: redact(side.store.url) for side in (a, b)}
    analysis = analyse(frame, urls[a.label], lambda text: urls[json.loads(text)["run"]])
    analysis = replace(analysis, same_seeds=a.plan.job.seed == b.plan.job.seed, answers=answers(frame))
    fields = _job_differences(a, b)
    differences = [{"field": name, "names": labels, "a": _short(x), "b": _short(y)} for name, x, y in fields]
    found = {
        **vars(_overview(a, b)),
        "runs": urls,
        "shared_prompts": len(shared),
        "same_seeds": analysis.same_seeds,
        "answers": analysis.answers,
        "cells": analysis.cells,
        "metrics": summarized(analysis),
        "differences": [{"field": row["field"], labels[0]: row["a"], labels[1]: row["b"]} for row in differences],
        "selection": None,
    }
    result = checked(CompareResult, plain(found))

    def read(key: str, rows: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        side, _, inner = key.partition(":")
        return readable_images(a.store if side == SIDES[0] else b.store, result.problems, inner, rows)

    write_page(frame, analysis, _whole_prompts(frame), read, out.put, summary=result, differences=differences)
    write_numbers(out.put, analysis, result)
    return result


def _shared_prompts(a: Side, b: Side) -> set[str]:
    """Raises JobError where there are none."""
    ours, theirs = (set(side.samples.texts("prompt")) for side in (a, b))
    if not ours & theirs:
        hint = f"{len(ours)} prompts there, {len(theirs)} in the other"
        raise JobError(Problem(f"{a.store.url} and {b.store.url}", "prompts that both have", "none", hint))
    return ours & theirs


def _labels(first: str, second: str) -> tuple[str, str]:
    """The last parts of the URLs where they differ, else A and B; our own words beside them are no names."""
    a, b = (redact(url).rstrip("/").rpartition("/")[2] for url in (first, second))
    clear = a and b and a != b and not {"field", *(f.name for kind in _BESIDE for f in fields(kind))} & {a, b}
    return (a, b) if clear else SIDES


def _job_differences(a: Side, b: Side) -> list[tuple[str, Any, Any]]:
    """Fields of the jobs that differ, without values that no image used because the field was swept."""
    swept = [side.plan.job.sweep.axes() for side in (a, b)]
    found = []
    for name, *values in differing_fields(a.plan.fields, b.plan.fields):
        axis = name.removeprefix("generation.").partition(".")[0]
        if not name.startswith(("generation.", "model.")):
            found.append((name, *values))
        elif not all(axis in axes for axes in swept):
            shown = [_swept(axes[axis]) if axis in axes else value for axes, value in zip(swept, values, strict=True)]
            found.append((name, *shown))
    return [(name, x, y) for name, x, y in found]


def _swept(values: Sequence[Any]) -> str:
    return "swept: " + ", ".join(str(shown_value(value)) for value in values)


def _whole_prompts(frame: Frame) -> Integers:
    """All rows, or those of the first prompts so many that the gallery holds them."""
    count = np.bincount(frame.prompts, minlength=len(frame.prompt_ids))
    shown = np.cumsum(count) <= MAX_SHOWN
    return np.flatnonzero(shown[frame.prompts])


def _overview(a: Side, b: Side) -> Overview:
    """What the head of the page shows: counts of both together."""
    one, two = (summarize(side.plan, side.samples, side.store.url) for side in (a, b))
    return replace(
        one,
        **{name: getattr(one, name) + getattr(two, name) for name in (*_COUNTS, "problems")},
        name=f"{a.label} and {b.label}",
        url=f"{one.url} and {two.url}",
        fingerprint=f"{one.fingerprint} and {two.fingerprint}",
        finished=one.finished and two.finished,
        prompts=len(set(a.samples.texts("prompt")) & set(b.samples.texts("prompt"))),
        failures=_added(one.failures, two.failures),
        rejects=_added(one.rejects, two.rejects),
        best=[],
        worst=[],
        run=run_facts((*a.samples.receipts, *b.samples.receipts), None),
    )


def _added(first: dict[str, int], second: dict[str, int]) -> dict[str, int]:
    return {name: first.get(name, 0) + second.get(name, 0) for name in {**first, **second}}


def _short(value: Any) -> str:
    text = "–" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:197] + "…"
