"""What a dataset names is loaded where its user has named it too, or says `--trust-dataset`."""

from __future__ import annotations

from pathlib import Path

from promptmill.pipeline.display import redact
from promptmill.pipeline.models.catalog.trust import Named, strangers
from promptmill.pipeline.planning.checks import check_job
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.prompts.reach import Reach, places_of, reach_from
from promptmill.pipeline.prompts.source import open_source
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import JobError, NoFilesError, Problem
from promptmill.schemas.job import Job

_SHOWN = 10


def refuse_strangers(plan: Plan, url: str, trusted: bool, job: str | None, clips: bool = True) -> None:
    """Raises JobError for models and classes of scores that neither a job run here nor the file `job` names.

    `clips` says that those load too.
    """
    if trusted:
        return
    named: tuple[Named, ...] = (*plan.models, *plan.python_scores, *(plan.clips if clips else ()))
    unknown = strangers(named, _named_by(job)) if strangers(named) else []
    if unknown:
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        hint = (
            "Somebody else may have made this dataset. `--trust-dataset` loads them all the same, "
            "`--job JOB.yaml` those that your own job names"
        )
        got = ", ".join(map(redact, unknown[:_SHOWN])) + more
        raise JobError(Problem(f"models of {redact(url)}", "models that a job run here has named", got, hint))


def reach_of(store: Store, trusted: bool, job: str | None) -> Reach | None:
    """What may be read for a dataset beside the models that it names; None for all."""
    if trusted:
        return None
    own = [] if job is None else _places_of(own_job(job))
    return reach_from(store, own)


def _places_of(job: Job) -> list[str]:
    """None where its prompts are gone: a retry needs them no more."""
    try:
        return places_of(open_source(job.prompts, job.output.url).files)
    except NoFilesError:
        return []


def _named_by(job: str | None) -> tuple[Named, ...]:
    if job is None:
        return ()
    models, clips, own = check_job(own_job(job), allow_large_sweep=True)
    return (*models, *clips, *own)


def own_job(path: str) -> Job:
    """Of the file that `--job` names."""
    from promptmill.pipeline.jobfile.reader import load_job

    return load_job(Path(path))
