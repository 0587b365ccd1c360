"""`promptmill validate`: everything that can be known before a GPU is taken."""

from __future__ import annotations

import contextlib

from promptmill.jobs.console import say, say_json
from promptmill.jobs.options import AsJson, JobFile, Set, Yes, loaded_job
from promptmill.jobs.plan import as_asked, check_curate, say_suite
from promptmill.pipeline.dataset.open import open_output, read_plan
from promptmill.pipeline.planning.plan import Plan, plan_job
from promptmill.schemas.errors import InputError, JobError
from promptmill.schemas.job import Job
from promptmill.schemas.results import ValidateResult


def validate(job: Job, allow_large_sweep: bool) -> Plan:
    """Job, models, scorers and prompts hold. Raises JobError with all problems.

    The output is looked at only where rows are wrong, since they end no dataset that an earlier version began, and for
    what was curated of it.
    """
    plan = plan_job(job, allow_large_sweep)
    if plan.wrong and read_plan(open_output(job.output.url, "output.url")) is None:
        raise InputError(*plan.wrong)
    if job.curate is not None:
        check_curate(plan, _there(plan))
    return plan


def _there(plan: Plan) -> Plan | None:
    """The job's dataset as `run --extend` would have it; None where there is none, or that of another job."""
    with contextlib.suppress(JobError):
        return as_asked(plan, extend=True)
    return None


def command(job: JobFile, set_: Set = None, yes: Yes = False, as_json: AsJson = False) -> None:
    """Check a job file and everything it names; nothing is started or written."""
    with loaded_job(job, set_) as loaded:
        plan = validate(loaded, yes)
    if as_json:
        say_json(ValidateResult(True, plan.job.name, plan.fingerprint, plan.suite, list(plan.notices)).as_json())
        return
    for notice in plan.notices:
        say(f"note: {notice}")
    say_suite(plan)
    say(f"{job}: ok. {_count(plan)}")


def _count(plan: Plan) -> str:
    """Of a job with `select.per_class` its first round: how many more there are is known when it is made."""
    per_class, classes = plan.job.per_class, len(plan.words.classes)
    if per_class is None:
        return f"{plan.prompts:,} prompts × {plan.variant_count:,} variants = {plan.samples:,} images"
    places = f"{classes:,} classes × {per_class:,} × {plan.variant_count:,} variants"
    tries = plan.samples // max(1, classes * per_class * plan.variant_count)
    return f"{places}, {tries:,} tries for each = {plan.samples:,} images in the first round"
