"""`promptmill validate`: everything that can be known before a GPU is taken."""

from __future__ import annotations

from promptmill.pipeline.planning.plan import Plan, plan_job
from promptmill.schemas.job import Job


def validate(job: Job, allow_large_sweep: bool) -> Plan:
    """Job, models, scorers and prompts hold; the output is not looked at. Raises JobError with all problems."""
    return plan_job(job, allow_large_sweep)
