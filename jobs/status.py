"""`promptmill status` and `promptmill verify`: how far a dataset is, and whether it is right."""

from __future__ import annotations

from dataclasses import asdict

from promptmill.pipeline.dataset.open import newest_plan, open_dataset
from promptmill.pipeline.dataset.repair import GRACE_S, Repair
from promptmill.pipeline.dataset.repair import repair as remove
from promptmill.pipeline.dataset.state import dataset_counts, read_counts
from promptmill.pipeline.dataset.verify import verify_dataset
from promptmill.schemas.results import StatusResult, VerifyResult


def status(url: str) -> StatusResult:
    """From anywhere, while it runs or not. Raises JobError where there is no dataset."""
    plan, store = open_dataset(url)
    by_shard = read_counts(plan, store)
    while (newer := newest_plan(plan, store)) is not plan:  # extended while it was counted
        plan, by_shard = newer, read_counts(newer, store)
    return StatusResult(
        name=plan.job.name,
        output=url,
        fingerprint=plan.fingerprint,
        samples_asked_for=plan.samples,
        **asdict(dataset_counts(plan, by_shard)),
        shards=plan.shards,
        shards_done=len(by_shard),
        complete=len(by_shard) == plan.shards,
    )


def verify(url: str, deep: bool, repair: bool, grace_s: float = GRACE_S) -> VerifyResult:
    """`ok` says that nothing is wrong and nothing is missing; with `repair` as it is afterwards."""
    plan, store = open_dataset(url)
    result = verify_dataset(plan, store, deep)
    done = remove(result, store, grace_s) if repair else Repair()
    if done.removed:
        result = verify_dataset(plan, store, deep)
    plan = result.plan
    return VerifyResult(
        name=plan.job.name,
        output=url,
        fingerprint=plan.fingerprint,
        ok=result.complete,
        samples_asked_for=plan.samples,
        **asdict(result.counts),
        shards=plan.shards,
        shards_done=result.shards_done,
        missing_shards=result.missing,
        problems=result.problems,
        orphans=sorted({entry.name for entry in result.orphans} - set(done.spared)),
        removed=done.removed,
        spared=done.spared,
        strangers=result.strangers,
        images_checked=result.images_checked,
    )
