"""`promptmill validate`: everything that can be known before a GPU is taken."""

from __future__ import annotations

from promptmill.pipeline.dataset.open import open_output, read_plan
from promptmill.pipeline.planning.plan import Plan, plan_job
from promptmill.schemas.errors import InputError
from promptmill.schemas.job import Job


def validate(job: Job, allow_large_sweep: bool) -> Plan:
    """Job, models, scorers and prompts hold. Raises JobError with all problems.

    The output is looked at only where rows are wrong: they end no dataset that an earlier version began.
    """
    plan = plan_job(job, allow_large_sweep)
    if plan.wrong and read_plan(open_output(job.output.url, "output.url")) is None:
        raise InputError(*plan.wrong)
    return plan
