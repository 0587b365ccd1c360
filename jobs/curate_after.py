"""The section `curate:` of a job: held against what is there before anything is made, and done when all is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from promptmill.jobs.curating import StepLines, check_label, curate_dataset, known_parts, named_as_in_a_job
from promptmill.pipeline.curation.claim import refuse_other_curation, refuse_overlap
from promptmill.pipeline.curation.curate import Progress
from promptmill.pipeline.curation.percentiles import LEAST_IMAGES
from promptmill.pipeline.curation.settings import LABELS, Settings
from promptmill.pipeline.dataset.open import open_output
from promptmill.pipeline.dataset.targets import refuse_inside
from promptmill.pipeline.display import redact
from promptmill.pipeline.execution.events import Listener
from promptmill.pipeline.execution.run import RunSummary
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.storage.listing import would_name
from promptmill.schemas.curation import Curate
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.job import Job
from promptmill.schemas.prompts import Prompts


def check_section(asked: Curate, plan: Plan, there: Plan | None = None) -> Mapping[str, str] | None:
    """Raises JobError with all that is wrong with it. `there` is the plan of the job's dataset where there is one:
    what was curated of it before may lie in the section's place, and nothing else."""
    url = plan.job.output.url
    checks: list[Callable[[], object]] = [
        lambda: refuse_overlap(url, asked.to, "the job's output"),
        lambda: _refuse_overlaps(asked),
        lambda: _refuse_among_prompts(plan.job.prompts, asked.to),
        lambda: open_output(asked.to, "--to"),
        lambda: refuse_inside(asked.to, "--to"),
        lambda: Settings.of(asked, "--model"),
        lambda: known_parts(asked),
        lambda: check_label(plan, open_output(url), asked.label),
        lambda: _check_scores(plan.job, asked),
    ]
    with named_as_in_a_job():
        problems: list[Problem | str] = []
        for check in checks:
            try:
                check()
            except JobError as error:
                problems += error.problems
        if problems:
            raise JobError(*dict.fromkeys(problems))
        own = (open_output(url), open_output(asked.to), Settings.of(asked, "--model"))
        return refuse_other_curation(there or plan, *own, known_parts(asked))


def _refuse_overlaps(asked: Curate) -> None:
    for kind, sets in (("real", asked.real), ("test", asked.test)):
        for each in sets:
            refuse_overlap(each, asked.to, f"the {kind} images")


def _refuse_among_prompts(prompts: Prompts, to: str) -> None:
    for field, place in (("prompts.classes", prompts.classes), ("prompts.source", prompts.source)):
        if isinstance(place, str) and would_name(place, to):
            got = f"{redact(to)}, which the next run would read as part of it"
            raise JobError(Problem("--to", f"a place outside {field}", got, "Choose another"))


def _check_scores(job: Job, asked: Curate) -> None:
    """Of scores of the user's own their class knows the names."""
    classes = asked.label in (None, *LABELS) and job.per_class
    if asked.percentiles and classes and classes < LEAST_IMAGES:
        expected = f"at least {LEAST_IMAGES} images of each class, by select.per_class"
        raise JobError(Problem("--percentile", expected, f"{classes}"))
    if any(score.python for score in job.score):
        return
    names = job.score_names
    for name in asked.percentiles:
        if name not in names:
            expected = f"a score that the job makes ({', '.join(names) or 'it has none'})"
            raise JobError(Problem("--percentile", expected, repr(name)))


def curate_after(
    asked: Curate,
    plan: Plan,
    summary: RunSummary,
    listener: Listener,
    *,
    address: str | None,
    in_process: bool,
    contents: Mapping[str, str] | None = None,
) -> RunSummary:
    """The summary with what came of it. Nothing is curated of a run that did not come to its end, or with classes that
    are short: another round would come too late for the place that is taken."""
    unfinished = summary.interrupted or summary.over_budget is not None or summary.shards_done < summary.shards
    if unfinished or summary.short:
        return summary
    words = Progress(StepLines(listener.notice).tell)
    workers = plan.job.compute.workers
    with named_as_in_a_job():
        made = curate_dataset(
            plan.job.output.url,
            asked.to,
            Settings.of(asked, "--model"),
            address=address,
            in_process=in_process,
            workers=None if workers == "auto" else workers,
            progress=words,
            contents=contents if summary.found_whole else None,
        )
    return replace(summary, curated=made)
