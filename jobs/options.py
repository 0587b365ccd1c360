"""Options and arguments that several commands have, and the job that they name."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from promptmill.pipeline.jobfile.dates import dated_place
from promptmill.pipeline.jobfile.reader import located, read_job
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.job import Job
from promptmill.schemas.results import IfRunning

JobFile = Annotated[str, typer.Argument(metavar="JOB.yaml", help="The job file; - reads it from standard input.")]
Url = Annotated[
    str, typer.Argument(metavar="URL", help="Folder or URL of the dataset: the job's output.url.", callback=dated_place)
]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override a field; repeat for more.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Yes = Annotated[bool, typer.Option("--yes", help="Allow a sweep of more than 1,000 variants.")]
Address = Annotated[
    str | None, typer.Option(help="Ray cluster to join; else RAY_ADDRESS; else one is started on this machine.")
]


def amount(price: float | None) -> float | None:
    """Raises JobError for what is no amount of money."""
    if price is not None and not (math.isfinite(price) and price >= 0):
        raise JobError(Problem("--price-per-hour", "an amount of money", str(price)))
    return price


PricePerHour = Annotated[
    float | None,
    typer.Option(callback=amount, help="Price of a device, in any currency, for what it costs; else the job's."),
]
Dashboard = Annotated[
    str | None,
    typer.Option("--address", help="Ray dashboard of the cluster, http://HEAD:8265; else RAY_API_SERVER_ADDRESS."),
]
CaCert = Annotated[
    str | None, typer.Option("--ca-cert", metavar="FILE", help="Trust these certificates too (https:// addresses).")
]
Extend = Annotated[bool, typer.Option("--extend", help="Add prompts that are new in the source.")]
InProcess = Annotated[bool, typer.Option("--in-process", help="Without Ray: in this process, on one device.")]
Selection = Annotated[
    str | None,
    typer.Option("--selection", metavar="NAME", help="See the images that a selection keeps as the kept ones."),
]
WhileRunning = Annotated[
    IfRunning,
    typer.Option(
        "--if-running",
        help="Where another run makes this dataset already: begin at the other end, wait for it, or leave it to that.",
    ),
]


@contextlib.contextmanager
def loaded_job(path: str, overrides: Sequence[str] | None) -> Iterator[Job]:
    """A JobError from inside gets the file and line of the field that it names."""
    job, document = read_job(path, overrides or ())
    try:
        yield job
    except JobError as error:
        raise located(error, document) from None
