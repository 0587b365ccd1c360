"""`promptmill run`: the job from start to end, or from where it stopped."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol, Self

import psutil

from promptmill.jobs.afterwards import tell_what_is_there
from promptmill.jobs.console import err, is_terminal
from promptmill.jobs.options import Address, AsJson, Extend, InProcess, JobFile, Set, WhileRunning, Yes, loaded_job
from promptmill.jobs.outcome import finish
from promptmill.jobs.plan import as_asked, check_curate, is_whole, plan_of
from promptmill.jobs.ray_there import ray_is_there
from promptmill.jobs.signals import answering, finish_first
from promptmill.jobs.telling import QUIET, LogFormat, MetricsFile, MetricsPort, Telling, begin_telling, metered
from promptmill.pipeline.dataset.claim import claim_output
from promptmill.pipeline.dataset.far import refuse_far_copies
from promptmill.pipeline.dataset.open import open_output
from promptmill.pipeline.dataset.retry import stage_again
from promptmill.pipeline.dataset.rounds import next_round, short_classes
from promptmill.pipeline.dataset.state import dataset_counts, read_counts
from promptmill.pipeline.dataset.targets import refuse_inside
from promptmill.pipeline.execution.budget import budget_of
from promptmill.pipeline.execution.dispatch import Dispatcher, InProcessDispatcher, Later
from promptmill.pipeline.execution.events import Listener, Stop
from promptmill.pipeline.execution.heartbeat import Beating
from promptmill.pipeline.execution.json_log import JsonLog
from promptmill.pipeline.execution.json_stream import json_stderr
from promptmill.pipeline.execution.lease import Elsewhere, lease
from promptmill.pipeline.execution.progress import LiveProgress, PlainProgress
from promptmill.pipeline.execution.run import RunListener, RunSummary, run_job
from promptmill.pipeline.models.catalog.resolve import memory_needed_bytes
from promptmill.pipeline.models.catalog.trust import remember
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.prompts.reach import Reach, places_of, reach_from, remember_places
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.job import Job
from promptmill.schemas.plan import Counts
from promptmill.schemas.results import IfRunning


class Display(RunListener, Protocol):
    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def run(
    job: Job,
    *,
    address: str | None,
    in_process: bool,
    extend: bool,
    allow_large_sweep: bool,
    display: Display | None = None,
    if_running: IfRunning = "join",
    telling: Telling = QUIET,
) -> tuple[Plan, RunSummary]:
    """Raises JobError before anything is started or written, StorageError and ClusterError later."""
    planned = plan_of(job, allow_large_sweep, extend)
    known = None if job.curate is None else check_curate(planned, as_asked(planned, extend))
    own_places = places_of(planned.segments[0].files)
    if is_whole(planned, extend):
        pass  # a nightly run without new prompts starts nothing
    elif address is None and "RAY_ADDRESS" not in os.environ:
        _check_memory(planned)
    elif not in_process:
        _check_address(address)
    with new_progress(display, telling) as progress:
        for notice in planned.notices:
            progress.notice(notice)
        store = open_output(job.output.url, "output.url", on_wait=progress.notice)
        refuse_inside(job.output.url, "output.url")
        with lease(store, progress, if_running) as turn:
            if turn.other is not None and if_running == "exit":
                return planned, _nothing_made(planned, store, turn.other)
            if turn.waited:
                planned = plan_of(job, allow_large_sweep, extend)
            own, planned = planned, claim_output(planned, store, extend)
            refuse_far_copies(planned, store, reach_from(store, own_places), own)
            _note(planned, own_places, progress)
            stage_again(planned, store)
            summary = run_plan(
                planned, store, progress, address=address, in_process=in_process, other=turn.other, telling=telling
            )
            return planned, _curated(job, planned, summary, progress, known, address=address, in_process=in_process)


def _curated(
    job: Job,
    planned: Plan,
    summary: RunSummary,
    progress: RunListener,
    known: Mapping[str, str] | None,
    *,
    address: str | None,
    in_process: bool,
) -> RunSummary:
    if job.curate is None:
        return summary
    from promptmill.jobs.curate_after import curate_after

    return curate_after(job.curate, planned, summary, progress, contents=known, address=address, in_process=in_process)


def _note(planned: Plan, own_places: Sequence[str], progress: RunListener) -> None:
    """Which models and places are this machine's own, for a `retry` that is given no job."""
    problem = remember((*planned.models, *planned.clips, *planned.python_scores))
    if problem := problem or remember_places(own_places):
        hint = "`promptmill retry` will ask for --trust-dataset"
        progress.notice(f"models and places are not noted ({problem}): {hint}")


def _nothing_made(plan: Plan, store: Store, elsewhere: Elsewhere) -> RunSummary:
    by_shard = read_counts(plan, store)
    counts = dataset_counts(plan, by_shard)
    return RunSummary(counts, plan.shards, len(by_shard), Counts(), 0.0, interrupted=False, elsewhere=elsewhere)


def run_plan(
    plan: Plan,
    store: Store,
    progress: RunListener,
    *,
    address: str | None,
    in_process: bool,
    reach: Reach | None = None,
    other: Elsewhere | None = None,
    telling: Telling = QUIET,
) -> RunSummary:
    """Make what is missing, then write dataset card and report. `interrupted` says that a signal came.

    `reach` is what the report may read beside the dataset, `other` a run that is at work on it too.
    """
    stop, budget = Stop(), budget_of(plan.job.compute, store)
    if other is not None:
        progress.notice(f"another run makes this dataset {other}; this one begins at the other end")
    counted = metered(plan, progress, telling, budget, address=address, in_process=in_process)
    with finish_first(stop, progress):
        with counted as counting, Beating(store, counting) as beating:

            def make(plan: Plan) -> RunSummary:
                dispatcher = Later(lambda: _dispatcher(plan, store, address, in_process))
                return run_job(plan, store, dispatcher, beating, stop, budget=budget, backwards=other is not None)

            plan, summary = _round_by_round(plan, make, store, progress)
            counting.complete = summary.shards_done == plan.shards
        reported = tell_what_is_there(plan, store, summary, progress, reach)
    return replace(summary, interrupted=stop.reason == "asked", reported=reported)


def _round_by_round(
    plan: Plan, make: Callable[[Plan], RunSummary], store: Store, listener: Listener
) -> tuple[Plan, RunSummary]:
    """Of a job with `select.per_class` each round, once the one before is there; of every other job its one."""
    summary = make(plan)
    # Also after a stop, as long as none is missing: the next round then says what is left.
    while summary.shards_done == plan.shards and (grown := next_round(plan, store)) is not None:
        plan = grown
        lacking = sum(number for segment in plan.segments[-1:] for _, number in segment.lacking)
        listener.notice(f"round {plan.segments[-1].round}: {lacking:,} images of classes are still lacking")
        before, summary = summary, make(plan)
        summary = replace(
            summary,
            made=before.made + summary.made,
            seconds=before.seconds + summary.seconds,
            model_loads=before.model_loads + summary.model_loads,
        )
    return plan, replace(summary, short=() if summary.interrupted else short_classes(plan, store))


def _check_memory(plan: Plan) -> None:
    """Raises JobError where this machine cannot hold one worker."""
    needed, model = max((memory_needed_bytes(model, plan.pixels(model)), model.path) for model in plan.models)
    free = psutil.virtual_memory().available
    if needed > free:
        raise JobError(
            Problem(
                f"model.path: {model}",
                f"about {needed / 2**30:.1f} GiB of free memory for one worker",
                f"{free / 2**30:.1f} GiB on this machine",
                "Choose a smaller model or a larger machine, or give --address of a cluster",
            )
        )


def _check_address(address: str | None) -> None:
    """Before the output is claimed. Raises JobError and ClusterError."""
    with ray_is_there():
        from promptmill.pipeline.execution.fleet.address import check_address
    check_address(address)


@contextlib.contextmanager
def new_progress(display: Display | None = None, telling: Telling = QUIET) -> Iterator[RunListener]:
    progress = display or _display(telling)
    # A display that goes on drawing would wipe out a command's last words.
    with progress, answering(lambda: progress.__exit__(None, None, None)):
        yield progress


def _display(telling: Telling) -> Display:
    if telling.log_format == "json":
        return JsonLog(json_stderr())
    return LiveProgress(err) if is_terminal() else PlainProgress()


def _dispatcher(plan: Plan, store: Store, address: str | None, in_process: bool) -> Dispatcher:
    if in_process:
        return InProcessDispatcher(plan, store)
    with ray_is_there():
        from promptmill.pipeline.execution.fleet.dispatch import RayDispatcher
    return RayDispatcher(plan, store.url, address)


def command(
    job: JobFile,
    set_: Set = None,
    address: Address = None,
    in_process: InProcess = False,
    extend: Extend = False,
    if_running: WhileRunning = "join",
    yes: Yes = False,
    log_format: LogFormat = "text",
    metrics_port: MetricsPort = None,
    metrics_file: MetricsFile = None,
    as_json: AsJson = False,
) -> None:
    """Make the dataset, or continue where it stopped."""
    telling = begin_telling(log_format, metrics_port, metrics_file)
    with loaded_job(job, set_) as loaded:
        planned, summary = run(
            loaded,
            address=address,
            in_process=in_process,
            extend=extend,
            allow_large_sweep=yes,
            if_running=if_running,
            telling=telling,
        )
    finish(planned, summary, as_json)
