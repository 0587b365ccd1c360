"""`promptmill compare`: two datasets on the prompts that both have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from promptmill.jobs.console import say, say_json, table
from promptmill.jobs.options import AsJson
from promptmill.pipeline.dataset.open import open_dataset
from promptmill.pipeline.dataset.targets import open_target
from promptmill.pipeline.jobfile.dates import dated_place
from promptmill.schemas.reports import CompareResult, MetricAnswer


def compare(
    url_a: str, url_b: str, out: str = "compare", selection: str | None = None, selection_b: str | None = None
) -> CompareResult:
    """Writes a page like the report's to the folder or URL `out` and returns its numbers.

    `selection` names a view of both, `selection_b` one of the second alone.

    Raises JobError where one of them is no dataset, or no prompt is in both.
    """
    from promptmill.pipeline.report.compare import compare_datasets  # seconds to import, which --help need not wait for

    target = open_target(out, "--out", page=True)
    both = (selection, selection_b or selection)
    summary = compare_datasets(open_dataset(url_a), open_dataset(url_b), target, both)
    target.tidy()
    return summary


def command(
    url_a: Annotated[str, typer.Argument(metavar="URL_A", help="The baseline.", callback=dated_place)],
    url_b: Annotated[str, typer.Argument(metavar="URL_B", help="What is held against it.", callback=dated_place)],
    out: Annotated[str, typer.Option(help="Folder or URL of the page.")] = "compare",
    selection: Annotated[
        str | None, typer.Option(metavar="NAME", help="Compare the images that this selection of each keeps.")
    ] = None,
    selection_b: Annotated[
        str | None, typer.Option("--selection-b", metavar="NAME", help="A selection of URL_B alone.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare two datasets on the prompts that both have."""
    shown = compare(url_a, url_b, out, selection, selection_b)
    if as_json:
        say_json(shown.as_json())
    else:
        first, second = shown.runs
        for metric, answer in shown.answers.items():
            say(f"{metric}: {_change(answer.difference, first, second)}")
            for line in _by_variant(answer, first, second):
                say(f"  {line}")
        for row in shown.differences:
            say(f"differs: {row['field']}: {row[first]} | {row[second]}")
        table({"open": f"{out.rstrip('/')}/index.html"})


_LINES = 12


def _by_variant(answer: MetricAnswer, first: str, second: str) -> Iterator[str]:
    """Each variant; of many only those that differ for sure, and how many do not."""
    variants = answer.cells if len(answer.cells) > 1 else []
    sure = [each for each in variants if each.holm is not None and each.holm < 0.05]
    shown = variants if len(variants) <= _LINES else sure
    for each in shown:
        holm = "" if each.holm is None else f", p {each.holm:.2g} by Holm"
        yield f"{each.name}: {_change(each.difference, first, second)}{holm}"
    if len(shown) < len(variants):
        many = f"{len(variants) - len(shown)} {'other ' if shown else ''}settings"
        yield f"in {many} by themselves it is not sure; the page and summary.json have each"


def _change(difference: Sequence[float | None], first: str, second: str) -> str:
    mean, low, high, prompts, _ = difference
    if mean is None or prompts is None:
        return "no prompt has it in both"
    interval = "" if low is None or high is None else f" (95 %: {low:+.4g} to {high:+.4g})"
    return f"{second} − {first} = {mean:+.4g}{interval}, {prompts:g} prompts"
