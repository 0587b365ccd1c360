"""The path of one shard, from prompts to one committed Parquet object. Knows nothing of Ray."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from promptmill.pipeline.dataset.commit import commit_shard, committed_footer, write_receipt
from promptmill.pipeline.dataset.encode import SUFFIX, encode_image, parameters_text
from promptmill.pipeline.dataset.records import Outcome, RecordWriter
from promptmill.pipeline.models.interface import Generated, Generator, Pixels
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.planning.variants import variant_text
from promptmill.pipeline.prompts.reader import Block, Prompt
from promptmill.pipeline.worker.context import Clock, WorkerContext
from promptmill.pipeline.worker.recovery import Measured, generate_batch, measure, score_batch
from promptmill.pipeline.worker.selection import rejection_reasons
from promptmill.schemas.errors import SampleError
from promptmill.schemas.identity import sample_id, sample_seed
from promptmill.schemas.plan import Sample, Shard, ShardStats, Variant

NOTHING: Mapping[str, SampleError] = {}


def process_shard(shard: Shard, context: WorkerContext, quarantined: Mapping[str, SampleError] = NOTHING) -> ShardStats:
    """Make, score, select, encode and commit all samples of a shard; safe to call again at any time, anywhere.

    `quarantined` names samples that broke earlier workers: they end as failures without being tried.
    """
    clock = Clock()
    if (footer := committed_footer(context.store, shard, context.plan.fingerprint)) is not None:
        return ShardStats(shard.number, footer.counts, already_done=True)
    with clock("read"):
        work = read_work(shard, context, {**context.answered_later(shard), **quarantined})
    with context.device(clock):
        ending = list(make_images(work, context, clock))
    with clock("encode"):
        outcomes = [*work.failures, *(future.result() for future in ending)]
    with clock("write"):
        counts, size = commit_shard(shard, work.asked, outcomes, work.writer, context.store, context.plan.fingerprint)
    receipt = context.receipt(shard, counts, size, clock)
    write_receipt(context.store, receipt)
    return receipt


@dataclass
class Work:
    """A shard's samples in order. `ready` has the place of each sample that can be tried, None for the others."""

    variant: Variant
    block: Block
    asked: list[str] = field(default_factory=list)
    ready: list[Sample | None] = field(default_factory=list)
    failures: list[Outcome] = field(default_factory=list)
    writer: RecordWriter = field(init=False)

    def group(self, sample: Sample) -> int | str:
        """The same for the samples of one prompt, of which the best are kept; a retry has one row a sample."""
        return sample.row if self.block.prompts[sample.row].sample_index is None else sample.prompt_id

    def fields(self, row: int) -> dict[str, Any]:
        """What the source has beside the prompt."""
        values: list[dict[str, Any]] = self.block.passthrough.slice(row, 1).to_pylist()
        return values[0]


def read_work(shard: Shard, context: WorkerContext, quarantined: Mapping[str, SampleError]) -> Work:
    plan = context.plan
    work = Work(plan.variant(shard.variant), context.reader(shard.segment).read(shard.start, shard.stop))
    for row, prompt in enumerate(work.block.prompts):
        for sample in _samples(plan, work.variant, row, prompt):
            error = prompt.error or quarantined.get(sample.sample_id)
            work.asked.append(sample.sample_id)
            work.ready.append(None if error else sample)
            if error:
                attempts = plan.job.compute.max_attempts if prompt.error is None else 1
                work.failures.append(Outcome(sample, {}, error=error, attempts=attempts))
    clip = next((name for score in plan.job.score if score.clip for name in score.names), None)
    work.writer = RecordWriter(plan.job.score_names, work.block.passthrough, _constants(work.variant), clip)
    return work


def _samples(plan: Plan, variant: Variant, row: int, prompt: Prompt) -> Iterator[Sample]:
    once = prompt.sample_index is not None
    indices = [prompt.sample_index or 0] if once else range(variant.generation.images_per_prompt)
    for index in indices:
        if prompt.seed is None:
            seed = sample_seed(plan.job.seed, prompt.prompt_id, index)
        else:
            seed = prompt.seed if once else prompt.seed + index
        yield Sample(
            sample_id=prompt.sample_id or sample_id(prompt.prompt_id, variant, index),
            prompt_id=prompt.prompt_id,
            row=row,
            sample_index=index,
            seed=seed,
            prompt=prompt.prompt,
            negative_prompt=variant.generation.negative_prompt
            if prompt.negative_prompt is None
            else prompt.negative_prompt,
            caption=prompt.caption or prompt.prompt,
        )


def _constants(variant: Variant) -> dict[str, Any]:
    return {
        "variant": variant_text(variant.values),
        "model": variant.model.path,
        "model_revision": variant.model.revision,
        "pipeline_class": variant.model.pipeline_class,
        "num_inference_steps": variant.generation.num_inference_steps,
        "guidance_scale": variant.generation.guidance_scale,
    }


@dataclass(frozen=True)
class _Scored:
    """`scores` come from the device, `measured` from an encoder thread meanwhile."""

    sample: Sample
    made: Generated
    scores: Mapping[str, float | None]
    measured: Future[Measured]

    def score(self, name: str) -> float | None:
        return self.scores[name] if name in self.scores else self.measured.result().scores.get(name)


def make_images(work: Work, context: WorkerContext, clock: Clock) -> Iterator[Future[Outcome]]:
    """While batch k + 1 is on the device, the encoders work on what was kept of batch k."""
    if not any(work.ready):
        return
    before = context.pulse.model_loads
    with clock("load"):
        generator = context.generator(work.variant)
    clock.model_loads = context.pulse.model_loads - before
    work.writer.add_constants(
        {"scheduler": generator.scheduler_name(work.variant.generation), "dtype": generator.dtype}
    )
    for _, group in groupby(
        _generate_and_score(work, context, generator, clock), lambda scored: work.group(scored.sample)
    ):
        yield from _decide(list(group), work, context, generator)


def _generate_and_score(work: Work, context: WorkerContext, generator: Generator, clock: Clock) -> Iterator[_Scored]:
    settings, model = work.variant.generation, work.variant.model.path
    samples = [sample for sample in work.ready if sample is not None]
    scorers = context.scorers()
    context.pulse.step()  # from here on silence counts: text encoders can hang too
    with clock("prepare"):
        generator.prepare(samples, settings)
        for scorer in scorers:
            scorer.prepare([sample.caption for sample in samples])
    # A sample keeps its place: one that is not tried leaves a gap, so that its mates meet the batch they always had.
    for start in range(0, len(work.ready), settings.batch_size):
        batch = [sample for sample in work.ready[start : start + settings.batch_size] if sample is not None]
        if not batch:
            continue
        with clock("generate"):
            made = generate_batch(generator, batch, settings, context.pulse.step, context.limits, model)
        with clock("score"):
            scored = [score_batch(scorer, batch, made) for scorer in scorers]
        context.pulse.advance(len(batch))
        for i, sample in enumerate(batch):
            error = made[i].error or next((column[i].error for column in scored if column[i].error), None)
            scores = {scorer.name: column[i].value for scorer, column in zip(scorers, scored, strict=True)}
            result = made[i] if error is None else Generated(None, made[i].flags, error)
            fields = work.fields(sample.row) if context.metrics else {}
            measured = context.encoders.submit(measure, context.metrics, sample, result.pixels, fields)
            yield _Scored(sample, result, scores, measured)


def _decide(
    group: Sequence[_Scored], work: Work, context: WorkerContext, generator: Generator
) -> Iterator[Future[Outcome]]:
    job = context.plan.job
    usable = [scored for scored in group if scored.made.pixels is not None]
    reasons = rejection_reasons(
        [scored.score(job.select.by) if job.select else None for scored in usable],
        [scored.made.flags for scored in usable],
        [scored.sample.sample_index for scored in usable],
        job.select,
        work.block.prompts[group[0].sample.row].quota,
    )
    reason_of = dict(zip((scored.sample.sample_id for scored in usable), reasons, strict=True))
    for scored in group:
        yield context.encoders.submit(_finish, scored, reason_of.get(scored.sample.sample_id), work, context, generator)


def _finish(scored: _Scored, reason: str | None, work: Work, context: WorkerContext, generator: Generator) -> Outcome:
    sample, made, output, measured = scored.sample, scored.made, context.plan.job.output, scored.measured.result()
    error, scores = made.error or measured.error, {**scored.scores, **measured.scores}
    if made.pixels is None or error is not None:
        error = error or SampleError("generation", "the model returned no image")
        return Outcome(sample, scores, made.flags, error=error, attempts=2 if error.kind == "not_finite" else 1)
    height, width = made.pixels.shape[:2]
    outcome = Outcome(sample, scores, made.flags, width, height, reason=reason)
    if reason is not None and not output.keep_rejected_images:
        return outcome
    return _encode(outcome, made.pixels, work, context, generator)


def _encode(outcome: Outcome, pixels: Pixels, work: Work, context: WorkerContext, generator: Generator) -> Outcome:
    sample, variant, output = outcome.sample, work.variant, context.plan.job.output
    height, width = pixels.shape[:2]
    parameters = None
    if output.embed_parameters:
        scheduler = generator.scheduler_name(variant.generation)
        parameters = parameters_text(sample, variant.generation, variant.model, scheduler, width, height)
    try:
        image = encode_image(pixels, parameters, output)
    except (OSError, ValueError) as error:
        return Outcome(sample, outcome.scores, outcome.flags, error=SampleError("encoding", str(error)))
    name = f"{sample.sample_id}.{SUFFIX[output.image_format]}"
    return Outcome(sample, outcome.scores, outcome.flags, width, height, image, name, outcome.reason)


def try_samples(shard: Shard, context: WorkerContext, sample_ids: Sequence[str], blank: bool = False) -> list[str]:
    """Make some samples of a shard and throw them away; returns all that can be tried, after loading the model.

    `blank` empties their prompts and captions: what dies then is not the samples' fault.
    """
    clock = Clock()
    work = read_work(shard, context, NOTHING)
    ready = [sample for sample in work.ready if sample is not None]
    wanted = [sample for sample in ready if sample.sample_id in set(sample_ids)]
    if blank:
        wanted = [replace(sample, prompt="", caption="") for sample in wanted]
    with context.device(clock):
        generator = context.generator(work.variant)
        settings = work.variant.generation
        if wanted:
            context.pulse.step()
            generator.prepare(wanted, settings)
        for start in range(0, len(wanted), settings.batch_size):
            batch = wanted[start : start + settings.batch_size]
            made = generate_batch(
                generator, batch, settings, context.pulse.step, context.limits, work.variant.model.path
            )
            for scorer in context.scorers():
                scorer.prepare([sample.caption for sample in batch])
                score_batch(scorer, batch, made)
    return [sample.sample_id for sample in ready]
