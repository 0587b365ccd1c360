"""`summary.csv`: a row for each score of each variant, with its interval, its difference to the first and their p."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from promptmill.pipeline.report.analysis import Analysis, Group
from promptmill.pipeline.report.stats import holm

_COLUMNS = (
    *("metric", "setting", "mean", "low", "high", "prompts"),
    *("difference", "difference_low", "difference_high", "p", "p_holm"),
    *("kept", "rejected", "failed", "seconds_per_image", "seconds_deviation"),
)


def summary_csv(analysis: Analysis) -> bytes:
    """Differences are paired by prompt and to the first variant; `p_holm` holds for all variants of a score together.

    The swept fields follow, a column each. UTF-8 with a byte order mark: spreadsheets take it for Latin-1 otherwise.
    """
    sink = io.StringIO()
    axes = list(analysis.axes)
    writer = csv.writer(sink)
    writer.writerow([*_COLUMNS, *axes])
    for metric, result in analysis.results.items():
        for row, variant in zip(_rows(result.all), analysis.cells, strict=True):
            counts = [variant.kept, variant.rejected, variant.failed, variant.seconds, variant.seconds_deviation]
            swept = [_field(variant.values.get(axis)) for axis in axes]
            writer.writerow([_field(metric), _field(variant.name), *row, *counts, *swept])
    return sink.getvalue().encode("utf-8-sig", "backslashreplace")


def _rows(every: Group) -> Iterator[list[Any]]:
    """Mean, bounds and prompts, then the difference to the first variant; nothing for the first itself."""
    gaps = every.differences["0"] if every.means else []
    raised = holm([None if place == 0 else gap[4] for place, gap in enumerate(gaps)])
    for place, (mean, gap) in enumerate(zip(every.means, gaps, strict=True)):
        yield [*mean, *([None] * 5 if place == 0 else [*gap[:3], gap[4], raised[place]])]


def _field(value: Any) -> Any:
    """A text that a spreadsheet would take for a formula is marked as text."""
    return f"'{value}" if isinstance(value, str) and value[:1] in tuple("=+-@\t\r\n＝＋－＠") else value
