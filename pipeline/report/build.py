"""`report/`: the numbers for machines, the page for people, from whatever of the dataset is there."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import jinja2

from pipeline.plan import Plan
from pipeline.progress import format_duration
from pipeline.redact import redact
from pipeline.report.analysis import Frame, analyse, make_frame
from pipeline.report.pieces import choose_rows, sample_pieces, script, text_pieces, write_thumbnails
from pipeline.report.read import read_samples
from pipeline.report.summary import summarize
from pipeline.storage import Store

VENDORED = ("vendor/d3.min.js", "vendor/plot.min.js")
APP = tuple(f"app/{name}.js" for name in ("core", "answer", "plots", "grid", "gallery", "detail", "start"))


def build_report(
    plan: Plan, store: Store, seconds: float | None = None, price_per_hour: float | None = None
) -> dict[str, Any]:
    """Write `report/summary.json`, `report/index.html` and what the page loads; returns the summary.

    `seconds` is the wall time of the run that just ended, `price_per_hour` what a device costs. Works on a dataset
    that is unfinished, empty or all failed.
    """
    samples = read_samples(store)
    summary = summarize(plan, samples, store.url, seconds, price_per_hour)
    frame = make_frame(plan, samples)
    analysis = {**analyse(plan, frame), "url": redact(store.url)}
    summary["metrics"] = {name: result["all"] for name, result in analysis["results"].items()}
    summary["correlations"] = analysis["correlations"]
    content = json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False)
    store.put("report/summary.json", content.encode("utf-8", "backslashreplace"))
    scripts, shown = _write_data(plan, store, frame, analysis)
    for name in (*VENDORED, *APP):
        store.put(_asset(name), page_file(name).encode())
    page = environment().get_template("index.html.j2")
    html = page.render(
        summary=summary,
        style=page_file("style.css"),
        scripts=[
            *(_asset(name).removeprefix("report/") for name in (*VENDORED, *APP[:-1])),
            *scripts,
            "assets/start.js",
        ],
        shown=shown,
        total=samples.table.num_rows,
        price=price_per_hour,
    )
    store.put("report/index.html", html.encode("utf-8", "replace"))
    return summary


def _write_data(plan: Plan, store: Store, frame: Frame, analysis: dict[str, Any]) -> tuple[list[str], int]:
    """Names of the data scripts, relative to the page, and how many samples they hold."""
    sizes = {entry.name: entry.size_bytes for folder in ("data", "rejects", "failures") for entry in store.list(folder)}
    rows = choose_rows(plan, frame.samples, sizes)
    thumbs = write_thumbnails(store, frame.samples, rows)
    pieces = [("report/data/analysis.js", script("analysis", 0, analysis)), *text_pieces(frame, rows)]
    pieces += sample_pieces(frame, rows, analysis["cell_texts"], thumbs)
    for key, content in pieces:
        store.put(key, content)
    return [key.removeprefix("report/") for key, _ in pieces], len(rows)


def _asset(name: str) -> str:
    return f"report/assets/{name.rpartition('/')[2]}"


def page_file(name: str) -> str:
    return (files("pipeline.report") / "page" / name).read_text(encoding="utf-8")


def environment() -> jinja2.Environment:
    """Autoescape is on for every template: prompts are untrusted."""
    env = jinja2.Environment(
        loader=jinja2.FunctionLoader(page_file),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {"number": number, "duration": format_duration, "percent": percent}
    return env


def number(value: float | int | None, digits: int = 4) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}g}"


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"
