"""What a run ends with: its words, its JSON object, its exit code."""

from __future__ import annotations

from dataclasses import asdict

import typer

from promptmill.jobs.console import say, say_json
from promptmill.jobs.curating import say_result
from promptmill.jobs.exit_codes import SOME_FAILED
from promptmill.jobs.plan import say_suite
from promptmill.jobs.signals import INTERRUPTED
from promptmill.pipeline.display import shown
from promptmill.pipeline.execution.run import RunSummary
from promptmill.pipeline.planning.plan import Plan
from promptmill.schemas.errors import JobError
from promptmill.schemas.results import MadeCounts, RunResult


def exit_code(summary: RunSummary) -> int:
    if summary.interrupted:
        return INTERRUPTED
    if summary.over_budget is not None:
        return JobError.exit_code
    if summary.elsewhere is not None:
        return 0
    lacking = summary.short or (summary.curated is not None and summary.curated.short)
    return SOME_FAILED if summary.counts.failed or lacking else 0


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
        curated=summary.curated,
    )


def _say_short(planned: Plan, summary: RunSummary) -> None:
    for each in summary.short:
        why = f"; most of the others: {each.reason}" if each.reason else ""
        say(f"Class {shown(each.name)}: {each.kept:,} of {each.asked:,} kept, of {each.made:,} made{why}")
    if summary.short:
        say("Raise select.max_rounds and run again, or mend what rejects them.")
        if planned.job.curate is not None:
            say("It is curated when no class is short; `promptmill curate` takes it as it is.")


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
        _say_short(planned, summary)
        if summary.spent is not None and summary.over_budget is None:
            say(f"It cost {summary.spent:,.2f} so far, by compute.price_per_hour.")
        for place in summary.left_out:
            say(f"Left out: {place}")
        say(f"{f'Open {url}/report/index.html, or load' if summary.reported else 'Load'} {url}/data/*.parquet")
        if summary.curated is not None:
            say_result(summary.curated)
    raise typer.Exit(exit_code(summary))
