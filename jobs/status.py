"""`promptmill status` and `promptmill verify`: how far a dataset is, and whether it is right."""

from __future__ import annotations

from dataclasses import asdict

from promptmill.pipeline.dataset.open import open_dataset
from promptmill.pipeline.dataset.state import dataset_counts, read_counts
from promptmill.pipeline.dataset.verify import repair as remove
from promptmill.pipeline.dataset.verify import verify_dataset
from promptmill.schemas.results import StatusResult, VerifyResult


def status(url: str) -> StatusResult:
    """From anywhere, while it runs or not. Raises JobError where there is no dataset."""
    plan, store = open_dataset(url)
    by_shard = read_counts(plan, store)
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


def verify(url: str, deep: bool, repair: bool) -> VerifyResult:
    """`ok` says that nothing is wrong and nothing is missing; with `repair` as it is afterwards."""
    plan, store = open_dataset(url)
    result = verify_dataset(plan, store, deep)
    removed = remove(result, store) if repair else []
    if removed:
        result = verify_dataset(plan, store, deep)
    return VerifyResult(
        name=plan.job.name,
        output=url,
        fingerprint=plan.fingerprint,
        ok=result.complete,
        samples_asked_for=plan.samples,
        **asdict(result.counts),
        shards=result.shards,
        shards_done=result.shards_done,
        missing_shards=result.missing,
        problems=result.problems,
        orphans=result.orphans,
        removed=removed,
        images_checked=result.images_checked,
    )
