"""What the speed of a job hangs on."""

from __future__ import annotations

from promptmill.pipeline.planning import variants
from promptmill.pipeline.planning.plan import Plan
from promptmill.schemas.identity import canonical_json, digest


def settings_of(plan: Plan) -> str:
    """A hash of all that the speed of a job hangs on, and of nothing else."""
    job = plan.job
    models = [(each.path, each.revision, each.dtype, each.quantization, each.offload) for each in plan.models]
    parts = [job.generation, job.sweep, *job.score]
    content = [part.model_dump(mode="json", exclude={"images_per_prompt"}) for part in parts]
    threads = job.compute.threads_per_worker
    return digest(canonical_json({"models": models, "parts": content, "threads": threads}))[:16]


def work_of_variants(plan: Plan) -> float:
    """How much more steps and pixels an image of all variants takes than one of the first, on average."""
    job, first = plan.job, plan.variant(0)
    models = dict(zip(variants.swept_models(job), plan.models, strict=True))
    tally = variants.tally(job, "model", "width", "height", "num_inference_steps")
    total = sum(
        count * (width or models[model].width) * (height or models[model].height) * steps
        for (model, width, height, steps), count in tally.items()
    )
    own = first.generation
    one = (own.width or first.model.width) * (own.height or first.model.height) * own.num_inference_steps
    return float(total) / plan.variant_count / one
