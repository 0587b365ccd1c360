"""`report/`: the numbers for machines, the page for people, from whatever of the dataset is there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from functools import partial
from importlib.resources import files
from typing import Any

import jinja2

from promptmill.pipeline.dataset.images import read_images
from promptmill.pipeline.dataset.samples import read_dataset
from promptmill.pipeline.display import format_duration, redact
from promptmill.pipeline.evaluation.reference import read_references
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.prompts.inputs import InputReader
from promptmill.pipeline.report.analysis import Frame, analyse, make_frame
from promptmill.pipeline.report.inputs import input_pictures
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
from promptmill.pipeline.report.summary import summarize
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.inputs import Role

VENDORED = ("vendor/d3.min.js", "vendor/plot.min.js")
PIECES = ("data", "thumbs", "assets")
PIECES_KEPT_S = 3600.0
APP = tuple(f"app/{name}.js" for name in ("core", "answer", "plots", "grid", "gallery", "detail", "start"))


def build_report(
    plan: Plan, store: Store, seconds: float | None = None, price_per_hour: float | None = None
) -> dict[str, Any]:
    """Write `report/summary.json`, `report/index.html` and what the page loads; returns the summary.

    `seconds` is the wall time of the run that just ended, `price_per_hour` what a device costs. Works on a dataset
    that is unfinished, empty or all failed.
    """
    plan, samples = read_dataset(plan, store)
    summary = summarize(plan, samples, store.url, seconds, price_per_hour)
    frame = make_frame(plan, samples)
    analysis = {**analyse(frame), "url": redact(store.url)}
    summary["metrics"] = {name: result["all"] for name, result in analysis["results"].items()}
    summary["correlations"] = analysis["correlations"]
    summary["references"] = references = reference_tables(store)
    sizes = {entry.name: entry.size_bytes for folder in ("data", "rejects", "failures") for entry in store.list(folder)}
    rows = choose_rows(plan, samples, sizes)

    written: set[str] = set()

    def put(key: str, data: bytes) -> None:
        written.add(f"report/{key}")
        store.put(f"report/{key}", data)

    reader = InputReader(store)
    first = first_rows(frame, rows)
    write_page(
        frame,
        analysis,
        rows,
        partial(read_images, store),
        put,
        input_pictures(samples, first, plan.job.task.roles, reader.read, reader.kept),
        summary=summary,
        price=price_per_hour,
        references=references,
    )
    content = json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False)
    put("summary.json", content.encode("utf-8", "backslashreplace"))
    _remove_old_pieces(store, written)
    return summary


def _remove_old_pieces(store: Store, written: Collection[str]) -> None:
    """Those of earlier reports. A report that is being written now has put its own a moment ago."""
    listed = [entry for folder in PIECES for entry in store.list(f"report/{folder}")]
    old = [entry for entry in listed if entry.name not in written and entry.name.endswith(".js")]
    now = store.now() if old else None
    for entry in old:
        if now is not None and entry.modified is not None and now - entry.modified > PIECES_KEPT_S:
            store.remove(entry)


def reference_tables(store: Store) -> list[dict[str, Any]]:
    """What `promptmill score --reference` found. `few` is the least number of images in a set that is not larger than
    the number of features, None where all are.
    """
    found = read_references(store)
    for one in found:
        sizes = [one["reference_images"], *(cell["images"] for cell in one["cells"])]
        one["few"] = min(sizes) if min(sizes) <= one["dimensions"] else None
    return found


def write_page(
    frame: Frame,
    analysis: dict[str, Any],
    rows: Integers,
    read: ReadImages,
    put: Put,
    inputs: Sequence[tuple[Role, int, str]] = (),
    **facts: Any,
) -> None:
    """Everything the page loads, then `index.html`. `rows` are those in the gallery, `facts` go to the template,
    `inputs` are pictures that prompts were drawn from.

    Pieces are named by their content, so that of two reports at once each page loads its own.
    """
    names: dict[str, str] = {}

    def put_piece(key: str, content: bytes) -> None:
        stem, _, ending = key.rpartition(".")
        names[key] = f"{stem}.{hashlib.sha256(content).hexdigest()[:8]}.{ending}"
        put(names[key], content)

    thumbs = write_thumbnails(frame.samples, rows, read, put_piece)
    numbers = write_inputs(inputs, len(thumbs), put_piece)
    analysis = {**analysis, "thumb_files": list(names.values())}
    pieces = [("data/analysis.js", script("analysis", 0, analysis)), *text_pieces(frame, rows, numbers)]
    pieces += sample_pieces(frame, rows, analysis["cell_texts"], thumbs)
    assets = [(f"assets/{name.rpartition('/')[2]}", page_file(name).encode()) for name in (*VENDORED, *APP)]
    for key, content in (*pieces, *assets):
        put_piece(key, content)
    # The last script starts the page, when all data is there.
    order = [names[key] for key, _ in (*assets[:-1], *pieces, assets[-1])]
    total = frame.samples.table.num_rows
    defaults = {"differences": [], "price": None, "references": [], "shown": len(rows), "total": total}
    page = environment().get_template("index.html.j2")
    html = page.render(style=page_file("style.css"), scripts=order, **{**defaults, **facts})
    put("index.html", html.encode("utf-8", "replace"))


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
