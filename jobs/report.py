"""`promptmill report`: the page and the numbers of a dataset, built again from what is there."""

from __future__ import annotations

from typing import Annotated

import typer

from promptmill.jobs.console import first_of, say, say_json
from promptmill.jobs.options import AsJson, PricePerHour, Selection, Url, amount
from promptmill.jobs.trust import reach_of
from promptmill.pipeline.dataset.open import open_dataset
from promptmill.schemas.reports import ReportResult


def report(
    url: str, price_per_hour: float | None = None, single_file: bool = False, selection: str | None = None
) -> ReportResult:
    """`price_per_hour` is that of one device, in any currency; `single_file` adds `report/single-file.html`.

    Raises JobError where there is no dataset.
    """
    from promptmill.pipeline.report.build import build_report  # seconds to import, which --help need not wait for

    plan, store = open_dataset(url)
    reach = reach_of(store, trusted=False, job=None)
    return build_report(plan, store, None, amount(price_per_hour), single_file, selection, reach)


def command(
    url: Url,
    price_per_hour: PricePerHour = None,
    single_file: Annotated[
        bool, typer.Option("--single-file", help="Also one file that needs nothing beside it: report/single-file.html.")
    ] = False,
    selection: Selection = None,
    as_json: AsJson = False,
) -> None:
    """Build report/ again from what is there."""
    shown = report(url, price_per_hour, single_file, selection)
    if as_json:
        say_json(shown.as_json())
        return
    for problem in first_of(shown.problems):
        say(f"problem: {problem}")
    say(f"wrote {url.rstrip('/')}/report/{'single-file.html, ' if single_file else ''}index.html and summary.json")
