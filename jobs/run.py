"""`promptmill run`: the job from start to end, or from where it stopped."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Protocol, Self

import psutil
import typer

from promptmill.jobs.afterwards import tell_what_is_there
from promptmill.jobs.console import err, is_terminal, say, say_json
from promptmill.jobs.options import Address, AsJson, Extend, InProcess, JobFile, Set, WhileRunning, Yes, loaded_job
from promptmill.jobs.plan import is_whole, plan_of, say_suite
from promptmill.jobs.signals import INTERRUPTED, answering, finish_first
from promptmill.jobs.telling import QUIET, LogFormat, MetricsFile, MetricsPort, Telling, begin_telling, metered
from promptmill.pipeline.dataset.claim import claim_output
from promptmill.pipeline.dataset.far import refuse_far_copies
from promptmill.pipeline.dataset.open import open_output
from promptmill.pipeline.dataset.retry import stage_again
from promptmill.pipeline.dataset.rounds import next_round, short_classes
from promptmill.pipeline.dataset.state import dataset_counts, read_counts
from promptmill.pipeline.dataset.targets import refuse_inside
from promptmill.pipeline.display import shown
from promptmill.pipeline.execution.budget import budget_of
from promptmill.pipeline.execution.dispatch import Dispatcher, InProcessDispatcher, Later
from promptmill.pipeline.execution.events import Listener, Stop
from promptmill.pipeline.execution.heartbeat import Beating
from promptmill.pipeline.execution.json_log import JsonLog, json_stderr
from promptmill.pipeline.execution.lease import Elsewhere, lease
from promptmill.pipeline.execution.metered import Price
from promptmill.pipeline.execution.progress import LiveProgress, PlainProgress
from promptmill.pipeline.execution.run import RunListener, RunSummary, run_job
from promptmill.pipeline.models.catalog.resolve import memory_needed_bytes
from promptmill.pipeline.models.catalog.trust import remember
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.prompts.reach import Reach, places_of, reach_from, remember_places
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import ClusterError, JobError, Problem
from promptmill.schemas.job import Job
from promptmill.schemas.plan import Counts
from promptmill.schemas.results import IfRunning, MadeCounts, RunResult

SOME_FAILED = 3


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
            return planned, run_plan(
                planned, store, progress, address=address, in_process=in_process, other=turn.other, telling=telling
            )


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
    stop = Stop()
    if other is not None:
        progress.notice(f"another run makes this dataset {other}; this one begins at the other end")
    counted = metered(plan, progress, telling, _price(plan, store), address=address, in_process=in_process)
    with finish_first(stop, progress), counted as counting:

        def make(plan: Plan) -> RunSummary:
            dispatcher = Later(lambda: _dispatcher(plan, store, address, in_process))
            with Beating(store, counting) as beating:
                return run_job(plan, store, dispatcher, beating, stop, backwards=other is not None)

        plan, summary = _round_by_round(plan, make, store, progress)
        by_budget = stop.requested and not summary.interrupted  # whatever is asked for from now on changes nothing
        counting.complete = summary.shards_done == plan.shards
        reported = tell_what_is_there(plan, store, summary, progress, reach)
    interrupted = summary.interrupted or (stop.requested and not by_budget)
    return replace(summary, interrupted=interrupted, reported=reported)


def _round_by_round(
    plan: Plan, make: Callable[[Plan], RunSummary], store: Store, listener: Listener
) -> tuple[Plan, RunSummary]:
    """Of a job with `select.per_class` each round, once the one before is there; of every other job its one."""
    summary = make(plan)
    while not summary.interrupted and (grown := next_round(plan, store)) is not None:
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


def _price(plan: Plan, store: Store) -> Price:
    compute = plan.job.compute
    return Price(compute.worker_price, compute.max_cost, budget_of(compute, store).spent or 0.0)


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


def exit_code(summary: RunSummary) -> int:
    if summary.interrupted:
        return INTERRUPTED
    if summary.over_budget is not None:
        return JobError.exit_code
    if summary.elsewhere is not None:
        return 0
    return SOME_FAILED if summary.counts.failed or summary.short else 0


def result(plan: Plan, summary: RunSummary) -> RunResult:
    return RunResult(
        name=plan.job.name,
        output=plan.job.output.url,
        fingerprint=plan.fingerprint,
        suite=plan.suite,
        **asdict(summary.counts),
        shards=summary.shards,
        shards_done=summary.shards_done,
        made=MadeCounts(**asdict(summary.made)),
        seconds=round(summary.seconds, 3),
        images_per_second=round(summary.images_per_second, 3),
        model_loads=summary.model_loads,
        interrupted=summary.interrupted,
        left_out=[asdict(place) for place in summary.left_out],
        running_elsewhere=None if summary.elsewhere is None else f"{summary.elsewhere}",
        short=[asdict(each) for each in summary.short],
        spent=None if summary.spent is None else round(summary.spent, 4),
        over_budget=summary.over_budget,
    )


def _dispatcher(plan: Plan, store: Store, address: str | None, in_process: bool) -> Dispatcher:
    if in_process:
        return InProcessDispatcher(plan, store)
    with ray_is_there():
        from promptmill.pipeline.execution.fleet.dispatch import RayDispatcher
    return RayDispatcher(plan, store.url, address)


@contextlib.contextmanager
def ray_is_there() -> Iterator[None]:
    # Under `uv run` Ray would make the workers' environment anew from a copy of the current folder: none starts.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    try:
        yield
    except ImportError as error:
        raise ClusterError(f"Ray cannot be imported ({error}). Install ray, or give --in-process") from None


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


def finish(planned: Plan, summary: RunSummary, as_json: bool, rows_at_fault: bool = False) -> None:
    if as_json:
        say_json(result(planned, summary).as_json())
    elif summary.elsewhere is not None:
        say(f"{planned.job.name} is already running {summary.elsewhere}. This run made nothing.")
    else:
        made, url = summary.made, planned.job.output.url.rstrip("/")
        images = made.kept + made.rejected
        speed = f" in {summary.seconds:.1f} s ({summary.images_per_second:.1f} images/s)" if images else ""
        unfinished = summary.interrupted or summary.over_budget is not None
        state = "stopped: run the same command again to continue" if summary.interrupted else "done"
        state = f"stopped: {summary.over_budget}. Raise it and run again to continue" if summary.over_budget else state
        state = "has nothing new to make" if summary.found_whole else state
        loads = f", {summary.model_loads} model loads" if len(planned.models) > 1 else ""
        say(f"{planned.job.name} {state}. This run made {images:,} images{speed}{loads}.")
        say_suite(planned)
        counts = summary.counts
        say(
            f"The dataset: kept {counts.kept:,} · rejected {counts.rejected:,} · failed {counts.failed:,} "
            f"of {planned.samples if unfinished else counts.samples:,}"
        )
        if counts.failed:
            again = f"`promptmill retry {url}` makes them again"
            mend = "the source's own rows are at fault: put mended ones into a new file"
            say(f"Failures are in {url}/failures/; {mend if rows_at_fault else again}.")
        for each in summary.short:
            why = f"; most of the others: {each.reason}" if each.reason else ""
            say(f"Class {shown(each.name)}: {each.kept:,} of {each.asked:,} kept, of {each.made:,} made{why}")
        if summary.short:
            say("Raise select.max_rounds and run again, or mend what rejects them.")
        for place in summary.left_out:
            say(f"Left out: {place}")
        say(f"{f'Open {url}/report/index.html, or load' if summary.reported else 'Load'} {url}/data/*.parquet")
    raise typer.Exit(exit_code(summary))
