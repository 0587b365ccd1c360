"""`promptmill retry`: failed samples again, with the rest of the dataset as it is."""

from __future__ import annotations

from dataclasses import replace

from promptmill.jobs.run import new_progress, run_plan
from promptmill.jobs.trust import reach_of, refuse_strangers
from promptmill.pipeline.dataset.open import located, open_dataset
from promptmill.pipeline.dataset.retry import plan_retry
from promptmill.pipeline.execution.run import RunSummary
from promptmill.pipeline.planning.plan import Plan


def retry(
    url: str, *, address: str | None, in_process: bool, trust_dataset: bool = False, job: str | None = None
) -> tuple[Plan, RunSummary]:
    """Exactly once as well: stopped half-way, the same command continues.

    Raises JobError while `run` is unfinished, and for models and images that only the dataset names, unless it
    is trusted.
    """
    with new_progress() as progress:
        plan, store = open_dataset(url, on_wait=progress.notice)
        refuse_strangers(plan, url, trust_dataset, job)
        reach = reach_of(store, trust_dataset, job)
        plan = located(plan_retry(plan, store, reach), store)
        output = plan.job.output.model_copy(update={"url": url})
        plan = replace(plan, job=plan.job.model_copy(update={"output": output}))
        return plan, run_plan(plan, store, progress, address=address, in_process=in_process, reach=reach)
