"""How a run tells how it goes, beside its answer: what is on standard error, and metrics for Prometheus."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from promptmill.pipeline.execution.budget import Budget
from promptmill.pipeline.execution.json_stream import json_stderr
from promptmill.pipeline.execution.metered import Meter, Metered
from promptmill.pipeline.execution.run import RunListener
from promptmill.pipeline.planning.plan import Plan

LogWords = Literal["text", "json"]
LogFormat = Annotated[
    LogWords,
    typer.Option(
        "--log-format",
        envvar="PROMPTMILL_LOG_FORMAT",
        help="What is on standard error: text for people, or one JSON object a line.",
    ),
]
MetricsPort = Annotated[
    str | None,
    typer.Option(
        "--metrics-port",
        metavar="[HOST:]PORT",
        envvar="PROMPTMILL_METRICS_PORT",
        help="Serve metrics for Prometheus while it runs; without HOST to this machine alone.",
    ),
]
MetricsFile = Annotated[
    Path | None,
    typer.Option(
        "--metrics-file",
        metavar="FILE.prom",
        envvar="PROMPTMILL_METRICS_FILE",
        help="Keep metrics in a file for node_exporter, also when the run has ended.",
    ),
]


@dataclass(frozen=True)
class Telling:
    log_format: LogWords = "text"
    metrics_port: str | None = None
    metrics_file: Path | None = None


QUIET: Final = Telling()


def begin_telling(log_format: LogWords, metrics_port: str | None, metrics_file: Path | None) -> Telling:
    """Errors of the job itself are objects too, from here on."""
    if log_format == "json":
        json_stderr()
    return Telling(log_format, metrics_port, metrics_file)


@contextlib.contextmanager
def metered(
    plan: Plan, listener: RunListener, telling: Telling, budget: Budget, *, address: str | None, in_process: bool
) -> Iterator[Metered]:
    """The listener of a run that counts what it is told: for `--metrics-port` and `--metrics-file`, else for a Ray
    cluster that the run joins, whose nodes export it.

    Raises JobError for a port or file that cannot be used.
    """
    meters: list[Meter] = []
    with contextlib.ExitStack() as closing:
        if telling.metrics_port is not None or telling.metrics_file is not None:
            from promptmill.pipeline.execution.exporter import Exporter

            exporter = Exporter(plan.job.name)
            closing.callback(exporter.close, listener.notice)
            if telling.metrics_port is not None:
                exporter.serve(telling.metrics_port)
            if telling.metrics_file is not None:
                exporter.write_to(telling.metrics_file)
            meters.append(exporter)
        elif not in_process and (address or os.environ.get("RAY_ADDRESS")):
            from promptmill.pipeline.execution.fleet.meter import RayMeter

            meters.append(RayMeter(plan.job.name))
        counting = Metered(listener, meters, budget)
        closing.callback(counting.ended)
        yield counting
