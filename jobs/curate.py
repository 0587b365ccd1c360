"""`promptmill curate`: a copy of a dataset without copies, near copies, leaks and memorised images."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated

import pyarrow.parquet as pq
import typer

from promptmill.jobs.console import say, say_json, say_on_stderr
from promptmill.jobs.options import Address, AsJson, InProcess, Url
from promptmill.jobs.run import ray_is_there
from promptmill.jobs.trust import reach_of
from promptmill.pipeline.curation.bounds import LEAST_IMAGES
from promptmill.pipeline.curation.claim import claim_curation, refuse_overlap
from promptmill.pipeline.curation.curate import Progress, Spread, curate, here
from promptmill.pipeline.curation.decisions import KEY, bounds_said
from promptmill.pipeline.curation.known import parts_of
from promptmill.pipeline.curation.settings import QUANTILE, Settings, Task
from promptmill.pipeline.dataset.open import open_dataset, open_output
from promptmill.pipeline.dataset.state import dataset_counts, read_counts
from promptmill.pipeline.dataset.targets import refuse_inside
from promptmill.pipeline.jobfile.dates import dated_place
from promptmill.pipeline.models.catalog.features import resolve_features
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.results import Calibration, CurateResult
from promptmill.schemas.scores import reason_kind

_TELL_EVERY_S = 30.0


def curate_dataset(
    url: str,
    to: str,
    settings: Settings,
    *,
    address: str | None = None,
    in_process: bool = True,
    workers: int | None = None,
    progress: Progress | None = None,
) -> CurateResult:
    """Exactly once, and on where it was stopped. Raises JobError for settings, an input or sets that do not do."""
    began = time.monotonic()
    check(settings)
    refuse_overlap(url, to)
    plan, source = open_dataset(url)
    target = open_output(to, "--to")
    refuse_inside(to, "--to")
    known = [*parts_of("real", settings.real), *parts_of("test", settings.test)]
    own = claim_curation(plan, source, target, settings, known)
    target.warn_of_weakness()
    task = Task(url, to, settings, own.fingerprint)
    with _spread(address, in_process, workers) as spread:
        curate(own, task, known, spread, progress or Progress())
    _tell(own, target)
    return _result(own, plan, target, to, time.monotonic() - began)


def check(settings: Settings) -> None:
    """Raises JobError for what decides nothing."""
    if settings.threshold is not None and not -1 < settings.threshold < 1:
        raise JobError(Problem("--threshold", "a cosine between -1 and 1", f"{settings.threshold:g}"))
    for name, share in settings.percentiles:
        if not name or not 0 < share < 100:
            raise JobError(Problem("--percentile", "SCORE=P, with P between 0 and 100", f"{name}={share:g}"))
    if not 0.5 <= settings.quantile < 1:
        raise JobError(Problem("--quantile", "at least 0.5, and less than 1", f"{settings.quantile:g}"))
    if settings.threshold is not None and settings.model is None:
        hint = "Such as --model builtin:shapes, or a folder with DINOv2"
        raise JobError(Problem("--threshold", "--model, of whose embeddings it is a cosine", "none", hint))


@contextlib.contextmanager
def _spread(address: str | None, in_process: bool, workers: int | None) -> Iterator[Spread]:
    if in_process:
        yield here
        return
    with ray_is_there():
        from promptmill.pipeline.execution.fleet.cluster import connect, disconnect
        from promptmill.pipeline.execution.fleet.tasks import RaySpread
    connect(address)
    try:
        yield RaySpread(workers)
    finally:
        disconnect()


def _tell(plan: Plan, target: Store) -> None:
    """Card and report, as after a run."""
    from promptmill.pipeline.export.card import write_card
    from promptmill.pipeline.report.build import build_report

    write_card(plan, target, dataset_counts(plan, read_counts(plan, target)))
    build_report(plan, target, reach=reach_of(target, trusted=False, job=None))
    target.tidy()


def _result(plan: Plan, source: Plan, target: Store, to: str, seconds: float) -> CurateResult:
    by_shard = read_counts(plan, target)
    said = bounds_said(target)
    told = said["calibration"]
    return CurateResult(
        name=plan.job.name,
        output=to,
        fingerprint=plan.fingerprint,
        **asdict(dataset_counts(plan, by_shard)),
        shards=plan.shards,
        shards_done=len(by_shard),
        input_fingerprint=source.fingerprint,
        reasons=_reasons(target),
        cosine=said["cosine"],
        difference=said["difference"],
        calibration=None if told is None else Calibration(**told),
        seconds=round(seconds, 3),
    )


def _reasons(target: Store) -> dict[str, int]:
    with target.open(KEY) as file:
        reasons = pq.read_table(file, columns=["reason"]).column("reason").to_pylist()
    return dict(Counter(map(reason_kind, reasons)).most_common())


class _Words:
    """A line on standard error now and then."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def tell(self, step: str, done: int, of: int) -> None:
        now = time.monotonic()
        if now - self._last > _TELL_EVERY_S:
            self._last = now
            say_on_stderr(f"{step}: {done:,} of {of:,}")


def command(
    url: Url,
    to: Annotated[str, typer.Option("--to", metavar="URL", help="Where the result lies.", callback=dated_place)],
    model: Annotated[
        str | None,
        typer.Option(help="Sees what is alike: an open_clip model, or a folder of transformers such as DINOv2."),
    ] = None,
    real: Annotated[
        list[str] | None, typer.Option(metavar="IMAGES", help="Images it was made from; copies are `memorised`.")
    ] = None,
    test: Annotated[
        list[str] | None, typer.Option(metavar="IMAGES", help="Images of an evaluation; copies are a `leak`.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Cosine above which two are copies; else found by --real and --test.")
    ] = None,
    quantile: Annotated[float, typer.Option(help="Share of images known not to be copies that may stay.")] = QUANTILE,
    label: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Of the classes inside which copies are looked for.")
    ] = None,
    percentile: Annotated[
        list[str] | None,
        typer.Option(metavar="SCORE=P", help="First leave out the worst P of 100 of each class; repeat for more."),
    ] = None,
    address: Address = None,
    in_process: InProcess = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Tasks of Ray at once; else what fits.")] = None,
    as_json: AsJson = False,
) -> None:
    """Leave out copies, near copies, and copies of real and test images: the rest as a dataset of its own."""
    settings = Settings(
        None if model is None else resolve_features(model, "--model"),
        *(tuple(real or ()), tuple(test or ()), threshold, quantile, label),
        percentiles=tuple(map(_percentile, percentile or ())),
    )
    words = Progress(_Words().tell)
    made = curate_dataset(url, to, settings, address=address, in_process=in_process, workers=workers, progress=words)
    if as_json:
        say_json(made.as_json())
        return
    say_result(made)


def _percentile(text: str) -> tuple[str, float]:
    name, _, value = text.rpartition("=")
    try:
        return name, float(value)
    except ValueError:
        raise JobError(Problem("--percentile", "SCORE=P, with P between 0 and 100", repr(text))) from None


def say_result(made: CurateResult) -> None:
    found = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in made.reasons.items())
    images = made.kept + sum(made.reasons.values())
    say(f"{made.name} curated: kept {made.kept:,} of {images:,}; {found or 'no copies'}.")
    if made.difference is None:
        say("Only copies of the very same pixels were looked for: give --model to find those that were changed.")
    elif made.cosine is None:
        say(
            f"Copies look less different than {made.difference:.4f}. "
            f"--threshold finds those that were changed more, or {LEAST_IMAGES:,} real images."
        )
    else:
        say(f"Copies look less different than {made.difference:.4f}, or have a cosine above {made.cosine:.5f}.")
    say(f"Each reject names its twin. Load {made.output.rstrip('/')}/data/*.parquet")
