"""What a shard asks for: its prompts, as samples with ids and seeds, before anything is made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from promptmill.pipeline.dataset.passed import more_fields
from promptmill.pipeline.dataset.records import Outcome, RecordWriter
from promptmill.pipeline.models.catalog.diffusers_source import call_defaults
from promptmill.pipeline.models.catalog.tasks import STRENGTH, class_for, steps_made, task_for
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.planning.variants import variant_text
from promptmill.pipeline.prompts.prompt import Block, Prompt
from promptmill.pipeline.worker.context import WorkerContext
from promptmill.pipeline.worker.row_settings import with_size, wrong_settings
from promptmill.schemas.columns import ORIGIN
from promptmill.schemas.errors import SampleError
from promptmill.schemas.generation import Generation
from promptmill.schemas.identity import sample_id, sample_seed
from promptmill.schemas.inputs import Task, TaskName
from promptmill.schemas.origin import SYNTHETIC
from promptmill.schemas.plan import Sample, Shard, Variant
from promptmill.schemas.prompts import LARGEST_SEED
from promptmill.schemas.records import LARGEST_NARROW_SEED
from promptmill.schemas.resolved import with_triggers
from promptmill.schemas.row_values import rows_of

TRIES_ALONE = 3
"""So often a sample breaks its worker, alone, before it is given up (`fleet/bisect.py`); its row says so, whatever
`compute.max_attempts` is: no row depends on how a job runs."""


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

    def batches(self) -> Iterator[list[Sample]]:
        """A sample keeps its place: one that is not tried leaves a gap, so that its mates meet the batch they had."""
        size = self.variant.generation.batch_size
        for start in range(0, len(self.ready), size):
            batch = [sample for sample in self.ready[start : start + size] if sample is not None]
            if batch:
                yield batch

    def fields(self, row: int) -> dict[str, Any]:
        """What the source has beside the prompt."""
        return rows_of(self.block.passthrough.slice(row, 1))[0]


def read_work(shard: Shard, context: WorkerContext, quarantined: Mapping[str, SampleError]) -> Work:
    plan = context.plan
    work = Work(plan.variant(shard.variant), context.reader(shard.segment).read(shard.start, shard.stop))
    for row, prompt in enumerate(work.block.prompts):
        for sample in _samples(plan, work.variant, row, prompt):
            error = prompt.error or quarantined.get(sample.sample_id) or _unfit(plan, work.variant, sample)
            error = error or _too_wide(plan, prompt, sample)
            work.asked.append(sample.sample_id)
            work.ready.append(None if error else sample)
            if error:
                sample = sample if plan.wide_seeds else replace(sample, seed=min(sample.seed, LARGEST_NARROW_SEED))
                attempts = TRIES_ALONE if error.kind in ("crash", "hang") else 1
                work.failures.append(Outcome(sample, {}, error=error, attempts=attempts))
    clip = next((name for score in plan.job.score if score.clip for name in score.names), None)
    task = plan.job.task
    constants = _constants(work.variant, task, plan.control_modes)
    if plan.origins and plan.lineage_at(shard.segment).whole:
        constants[ORIGIN] = SYNTHETIC
    own = (constants, clip, more_fields(plan), plan.wide_seeds, plan.words.class_names)
    work.writer = RecordWriter(plan.score_names, work.block.passthrough, *own)
    return work


def _samples(plan: Plan, variant: Variant, row: int, prompt: Prompt) -> Iterator[Sample]:
    once = prompt.sample_index is not None
    images = variant.generation.images_per_prompt if prompt.images is None else prompt.images
    indices = [prompt.sample_index or 0] if once else range(prompt.first_index, prompt.first_index + images)
    for index in indices:
        if prompt.seed is None:
            seed = sample_seed(plan.job.seed, prompt.prompt_id, index)
        else:
            seed = (prompt.seed if once else prompt.seed + index) % (LARGEST_SEED + 1)
        yield Sample(
            sample_id=prompt.sample_id or sample_id(prompt.prompt_id, variant, index),
            prompt_id=prompt.prompt_id,
            row=row,
            sample_index=index,
            seed=seed,
            prompt=with_triggers(prompt.prompt, variant.model.adapters, prompt.adapters),
            negative_prompt=variant.generation.negative_prompt
            if prompt.negative_prompt is None
            else prompt.negative_prompt,
            caption=prompt.caption or prompt.prompt,
            inputs=prompt.inputs,
            strength=_strength(plan, variant, prompt),
            adapters=_chosen(variant, prompt),
            adapter_weights=prompt.adapter_weights,
            settings=with_size(prompt.settings, variant.generation, variant.model),
            written=prompt.written,
            steering=prompt.steering,
            label=prompt.label,
        )


def _chosen(variant: Variant, prompt: Prompt) -> tuple[str, ...] | None:
    """A tag in a prompt names LoRA adapters; textual inversions act by their words, and are there for all."""
    if prompt.adapters is None or prompt.written is None:
        return prompt.adapters
    words = (each.name for each in variant.model.adapters if each.kind == "embedding")
    return tuple(dict.fromkeys([*prompt.adapters, *words]))


def _too_wide(plan: Plan, prompt: Prompt, sample: Sample) -> SampleError | None:
    """Of a dataset that was begun before such seeds were read. Behind the last one a sample's seed is 0 again."""
    largest = max(prompt.seed or 0, sample.seed)
    if plan.wide_seeds or largest <= LARGEST_NARROW_SEED:
        return None
    return SampleError("invalid_seed", f"expected up to {LARGEST_NARROW_SEED} in this dataset, got {largest}")


def _unfit(plan: Plan, variant: Variant, sample: Sample) -> SampleError | None:
    """Why what a row asks of the model itself cannot be done."""
    known = {each.name for each in variant.model.adapters}
    if strange := [name for name in sample.adapters or () if name not in known]:
        expected = ", ".join(sorted(known)) or "none, for this model has no adapters"
        return SampleError("invalid_adapter", f"expected {expected}, got {strange[0][:80]!r}")
    _, start, end = variant.generation.steering(sample.steering)
    if variant.model.controlnets and start >= end:
        return SampleError("invalid_steering", f"expected control_start below control_end, got {start:g} and {end:g}")
    return wrong_settings(variant, sample) or _no_step(plan, variant, sample)


def _no_step(plan: Plan, variant: Variant, sample: Sample) -> SampleError | None:
    """Why a row's own strength makes nothing; that of the job was looked at before."""
    steps, task = sample.drawn_with(variant.generation).num_inference_steps, _task(plan.job.task, variant)
    if sample.strength is None or steps_made(task, variant.model.pipeline_class, steps, sample.strength) >= 1:
        return None
    return SampleError("invalid_strength", f"{sample.strength:g} of {steps} steps leaves none")


def _strength(plan: Plan, variant: Variant, prompt: Prompt) -> float | None:
    """The row's, else the job's, else the task's own; None for a job that draws from text alone."""
    given = variant.generation.strength if prompt.strength is None else prompt.strength
    return STRENGTH.get(_task(plan.job.task, variant)) if given is None else given


def _task(task: Task, variant: Variant) -> TaskName:
    return task_for(task.roles, variant.model.pipeline_class)


def _looks(variant: Variant) -> dict[str, Any] | None:
    given = variant.model.ip_adapter
    if given is None:
        return None
    return {"path": given.path, "weights": given.weights, "revision": given.revision, "scale": given.scale}


def _image_guidance(generation: Generation, base: str) -> float | None:
    own = call_defaults(base).get("image_guidance_scale")
    return own if generation.image_guidance_scale is None else generation.image_guidance_scale


def _constants(variant: Variant, task: Task, modes: bool) -> dict[str, Any]:
    base, generation = variant.model.pipeline_class, variant.generation
    name = _task(task, variant)
    return {
        **({"task": name} if task.roles else {}),
        "adapters": [
            {"name": each.name, "sha": each.sha, "weight": each.weight, "trigger": each.trigger}
            for each in variant.model.adapters
        ],
        "controls": [
            {
                **{"name": net.name, "revision": net.revision, "preprocess": net.preprocess, "scale": net.scale},
                **({"mode": net.mode} if modes else {}),
            }
            for net in variant.model.controlnets
        ],
        "ip_adapter": _looks(variant),
        "generation": generation,
        "variant": variant_text(variant.values),
        "model": variant.model.path,
        "model_revision": variant.model.revision,
        "pipeline_class": class_for(name, base, variant.model.control) or base,
        "num_inference_steps": variant.generation.num_inference_steps,
        "guidance_scale": variant.generation.guidance_scale,
        "image_guidance_scale": _image_guidance(generation, base),
        "mask_blur": generation.mask_blur,
        "mask_crop": generation.mask_crop,
    }
