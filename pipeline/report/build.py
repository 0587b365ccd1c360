"""`report/`: the numbers for machines, the page for people, from whatever of the dataset is there."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import jinja2

from pipeline.plan import Plan
from pipeline.progress import format_duration
from pipeline.report.read import read_samples
from pipeline.report.summary import BEST, ranked_rows, summarize
from pipeline.report.thumbs import thumbnails
from pipeline.storage import Store


def build_report(plan: Plan, store: Store, seconds: float | None = None) -> dict[str, Any]:
    """Write `report/summary.json` and `report/index.html`; returns the summary.

    `seconds` is the wall time of the run that just ended. Works on a dataset that is unfinished, empty or all failed.
    """
    samples = read_samples(store)
    summary = summarize(plan, samples, store.url, seconds)
    order = ranked_rows(samples)
    chosen = [*order[:BEST], *order[::-1][:BEST]]
    pictures = dict(thumbnails(store, samples, chosen))
    thumbs = {"best": [pictures.get(r) for r in order[:BEST]], "worst": [pictures.get(r) for r in order[::-1][:BEST]]}
    page = (
        environment()
        .get_template("index.html.j2")
        .render(summary=summary, thumbs=thumbs, score=samples.score_names[:1])
    )
    store.put(
        "report/summary.json",
        json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace"),
    )
    store.put("report/index.html", page.encode("utf-8", "replace"))
    return summary


def environment() -> jinja2.Environment:
    """Autoescape is on for every template: prompts are untrusted."""
    folder = files("pipeline.report") / "page"
    loader = jinja2.FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8"))
    env = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    env.filters |= {
        "number": number,
        "duration": lambda s: "–" if s is None else format_duration(s),
        "percent": percent,
    }
    return env


def number(value: float | int | None, digits: int = 4) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}g}"


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"
