"""Two datasets on the prompts they share: the same statistics, the same page, and what differs in the jobs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from promptmill.pipeline.dataset.images import read_images
from promptmill.pipeline.dataset.samples import Samples, plain, read_dataset
from promptmill.pipeline.display import redact
from promptmill.pipeline.planning.fingerprint import differing_fields
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.report.analysis import (
    BOUNDS,
    Frame,
    analyse,
    coded,
    frame_of,
    settings_of,
    shown_value,
    triple,
)
from promptmill.pipeline.report.build import write_page
from promptmill.pipeline.report.page_data import MAX_SHOWN
from promptmill.pipeline.report.stats import Integers, cell_matrix, differences, means
from promptmill.pipeline.report.summary import cell_texts, run_facts, seconds_per_image, summarize
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.identity import canonical_json

_SIDES = ("A", "B")
_COUNTS = ("samples", "kept", "rejected", "failed", "made", "shards", "shards_done")


@dataclass(frozen=True)
class Side:
    label: str
    plan: Plan
    store: Store
    samples: Samples


def _side(label: str, plan: Plan, store: Store) -> Side:
    plan, samples = read_dataset(plan, store)
    return Side(label, plan, store, samples)


def compare_datasets(first: tuple[Plan, Store], second: tuple[Plan, Store], out: Store) -> dict[str, Any]:
    """Writes `index.html`, `summary.json` and what the page loads to `out`; returns the summary.

    Prompts are matched by their text. Raises JobError where the two have none in common.
    """
    labels = _labels(first[1].url, second[1].url)
    a, b = (_side(label, *one) for label, one in zip(labels, (first, second), strict=True))
    shared = set(a.samples.texts("prompt")) & set(b.samples.texts("prompt"))
    if not shared:
        hint = (
            f"{len(set(a.samples.texts('prompt')))} prompts there, {len(set(b.samples.texts('prompt')))} in the other"
        )
        raise JobError(Problem(f"{a.store.url} and {b.store.url}", "prompts that both have", "none", hint))
    frame = _joined(a, b, shared)
    analysis = {**analyse(frame), "url": redact(a.store.url), "same_seeds": a.plan.job.seed == b.plan.job.seed}
    for text, cell in zip(analysis["cell_texts"], analysis["cells"], strict=True):
        cell["url"] = redact((a if json.loads(text)["run"] == a.label else b).store.url)
    fields = differing_fields(a.plan.fields, b.plan.fields)
    differences = [{"field": name, "names": labels, "a": _short(x), "b": _short(y)} for name, x, y in fields]
    summary = {
        **_summary(a, b),
        "runs": {side.label: redact(side.store.url) for side in (a, b)},
        "shared_prompts": len(shared),
        "same_seeds": analysis["same_seeds"],
        "answers": _answers(frame),
        "cells": analysis["cells"],
        "metrics": {name: result["all"] for name, result in analysis["results"].items()},
        "differences": [{"field": row["field"], labels[0]: row["a"], labels[1]: row["b"]} for row in differences],
    }

    def read(key: str, rows: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        side, _, inner = key.partition(":")
        return read_images(a.store if side == _SIDES[0] else b.store, inner, rows)

    write_page(frame, analysis, _whole_prompts(frame), read, out.put, summary=summary, differences=differences)
    out.put(
        "summary.json", json.dumps(plain(summary), indent=2, ensure_ascii=False).encode("utf-8", "backslashreplace")
    )
    return summary


def _answers(frame: Frame) -> dict[str, dict[str, Any]]:
    """By metric the means of both runs and B − A, paired by prompt: [mean, low, high, prompts].

    Over the settings that both have; over all where they share none.
    """
    cells = [json.loads(text) for text in frame.cell_texts]
    runs = frame.axes["run"]
    settings = [canonical_json(settings_of(frame, index)) for index in range(len(cells))]
    of_run = [{s for cell, s in zip(cells, settings, strict=True) if cell["run"] == run} for run in runs]
    common = set.intersection(*of_run) or set(settings)
    side = np.array([runs.index(cell["run"]) if s in common else -1 for cell, s in zip(cells, settings, strict=True)])
    of_row = side[frame.cells]
    found = {}
    for metric in frame.metrics():
        scores = np.where(of_row >= 0, frame.samples.score(metric), np.nan)
        matrix = cell_matrix(scores, frame.prompts, np.maximum(of_row, 0), (len(frame.prompt_ids), 2))
        average = [triple(one) for one in means(matrix, BOUNDS.get(metric))]
        difference = triple(differences(matrix, [0], BOUNDS.get(metric))[0][1])
        found[metric] = {**dict(zip(runs, average, strict=True)), "difference": difference}
    return found


def _labels(first: str, second: str) -> tuple[str, str]:
    """The last parts of the URLs where they differ, else A and B."""
    a, b = (redact(url).rstrip("/").rpartition("/")[2] for url in (first, second))
    return (a, b) if a and b and a != b else _SIDES


def _with_seeds_as_text(table: pa.Table) -> pa.Table:
    place = table.column_names.index("seed")
    return table.set_column(place, "seed", table.column(place).cast(pa.string()))


def _joined(a: Side, b: Side, shared: set[str]) -> Frame:
    """One frame over both, whose first axis is the run; a prompt is its text."""
    tables = [_renamed(side, letter, shared) for side, letter in zip((a, b), _SIDES, strict=True)]
    if len({table.schema.field("seed").type for table in tables}) > 1:  # seeds of 63 bits beside those of 64
        tables = [_with_seeds_as_text(table) for table in tables]
    table = pa.concat_tables(tables, promote_options="permissive")
    source = tuple(name for name in a.samples.source_columns if name in b.samples.source_columns)
    samples = Samples(table, source, {})
    prompt_ids, prompts = coded(samples.texts("prompt"))
    texts = [_with_run(side, text) for side in (a, b) for text in cell_texts(side.plan, side.samples)]
    seconds = {
        _with_run(side, text): spent
        for side in (a, b)
        for text, spent in seconds_per_image(side.plan, side.samples.receipts).items()
    }
    return frame_of(samples, prompt_ids, prompts, texts, _axes(a, b, texts), seconds)


def _renamed(side: Side, letter: str, shared: set[str]) -> pa.Table:
    table = side.samples.table
    table = table.filter(pc.is_in(table.column("prompt"), value_set=pa.array(sorted(shared))))
    columns = {
        "variant": [_with_run(side, str(text)) for text in table.column("variant").to_pylist()],
        "object": [f"{letter}:{key}" for key in table.column("object").to_pylist()],
    }
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values, pa.string()))
    return table


def _with_run(side: Side, text: str) -> str:
    return canonical_json({"run": side.label, **json.loads(text)})


def _axes(a: Side, b: Side, texts: Sequence[str]) -> dict[str, list[Any]]:
    axes: dict[str, list[Any]] = {"run": [a.label, b.label]}
    names = {name for text in texts for name in json.loads(text)} - {"run"}
    for name in sorted(names):
        values = (json.loads(text).get(name) for text in texts)
        axes[name] = list({canonical_json(shown_value(value)): shown_value(value) for value in values}.values())
    return axes


def _whole_prompts(frame: Frame) -> Integers:
    """All rows, or those of the first prompts so many that the gallery holds them."""
    count = np.bincount(frame.prompts, minlength=len(frame.prompt_ids))
    shown = np.cumsum(count) <= MAX_SHOWN
    return np.flatnonzero(shown[frame.prompts])


def _summary(a: Side, b: Side) -> dict[str, Any]:
    """What the head of the page shows: counts of both together."""
    one, two = (summarize(side.plan, side.samples, side.store.url) for side in (a, b))
    receipts = (*a.samples.receipts, *b.samples.receipts)
    return {
        **one,
        **{name: one[name] + two[name] for name in _COUNTS},
        "name": f"{a.label} and {b.label}",
        "url": f"{one['url']} and {two['url']}",
        "fingerprint": f"{one['fingerprint']} and {two['fingerprint']}",
        "finished": one["finished"] and two["finished"],
        "prompts": len(set(a.samples.texts("prompt")) & set(b.samples.texts("prompt"))),
        "failures": _added(one["failures"], two["failures"]),
        "rejects": _added(one["rejects"], two["rejects"]),
        "problems": [*one["problems"], *two["problems"]],
        "best": [],
        "worst": [],
        "run": run_facts(receipts, None),
    }


def _added(first: dict[str, int], second: dict[str, int]) -> dict[str, int]:
    return {name: first.get(name, 0) + second.get(name, 0) for name in {**first, **second}}


def _short(value: Any) -> str:
    text = "–" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:197] + "…"
