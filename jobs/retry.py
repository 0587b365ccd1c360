"""`promptmill retry`: failed samples again, with the rest of the dataset as it is."""

from __future__ import annotations

from dataclasses import replace

from promptmill.jobs.arguments import OwnJob, TrustDataset
from promptmill.jobs.options import Address, AsJson, InProcess, Url
from promptmill.jobs.outcome import finish
from promptmill.jobs.run import new_progress, run_plan
from promptmill.jobs.telling import QUIET, LogFormat, MetricsFile, MetricsPort, Telling, begin_telling
from promptmill.jobs.trust import own_job, reach_of, refuse_strangers
from promptmill.pipeline.curation.claim import refuse_curated
from promptmill.pipeline.dataset.open import located, open_dataset
from promptmill.pipeline.dataset.retry import plan_retry
from promptmill.pipeline.execution.run import RunSummary
from promptmill.pipeline.planning.plan import Plan


def retry(
    url: str,
    *,
    address: str | None,
    in_process: bool,
    trust_dataset: bool = False,
    job: str | None = None,
    telling: Telling = QUIET,
) -> tuple[Plan, RunSummary]:
    """Exactly once as well: stopped half-way, the same command continues.

    Raises JobError while `run` is unfinished, and for models and images that only the dataset names, unless it
    is trusted. `job` is your own job file: what it names is trusted, and it runs with its `compute:`.
    """
    with new_progress(None, telling) as progress:
        plan, store = open_dataset(url, on_wait=progress.notice)
        refuse_curated(plan, url, "retry")
        refuse_strangers(plan, url, trust_dataset, job)
        reach = reach_of(store, trust_dataset, job)
        plan = located(plan_retry(plan, store, reach), store)
        output = plan.job.output.model_copy(update={"url": url})
        compute = plan.job.compute if job is None else own_job(job).compute
        plan = replace(plan, job=plan.job.model_copy(update={"output": output, "compute": compute}))
        return plan, run_plan(
            plan, store, progress, address=address, in_process=in_process, reach=reach, telling=telling
        )


def command(
    url: Url,
    address: Address = None,
    in_process: InProcess = False,
    trust_dataset: TrustDataset = False,
    job: OwnJob = None,
    log_format: LogFormat = "text",
    metrics_port: MetricsPort = None,
    metrics_file: MetricsFile = None,
    as_json: AsJson = False,
) -> None:
    """Make failed samples again, into new shards of the same dataset."""
    telling = begin_telling(log_format, metrics_port, metrics_file)
    planned, summary = retry(
        url, address=address, in_process=in_process, trust_dataset=trust_dataset, job=job, telling=telling
    )
    in_vain = not summary.made.samples and not summary.interrupted
    finish(planned, summary, as_json, rows_at_fault=in_vain)
