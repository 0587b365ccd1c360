"""What a run writes when its shards are done: the dataset card and the report."""

from __future__ import annotations

from collections.abc import Callable

from promptmill.jobs.console import first_of
from promptmill.pipeline.dataset.open import newest_plan
from promptmill.pipeline.dataset.state import dataset_counts, read_counts
from promptmill.pipeline.execution.events import Listener
from promptmill.pipeline.execution.run import RunListener, RunSummary
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.prompts.reach import Reach
from promptmill.pipeline.report.current import is_current
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import PromptmillError


def tell_what_is_there(
    plan: Plan, store: Store, summary: RunSummary, progress: RunListener, reach: Reach | None
) -> bool:
    """Write card and report, where they do not say it already: of a large dataset they take minutes.

    Whether the report says it.
    """
    from promptmill.pipeline.export.card import says_license

    told = not summary.made.samples and not summary.lost and store.entry("README.md") is not None and is_current(store)
    if not told or not says_license(plan, store):
        _succeeds(lambda: _write_card(plan, store, summary), "dataset card", "The same command", progress)
    if told:
        return True
    again = f"`promptmill report {store.url}`"
    return _succeeds(lambda: _write_report(plan, store, summary, progress, reach), "report", again, progress)


def _write_card(plan: Plan, store: Store, summary: RunSummary) -> None:
    from promptmill.pipeline.export.card import write_card

    newest = newest_plan(plan, store)  # another `run --extend` may have written the card of more
    by_shard = read_counts(newest, store) if newest is not plan else {}
    counts = dataset_counts(newest, by_shard) if by_shard else summary.counts
    if (len(by_shard) or summary.shards_done) == newest.shards:
        write_card(newest, store, counts, summary.versions)


def _write_report(plan: Plan, store: Store, summary: RunSummary, listener: Listener, reach: Reach | None) -> None:
    from promptmill.pipeline.report.build import build_report  # 3 s of CPU to import, which no worker should wait for

    price = plan.job.compute.price_per_hour
    problems = build_report(plan, store, summary.seconds, price, reach=reach).problems
    for problem in first_of(problems, f"`promptmill report {store.url} --json`"):
        listener.notice(problem)


def _succeeds(write: Callable[[], None], what: str, again: str, listener: Listener) -> bool:
    try:
        write()
    except PromptmillError:
        raise
    except Exception as error:  # the dataset is whole: a defect of the page must not make a scheduler run it again
        listener.notice(f"no {what}: {type(error).__name__}: {error}. {again} tries again")
        return False
    return True
