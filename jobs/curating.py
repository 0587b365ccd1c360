"""A dataset curated, for the command and for the section `curate:` of a job."""

from __future__ import annotations

import contextlib
import difflib
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Final

import pyarrow.parquet as pq
from pydantic import ValidationError

from promptmill.jobs.console import say
from promptmill.jobs.ray_there import ray_is_there
from promptmill.jobs.trust import reach_of
from promptmill.pipeline.curation.bounds import LEAST_IMAGES
from promptmill.pipeline.curation.claim import claim_curation, refuse_overlap
from promptmill.pipeline.curation.curate import Progress, Spread, curate, here
from promptmill.pipeline.curation.decisions import KEY, bounds_said
from promptmill.pipeline.curation.known import KnownPart, parts_of
from promptmill.pipeline.curation.per_class import short_classes
from promptmill.pipeline.curation.settings import Settings, Task
from promptmill.pipeline.dataset.open import open_dataset, open_output
from promptmill.pipeline.dataset.state import dataset_counts, missing_shards, read_counts
from promptmill.pipeline.dataset.targets import refuse_inside
from promptmill.pipeline.display import shown
from promptmill.pipeline.export.card import data_schema, write_card
from promptmill.pipeline.jobfile.fields import node_at, words
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.report.current import is_current
from promptmill.pipeline.storage.store import Store
from promptmill.pipeline.storage.urls import absolute_url
from promptmill.schemas.curation import Curation
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.results import Calibration, CurateResult
from promptmill.schemas.scores import reason_kind

_TELL_EVERY_S: Final = 30.0
_OPTIONS: Final = {"percentiles": "percentile", "per_class": "per-class"}
"""Fields of the job that the command calls otherwise."""


def options_of(**given: Any) -> Curation:
    """Raises JobError in the words of the command."""
    try:
        return Curation(**given)
    except ValidationError as error:
        raise JobError(*map(_problem, error.errors(include_url=False))) from None


def _problem(details: Any) -> Problem:
    field, *inner = details["loc"]
    where = f"--{_OPTIONS.get(field, field)}" + "".join(f" {part}" for part in inner)
    rule = details.get("ctx", {})
    expected = rule.get("expected") or words(node_at(("curate", field, *inner)))
    return Problem(where, expected, str(rule.get("got", details["input"]))[:80], rule.get("hint", ""))


@contextlib.contextmanager
def named_as_in_a_job() -> Iterator[None]:
    """What is called `--real` on the command line is `curate.real` in a job, `--to` in a hint `curate.to`."""
    fields = {option: field for field, option in _OPTIONS.items()}
    try:
        yield
    except JobError as error:
        told = [
            each.replace(" --to", " curate.to")
            if isinstance(each, str)
            else replace(each, where=re.sub(r"^--([\w-]+)( ?)", _field(fields), each.where))
            for each in error.problems
        ]
        raise type(error)(*told) from None


def _field(fields: dict[str, str]) -> Callable[[re.Match[str]], str]:
    return lambda found: f"curate.{fields.get(found[1], found[1])}" + (": " if found[2] else "")


def curate_dataset(
    url: str,
    to: str,
    settings: Settings,
    *,
    address: str | None = None,
    in_process: bool = True,
    workers: int | None = None,
    progress: Progress | None = None,
    contents: Mapping[str, str] | None = None,
) -> CurateResult:
    """Exactly once, and on where it was stopped. Raises JobError for settings, an input or sets that do not do.

    `contents` are those of the known sets, where they have been read.
    """
    began = time.monotonic()
    refuse_overlap(url, to)
    plan, source = open_dataset(url)
    target = open_output(to, "--to")
    refuse_inside(to, "--to")
    known = known_parts(settings)
    check_label(plan, source, settings.label)
    own = claim_curation(plan, source, target, settings, known, contents)
    target.warn_of_weakness()
    task = Task(absolute_url(url), absolute_url(to), settings, own.fingerprint)
    is_whole = target.entry(KEY) is not None and not missing_shards(own, target)
    with _spread(address, in_process or is_whole, workers) as spread:
        curate(own, task, known, spread, progress or Progress())
    if not (is_whole and target.entry("README.md") is not None and is_current(target)):
        _tell(own, target)
    short = short_classes(own, target, settings)
    return replace(_result(own, plan, target, to, time.monotonic() - began), short=short)


def known_parts(settings: Curation) -> Sequence[KnownPart]:
    """Absolute: a worker starts in another folder."""
    named = {"real": settings.real, "test": settings.test}
    return [part for kind, sets in named.items() for part in parts_of(kind, list(map(absolute_url, sets)))]


def check_label(plan: Plan, store: Store, label: str | None) -> None:
    """Raises JobError for a column that the samples do not have: copies would be looked for across all classes."""
    if label is not None and label not in (names := data_schema(plan, store).names):
        near = difflib.get_close_matches(label, names, 1)
        hint = f"Did you mean {near[0]}?" if near else ""
        raise JobError(Problem("--label", "a column of the dataset", repr(label), hint))


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


class StepLines:
    """How far a step is, in a line each half minute."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._last = time.monotonic()

    def tell(self, step: str, done: int, of: int) -> None:
        now = time.monotonic()
        if now - self._last > _TELL_EVERY_S:
            self._last = now
            self._write(f"{step}: {done:,} of {of:,}")


def say_result(made: CurateResult) -> None:
    found = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in made.reasons.items())
    images = made.kept + sum(made.reasons.values())
    say(f"{made.name} curated: kept {made.kept:,} of {images:,}; {found or 'no copies'}.")
    if made.difference is None:
        say("Only copies of the very same pixels were looked for: give a model to find those that were changed.")
    elif made.cosine is None:
        say(
            f"Copies look less different than {made.difference:.4f}. "
            f"A threshold finds those that were changed more, or {LEAST_IMAGES:,} real images."
        )
    else:
        say(f"Copies look less different than {made.difference:.4f}, or have a cosine above {made.cosine:.5f}.")
    for name, kept in made.short.items():
        say(f"Class {shown(name)}: {kept:,} stay, fewer than were asked for. Make more of it, or look for the reason")
    say(f"Each copy names its twin. Load {made.output.rstrip('/')}/data/*.parquet")
