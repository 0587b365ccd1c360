"""`promptmill curate`: a copy of a dataset without copies, near copies, leaks and memorised images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from promptmill.jobs.console import say_json, say_on_stderr
from promptmill.jobs.curating import StepLines, curate_dataset, options_of, say_result
from promptmill.jobs.exit_codes import SOME_FAILED
from promptmill.jobs.options import Address, AsJson, InProcess, Url
from promptmill.pipeline.curation.curate import Progress
from promptmill.pipeline.curation.settings import Settings
from promptmill.pipeline.jobfile.dates import dated_place
from promptmill.schemas.curation import QUANTILE
from promptmill.schemas.errors import JobError, Problem

To = Annotated[str, typer.Option("--to", metavar="URL", help="Where the result lies.", callback=dated_place)]
Model = Annotated[
    str | None, typer.Option(help="Sees what is alike: an open_clip model, or a folder of transformers such as DINOv2.")
]
Real = Annotated[
    list[str] | None, typer.Option(metavar="IMAGES", help="Images it was made from; copies are `memorised`.")
]
Test = Annotated[list[str] | None, typer.Option(metavar="IMAGES", help="Images of an evaluation; copies are a `leak`.")]
Threshold = Annotated[
    float | None, typer.Option(help="Cosine above which two are copies; else found by --real and --test.")
]
Quantile = Annotated[float, typer.Option(help="Share of images known not to be copies that may stay.")]
Label = Annotated[str | None, typer.Option(metavar="COLUMN", help="Of the classes inside which copies are looked for.")]
Percentile = Annotated[
    list[str] | None,
    typer.Option(metavar="SCORE=P", help="First leave out the worst P of 100 of each class; repeat for more."),
]
PerClass = Annotated[
    int | None, typer.Option("--per-class", metavar="N", help="Keep at most so many of each class, the first ones.")
]
Workers = Annotated[int | None, typer.Option(min=1, help="Tasks of Ray at once; else what fits.")]


def command(
    url: Url,
    to: To,
    model: Model = None,
    real: Real = None,
    test: Test = None,
    threshold: Threshold = None,
    quantile: Quantile = QUANTILE,
    label: Label = None,
    percentile: Percentile = None,
    per_class: PerClass = None,
    address: Address = None,
    in_process: InProcess = False,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Leave out copies, near copies, and copies of real and test images: the rest as a dataset of its own."""
    asked = options_of(
        model=model,
        real=real or (),
        test=test or (),
        threshold=threshold,
        quantile=quantile,
        label=label,
        percentiles=_percentiles(percentile or ()),
        per_class=per_class,
    )
    settings = Settings.of(asked, "--model")
    words = Progress(StepLines(say_on_stderr).tell)
    made = curate_dataset(url, to, settings, address=address, in_process=in_process, workers=workers, progress=words)
    if as_json:
        say_json(made.as_json())
    else:
        say_result(made)
    raise typer.Exit(SOME_FAILED if made.short else 0)


def _percentiles(texts: Sequence[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for text in texts:
        name, _, value = text.rpartition("=")
        try:
            share = float(value)
        except ValueError:
            share = 0.0
        if not name or not 0 < share < 100 or name in found:
            got = f"{name} twice" if name in found else repr(text)
            raise JobError(Problem("--percentile", "SCORE=P, with P between 0 and 100", got))
        found[name] = share
    return found
