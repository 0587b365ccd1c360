"""`promptmill plan`: what a run would make, and what is already there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Annotated

import typer
from rich.filesize import decimal

from promptmill.jobs.console import say, say_json, table
from promptmill.jobs.options import AsJson, Extend, JobFile, Set, Yes, loaded_job
from promptmill.jobs.probed import estimate, speed_of
from promptmill.pipeline.dataset.claim import join
from promptmill.pipeline.dataset.extend import as_if_extended
from promptmill.pipeline.dataset.keys import shard_number
from promptmill.pipeline.dataset.open import open_output, read_plan
from promptmill.pipeline.dataset.state import missing_shards, read_counts
from promptmill.pipeline.display import format_duration
from promptmill.pipeline.planning import variants
from promptmill.pipeline.planning.plan import Plan, plan_job
from promptmill.pipeline.planning.variants import describe_axes
from promptmill.schemas.errors import InputError, NoFilesError
from promptmill.schemas.job import Job
from promptmill.schemas.operations import Estimate
from promptmill.schemas.results import PlanResult

# Bytes a pixel of photographs at 1024² (PNG level 1, lossless WebP method 0, JPEG 95); a guess for other subjects.
_BYTES_A_PIXEL = {"png": 1.7, "webp": 1.2, "jpeg": 0.4}
_BYTES_A_ROW = 1_000


def plan(job: Job, allow_large_sweep: bool, extend: bool = False) -> tuple[Plan, PlanResult]:
    """The plan, and what is printed of it. Raises OutputMismatchError where the output belongs to another job."""
    planned = plan_of(job, allow_large_sweep, extend)
    store = open_output(job.output.url, "output.url")
    stored = read_plan(store)
    if stored is None:
        if planned.wrong:
            raise InputError(*planned.wrong)
        check_curate(planned, None)
        return planned, describe(planned, 0, 0)
    if extend:
        planned, stored = as_if_extended(planned, stored, store)
    planned = join(planned, stored, store.url)
    check_curate(planned, planned)
    done = read_counts(planned, store)
    bytes_done = sum(entry.size_bytes for entry in store.list("data") if shard_number(entry.name) in done)
    return planned, describe(planned, len(done), bytes_done)


def check_curate(planned: Plan, there: Plan | None) -> Mapping[str, str] | None:
    """As `check_section`."""
    if planned.job.curate is None:
        return None
    from promptmill.jobs.curate_after import check_section

    return check_section(planned.job.curate, planned, there)


def plan_of(job: Job, allow_large_sweep: bool, extend: bool) -> Plan:
    """As `plan_job`; a dataset that is extended misses no file, even where all are archived."""
    try:
        return plan_job(job, allow_large_sweep)
    except NoFilesError:
        stored = read_plan(open_output(job.output.url, "output.url")) if extend else None
        if stored is None:
            raise
        return plan_job(job, allow_large_sweep, stored)


def is_whole(planned: Plan, extend: bool) -> bool:
    """Whether a run would find nothing to make: no machine needs to be asked for anything. Raises as `plan`."""
    there = as_asked(planned, extend)
    return there is not None and not missing_shards(there, open_output(planned.job.output.url, "output.url"))


def as_asked(planned: Plan, extend: bool) -> Plan | None:
    """The plan of the dataset that is there, as a run would have it; None where there is none. Raises as `plan`."""
    store = open_output(planned.job.output.url, "output.url")
    stored = read_plan(store)
    if stored is None:
        return None
    if extend:
        planned, stored = as_if_extended(planned, stored, store)
    return join(planned, stored, store.url)


def describe(planned: Plan, shards_done: int, bytes_done: int) -> PlanResult:
    per_shard = bytes_done / shards_done if shards_done else None
    estimated = per_shard * planned.shards if per_shard else _estimate(planned)
    return PlanResult(
        name=planned.job.name,
        output=planned.job.output.url,
        fingerprint=planned.fingerprint,
        task=" and ".join(planned.tasks),
        prompts=planned.prompts,
        suite=planned.suite,
        variants=planned.variant_count,
        samples=planned.samples,
        shards=planned.shards,
        shards_done=shards_done,
        bytes_estimated=math.ceil(estimated),
        models=[{**asdict(model), "files": len(model.files)} for model in planned.models],
        axes={name: len(values) for name, values in planned.job.sweep.axes().items()},
        variants_excluded=math.prod(planned.job.sweep.grid.sizes) - planned.variant_count,
        notices=list(planned.notices),
    )


def _estimate(planned: Plan) -> float:
    job = planned.job
    models = dict(zip(variants.swept_models(job), planned.models, strict=True))
    sizes = variants.tally(job, "model", "width", "height")
    pixels = sum(
        count * (width or models[model].width) * (height or models[model].height)
        for (model, width, height), count in sizes.items()
    )
    share = 1.0
    if job.select is not None and job.select.keep is not None and not job.output.keep_rejected_images:
        share = min(1.0, job.select.keep * planned.prompts * planned.variant_count / max(1, planned.samples))
    image = pixels / planned.variant_count * _BYTES_A_PIXEL[job.output.image_format]
    return planned.samples * (share * image + _BYTES_A_ROW)


def _with_estimate(
    planned: Plan, result: PlanResult, path: str, gpu: str | None, rate: float | None, workers: int | None
) -> PlanResult:
    speed = speed_of(planned, path, gpu, rate)
    if speed is None:
        return result
    compute = planned.job.compute
    images = round(result.samples * (1 - result.shards_done / max(1, result.shards)))
    count = workers or (compute.workers if compute.workers != "auto" else 1)
    found = estimate(planned, images, speed, count, compute.price_per_hour)
    notices = list(result.notices)
    if compute.max_cost is not None and found.cost is not None and found.cost > compute.max_cost:
        notices.append(f"about {found.cost:,.2f} are needed, and compute.max_cost is {compute.max_cost:,.2f}")
    return replace(result, estimate=found, notices=notices)


def estimate_text(found: Estimate) -> str:
    money = "" if found.cost is None else f", about {found.cost:,.2f} at {found.price_per_hour:,.2f} an hour"
    crew = f"{found.workers:,} worker{'s' if found.workers > 1 else ''}"
    rate = f"{found.images_per_second:.3g} images/s a worker ({found.source})"
    return f"{format_duration(found.hours * 3600)} with {crew}, {found.device_hours:,.2f} device hours{money}; {rate}"


def command(
    job: JobFile,
    set_: Set = None,
    extend: Extend = False,
    yes: Yes = False,
    gpu: Annotated[
        str | None, typer.Option("--gpu", metavar="NAME", help="Estimate time and cost by the probe on that device.")
    ] = None,
    images_per_second: Annotated[
        float | None, typer.Option("--images-per-second", help="Estimate time and cost by this speed of a worker.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="With so many workers; else compute.workers, else one.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a run would make and what is already done; nothing is started or written."""
    with loaded_job(job, set_) as loaded:
        planned, result = plan(loaded, yes, extend)
        result = _with_estimate(planned, result, job, gpu, images_per_second, workers)
    shown = result.as_json()
    if as_json:
        say_json(shown)
        return
    rows = {
        "job": shown["name"],
        "task": planned.told_task,
        "prompts": shown["prompts"],
        **({"suite": suite_text(planned)} if planned.suite else {}),
        "variants": describe_axes(planned.job) or "1",
        "images": shown["samples"],
        "shards": f"{shown['shards']:,}, of which {shown['shards_done']:,} are done",
        "size": f"about {decimal(shown['bytes_estimated'])}",
        **({"time": estimate_text(result.estimate)} if result.estimate else {}),
        "models": ", ".join(f"{m['path']} ({m['pipeline_class']}, {m['revision'][:18]})" for m in shown["models"]),
        "output": shown["output"],
        "fingerprint": shown["fingerprint"][:16],
    }
    table(rows)
    for notice in shown["notices"]:
        say(f"note: {notice}")


def suite_text(planned: Plan) -> str:
    return f"{planned.suite['name']}, sha256 {planned.suite['sha256']}" if planned.suite else ""


def say_suite(planned: Plan) -> None:
    if planned.suite:
        say(f"suite: {suite_text(planned)}")
