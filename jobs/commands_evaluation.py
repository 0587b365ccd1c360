"""Commands that look at finished datasets: more metrics, comparisons, one image again, other layouts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from promptmill.jobs.arguments import OwnJob, TrustDataset
from promptmill.jobs.console import say, say_json, table
from promptmill.jobs.options import AsJson, Selection, Url
from promptmill.pipeline.export.registry import LAYOUTS
from promptmill.pipeline.jobfile.dates import dated_place
from promptmill.schemas.reports import MetricAnswer

if TYPE_CHECKING:
    LayoutName = str
else:
    LayoutName = Literal[LAYOUTS]  # as many as there are modules, which no type checker can count


def add_commands(app: typer.Typer) -> None:
    for command in (score, select, compare, reproduce, export):
        app.command()(command)


def score(
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL",
            help="Our dataset, or a folder of Parquet files with image and caption.",
            callback=dated_place,
        ),
    ],
    metric: Annotated[list[str] | None, typer.Option("--metric", help="Metric to add; repeat for more.")] = None,
    distractors: Annotated[
        str | None, typer.Option(help="Text file with one caption a line, for the relative CLIP score.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Score anew what is scored already.")] = False,
    reference: Annotated[
        str | None, typer.Option(metavar="URL", help="Images or dataset to compare with: FID, KID, precision, recall.")
    ] = None,
    features: Annotated[
        str | None, typer.Option(metavar="MODEL", help="open_clip model that looks at both, for --reference.")
    ] = None,
    from_file: Annotated[
        str | None,
        typer.Option("--from", metavar="FILE", help="Scores of others: a column sample_id (or GenEval's filename)."),
    ] = None,
    selection: Annotated[
        str | None, typer.Option(metavar="NAME", help="For --reference: of the images that a selection keeps.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of the tensor library.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Add metrics to a dataset, beside it and without generating again."""
    from promptmill.jobs.score import score

    shown = score(url, metric or [], distractors, again, threads, reference, features, from_file, selection=selection)
    if as_json:
        say_json(shown.as_json())
        return
    table({name: value for name, value in shown.as_json().items() if name != "cells"})
    for each in shown.cells or []:
        values = {"fid": each.fid, "kid": each.kid, "precision": each.precision, "recall": each.recall}
        numbers = [f"{name} {value:.4g}" for name, value in values.items() if value is not None]
        say(f"{each.name}: {each.images} images, " + (", ".join(numbers) or "too few to compare"))


def select(
    url: Url,
    keep: Annotated[int | None, typer.Option(min=1, help="Best so many images of each prompt and variant.")] = None,
    by: Annotated[
        list[str] | None, typer.Option(help="Score that says which are best; of several the ranks are added.")
    ] = None,
    least: Annotated[
        list[str] | None,
        typer.Option("--min", metavar="NAME=VALUE", help="Leave out what scores below; repeat for more."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the view; else made of the above.")] = None,
    as_json: AsJson = False,
) -> None:
    """Select again among the images that are there, as a view beside them; no image is made."""
    from promptmill.jobs.select import select

    _show(select(url, keep, by or [], least or [], name).as_json(), as_json)


def compare(
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
    from promptmill.jobs.compare import compare

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


def reproduce(
    url: Url,
    sample_id: Annotated[str, typer.Argument(metavar="SAMPLE_ID")],
    out: Annotated[
        str | None, typer.Option(help="File to write; else <sample id>.png, or so, in the current folder.")
    ] = None,
    trust_dataset: TrustDataset = False,
    job: OwnJob = None,
    as_json: AsJson = False,
) -> None:
    """Make one image again from its row, and say how it differs."""
    from promptmill.jobs.reproduce import in_text, reproduce

    made = reproduce(url, sample_id, out, trust_dataset, job)
    _show(made.as_json() if as_json else in_text(made), as_json)


def export(
    url: Url,
    out: Annotated[str, typer.Argument(metavar="OUT", help="Folder or URL to write.")],
    layout: Annotated[LayoutName, typer.Option(help="dpg: four images as a 2×2 grid.")],
    rejected: Annotated[bool, typer.Option("--rejected", help="With the images that were not kept.")] = False,
    selection: Selection = None,
    as_json: AsJson = False,
) -> None:
    """Write the folders that a suite's own scorer reads."""
    from promptmill.jobs.export import export

    _show(export(url, layout, out, rejected, selection).as_json(), as_json)


def _show(content: dict[str, Any], as_json: bool) -> None:
    if as_json:
        say_json(content)
    else:
        table(content)
