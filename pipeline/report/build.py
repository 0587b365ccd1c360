"""`report/`: the numbers for machines, the page for people, from whatever of the dataset is there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from importlib.resources import files
from typing import Any

import jinja2

from promptmill.pipeline.dataset.images import readable_images
from promptmill.pipeline.dataset.passed import attribute_columns
from promptmill.pipeline.dataset.samples import Samples, plain
from promptmill.pipeline.dataset.selections import read_selected, selection_facts
from promptmill.pipeline.display import format_duration, redact
from promptmill.pipeline.evaluation.proofs import read_proofs
from promptmill.pipeline.evaluation.reference import read_references
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.prompts.inputs import InputReader
from promptmill.pipeline.prompts.reach import Reach
from promptmill.pipeline.report.analysis import ALL_BASELINES, Analysis, analyse
from promptmill.pipeline.report.before import run_before
from promptmill.pipeline.report.classes import attribute_summaries, class_summaries
from promptmill.pipeline.report.frame import Frame, make_frame
from promptmill.pipeline.report.inputs import input_hashes, input_pictures
from promptmill.pipeline.report.page_data import (
    Put,
    ReadImages,
    choose_rows,
    first_rows,
    sample_pieces,
    script,
    text_pieces,
    write_inputs,
    write_thumbnails,
)
from promptmill.pipeline.report.stats import Integers
from promptmill.pipeline.report.summary import summarize, variant_summaries
from promptmill.pipeline.report.table import summary_csv
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.checked import checked
from promptmill.schemas.columns import HASHES, input_column
from promptmill.schemas.inputs import Role
from promptmill.schemas.reports import MetricSummary, ReportResult, Summary

VENDORED = ("vendor/d3.min.js", "vendor/plot.min.js")
PIECES = ("data", "thumbs", "assets")
SINGLE_FILE = "single-file.html"
PIECES_KEPT_S = 3600.0
_SCRIPTS = ("core", "answer", "compared", "plots", "grid", "gallery", "detail", "copies", "address", "start")
APP = tuple(f"app/{name}.js" for name in _SCRIPTS)


def build_report(
    plan: Plan,
    store: Store,
    seconds: float | None = None,
    price_per_hour: float | None = None,
    single_file: bool = False,
    selection: str | None = None,
    reach: Reach | None = None,
) -> ReportResult:
    """Write `report/summary.json`, `summary.csv`, `index.html` and what the page loads; returns the summary.

    `seconds` is the wall time of the run that just ended, `price_per_hour` what a device costs. Works on a dataset
    that is unfinished, empty or all failed. `single_file` adds a page that needs nothing beside it; one that is there
    is built again. Images that prompts were drawn from are shown where they lie within `reach`, or have the hash that
    their row says.
    """
    plan, samples = read_selected(plan, store, selection, {HASHES, *map(input_column, plan.job.task.roles)})
    single_file = single_file or store.entry(f"report/{SINGLE_FILE}") is not None  # none is left to tell old numbers
    seconds, price = _as_said(plan, store, seconds, price_per_hour)
    frame = make_frame(plan, samples)
    analysis = analyse(frame, redact(store.url))
    result = _result(plan, samples, analysis, store, (seconds, price), selection)
    rows = choose_rows(plan, samples, _sizes(store))
    put = _Folder(store)
    write_page(
        frame,
        analysis,
        rows,
        partial(readable_images, store, result.problems),
        put,
        _inputs(plan, samples, store, first_rows(frame, rows), reach),
        summary=result,
        price=price,
        references=result.references,
        classes=result.classes,
        single_file=single_file,
    )
    write_numbers(put, analysis, result)
    _remove_old_pieces(store, put.written)
    return result


def _result(
    plan: Plan,
    samples: Samples,
    analysis: Analysis,
    store: Store,
    run: tuple[float | None, float | None],
    selection: str | None,
) -> ReportResult:
    """`run` is its time and its price."""
    references, unread = read_references(store)
    proofs, unfit = read_proofs(store)
    attributes, left_out = attribute_summaries(samples, attribute_columns(plan, store))
    found = {
        **vars(summarize(plan, samples, store.url, *run)),
        "cells": variant_summaries(plan, samples),
        "metrics": summarized(analysis),
        "correlations": analysis.correlations,
        "references": references,
        "classes": class_summaries(plan, samples),
        "attributes": attributes,
        "attributes_left_out": left_out,
        "proofs": proofs,
        "selection": None if selection is None else selection_facts(store, selection),
    }
    result = checked(ReportResult, plain(found))
    result.problems.extend(unread + unfit)
    return result


def _as_said(plan: Plan, store: Store, seconds: float | None, price: float | None) -> tuple[float | None, float | None]:
    """Time and price, those not given as the report before had them, or else the job."""
    before = run_before(plan, store)
    prices = (price, before.price_per_hour, plan.job.compute.price_per_hour)
    known = next((each for each in prices if each is not None), None)
    return before.wall_seconds if seconds is None else seconds, known


def _inputs(
    plan: Plan, samples: Samples, store: Store, rows: Sequence[int], reach: Reach | None
) -> list[tuple[Role, int, str]]:
    reader = InputReader(store, reach=None if reach is None else replace(reach, hashes=input_hashes(samples)))
    return input_pictures(samples, rows, plan.job.task.roles, reader.read, reader.kept)


def write_numbers(put: Put, analysis: Analysis, result: Summary) -> None:
    put("summary.csv", summary_csv(analysis))
    content = json.dumps(result.as_json(), indent=2, ensure_ascii=False, allow_nan=False)
    put("summary.json", content.encode("utf-8", "backslashreplace"))


def _sizes(store: Store) -> dict[str, int]:
    return {entry.name: entry.size_bytes for folder in ("data", "rejects", "failures") for entry in store.list(folder)}


class _Folder:
    """`report/` of a dataset, and which of its objects this report wrote."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.written: set[str] = set()

    def __call__(self, key: str, data: bytes) -> None:
        self.written.add(f"report/{key}")
        self._store.put(f"report/{key}", data)


def _remove_old_pieces(store: Store, written: Collection[str]) -> None:
    """Those of earlier reports. A report that is being written now has put its own a moment ago."""
    listed = [entry for folder in PIECES for entry in store.list(f"report/{folder}")]
    old = [entry for entry in listed if entry.name not in written and entry.name.endswith(".js")]
    now = store.now() if old else None
    for entry in old:
        if now is not None and entry.modified is not None and now - entry.modified > PIECES_KEPT_S:
            store.remove(entry)


def summarized(analysis: Analysis) -> dict[str, MetricSummary]:
    """By metric the means of all variants, and what each differs by from each; of many from the first."""
    found = {}
    for name, result in analysis.results.items():
        every = result.all
        baselines = len(every.means) if len(every.means) <= ALL_BASELINES else 1
        rows = [every.differences[str(place)] for place in range(baselines)]
        found[name] = MetricSummary(every.means, rows, result.main_effects)
    return found


def write_page(
    frame: Frame,
    analysis: Analysis,
    rows: Integers,
    read: ReadImages,
    put: Put,
    inputs: Sequence[tuple[Role, int, str]] = (),
    single_file: bool = False,
    **facts: Any,
) -> None:
    """Everything the page loads, then `index.html`. `rows` are those in the gallery, `facts` go to the template,
    `inputs` are pictures that prompts were drawn from.

    Pieces are named by their content, so that of two reports at once each page loads its own.
    """
    put_piece = _Pieces(put, single_file)
    thumbs = write_thumbnails(frame.samples, rows, read, put_piece)
    numbers = write_inputs(inputs, len(thumbs), put_piece)
    analysis = replace(analysis, thumb_files=list(put_piece.names.values()))
    pieces = [("data/analysis.js", script("analysis", 0, analysis)), *text_pieces(frame, rows, numbers)]
    pieces += sample_pieces(frame, rows, analysis.cell_texts, thumbs)
    assets = [(f"assets/{name.rpartition('/')[2]}", page_file(name).encode()) for name in (*VENDORED, *APP)]
    for key, content in (*pieces, *assets):
        put_piece(key, content)
    # The last script starts the page, when all data is there.
    order = [key for key, _ in (*assets[:-1], *pieces, assets[-1])]
    facts |= {"shown": len(rows), "total": frame.samples.table.num_rows}
    put("index.html", _page(facts, scripts=[put_piece.names[key] for key in order]))
    if single_file:
        thumbnails = [key for key in put_piece.contents if key.startswith("thumbs/")]
        inline = [put_piece.contents[key].decode() for key in (*order[:-1], *thumbnails, order[-1])]
        put(SINGLE_FILE, _page(facts, inline=inline))


def _page(facts: dict[str, Any], scripts: Sequence[str] = (), inline: Sequence[str] = ()) -> bytes:
    """With scripts beside it by name, or those `inline` by their text."""
    given = dict.fromkeys(("differences", "references", "classes"), ()) | {"price": None, **facts}
    given |= {"style": page_file("style.css"), "scripts": scripts, "inline": inline}
    return environment().get_template("index.html.j2").render(**given).encode("utf-8", "replace")


class _Pieces:
    """Stores pieces under names made of their content, `names` by key; `contents` for a page of a single file."""

    def __init__(self, put: Put, keep: bool) -> None:
        self._put, self._keep = put, keep
        self.names: dict[str, str] = {}
        self.contents: dict[str, bytes] = {}

    def __call__(self, key: str, content: bytes) -> None:
        stem, _, ending = key.rpartition(".")
        self.names[key] = f"{stem}.{hashlib.sha256(content).hexdigest()[:8]}.{ending}"
        self._put(self.names[key], content)
        if self._keep:
            self.contents[key] = content


def page_file(name: str) -> str:
    return (files("promptmill.pipeline.report") / "page" / name).read_text(encoding="utf-8")


def environment() -> jinja2.Environment:
    """Autoescape is on for every template: prompts are untrusted."""
    env = jinja2.Environment(
        loader=jinja2.FunctionLoader(page_file),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {"number": number, "duration": format_duration, "percent": percent, "thousand": thousand}
    return env


def number(value: float | int | None, digits: int = 4) -> str:
    if value is None:
        return "–"
    whole = isinstance(value, int) or abs(value) >= 10**digits
    return f"{value:,.0f}" if whole else f"{value:,.{digits}g}"


def thousand(value: float | None) -> float | None:
    return None if value is None else 1000 * value


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"
