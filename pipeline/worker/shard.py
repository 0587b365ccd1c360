"""The path of one shard, from prompts to one committed Parquet object. Knows nothing of Ray."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from promptmill.pipeline.dataset.commit import commit_shard, proven, write_receipt
from promptmill.pipeline.dataset.records import Outcome
from promptmill.pipeline.worker.context import Clock, WorkerContext
from promptmill.pipeline.worker.images import ImageMaker
from promptmill.pipeline.worker.recovery import score_batch
from promptmill.pipeline.worker.work import read_work
from promptmill.schemas.errors import SampleError
from promptmill.schemas.plan import Shard, ShardStats

NOTHING: Mapping[str, SampleError] = {}


def process_shard(
    shard: Shard, context: WorkerContext, quarantined: Mapping[str, SampleError] = NOTHING, attempt: int = 1
) -> ShardStats:
    """Make, score, select, encode and commit all samples of a shard; safe to call again at any time, anywhere.

    `quarantined` names samples that broke earlier workers: they end as failures without being tried. `attempt` counts
    this run's tries of the shard from 1.
    """
    clock = Clock()
    if (footer := proven(context.store, shard, context.plan.fingerprint)) is not None:
        return ShardStats(shard.number, footer.counts, already_done=True)
    with clock("read"):
        work = read_work(shard, context, {**context.answered_later(shard), **quarantined})
    with context.device(clock):
        encoding = list(ImageMaker(work, context, clock).make()) if any(work.ready) else []
    with clock("encode"):
        outcomes = [*work.failures, *(future.result() for future in encoding)]
    with clock("write"):
        versions = context.versions(tried=any(work.ready))
        fingerprint = context.plan.fingerprint
        counts, size = commit_shard(shard, work.asked, outcomes, work.writer, context.store, fingerprint, versions)
    receipt = context.receipt(shard, counts, size, clock, attempt)
    receipt = replace(receipt, versions=versions, rejected=_reasons(outcomes), failed=_kinds(outcomes))
    write_receipt(context.store, shard, receipt)
    return receipt


def _reasons(outcomes: Sequence[Outcome]) -> dict[str, int]:
    return dict(Counter(each.reason for each in outcomes if each.error is None and each.reason is not None))


def _kinds(outcomes: Sequence[Outcome]) -> dict[str, int]:
    return dict(Counter(each.error.kind for each in outcomes if each.error is not None))


def try_samples(shard: Shard, context: WorkerContext, sample_ids: Sequence[str], blank: bool = False) -> list[str]:
    """Make some samples of a shard and throw them away; returns all that can be tried, after loading the model.

    `blank` empties their prompts and captions: what dies then is not the samples' fault.
    """
    work = read_work(shard, context, NOTHING)
    ready = [sample for sample in work.ready if sample is not None]
    chosen = set(sample_ids)
    tried = [replace(s, prompt="", caption="") if blank else s for s in ready if s.sample_id in chosen]
    with context.device(Clock()):
        generator = context.generator(work.variant)
        if tried:
            context.pulse.step()
            generator.prepare(tried)
        size = work.variant.generation.batch_size
        for batch in (tried[start : start + size] for start in range(0, len(tried), size)):
            made = generator.generate(batch)
            for scorer in context.scorers():
                scorer.prepare([sample.caption for sample in batch])
            score_batch(context.scorers(), batch, made, lambda sample: work.fields(sample.row))
    return [sample.sample_id for sample in ready]
