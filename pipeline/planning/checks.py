"""What can be known to be wrong before anything starts: models, scores, settings, sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from promptmill.pipeline.models.catalog.adapters import resolve_adapter
from promptmill.pipeline.models.catalog.classifiers import (
    classifier_folder,
    classifier_labels,
    outputs_of,
    resolve_classifier,
)
from promptmill.pipeline.models.catalog.clips import ResolvedClip, resolve_clip
from promptmill.pipeline.models.catalog.controls import CALLED as CONTROL_TIMES
from promptmill.pipeline.models.catalog.controls import check_start_end, check_time, resolve_control
from promptmill.pipeline.models.catalog.families import WEIGHS_WORDS
from promptmill.pipeline.models.catalog.guidance import check_guidance
from promptmill.pipeline.models.catalog.placing import check_placing
from promptmill.pipeline.models.catalog.references import resolve_ip_adapter
from promptmill.pipeline.models.catalog.resolve import resolve_model
from promptmill.pipeline.models.catalog.schedulers import check_scheduler
from promptmill.pipeline.models.catalog.sizes import check_size
from promptmill.pipeline.models.catalog.steps import check_steps
from promptmill.pipeline.models.catalog.tasks import (
    CALLED,
    check_arguments,
    check_strength,
    check_task,
    steps_made,
    task_for,
)
from promptmill.pipeline.planning import variants
from promptmill.pipeline.planning.own_scores import python_scores
from promptmill.pipeline.planning.photo_sizes import too_large
from promptmill.pipeline.planning.variants import VARIANTS_WITHOUT_ASKING, describe_axes
from promptmill.pipeline.prompts.source import Source
from promptmill.pipeline.storage.urls import check_place
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.generation import Model
from promptmill.schemas.inputs import TaskName
from promptmill.schemas.job import Job
from promptmill.schemas.output import LARGEST_SIDE
from promptmill.schemas.plan import PythonScore
from promptmill.schemas.resolved import ResolvedModel

Checked = tuple[tuple[ResolvedModel, ...], tuple[ResolvedClip, ...], tuple[PythonScore, ...]]


def check_job(job: Job, allow_large_sweep: bool = False) -> Checked:
    """Hold everything the job names, prompts aside, against what is there. Raises JobError with all problems."""
    count = variants.count(job)
    if count > VARIANTS_WITHOUT_ASKING and not allow_large_sweep:
        got = f"{count:,} ({describe_axes(job)})"
        raise JobError(
            Problem("sweep", f"at most {VARIANTS_WITHOUT_ASKING:,} variants", got, "Give --yes if you mean it")
        )
    problems: list[Problem | str] = []
    _collect(problems, lambda: check_place(job.output.url, "output.url"))
    models: dict[Model, ResolvedModel] = {}
    for model, where in _named_models(job):
        resolved = _collect(problems, lambda model=model, where=where: resolve_model(model, where))
        if resolved is not None:
            _collect(problems, lambda m=model, r=resolved, at=where: check_placing(m, r, job.compute, at))
            resolved = _with_adapters(model, resolved, where, problems)
            resolved = _with_controls(job, model, resolved, where, problems)
            models[model] = _with_ip_adapter(job, model, resolved, where, problems)
    _check_settings(job, models, problems)
    clips = [
        _collect(problems, lambda model=model, where=where, look=look: look(model, where))
        for model, where, look in _score_models(job)
    ]
    own = _collect(problems, lambda: python_scores(job))
    if problems:
        raise JobError(*dict.fromkeys(problems))
    return tuple(models.values()), tuple(clip for clip in clips if clip is not None), own


def _with_adapters(model: Model, resolved: ResolvedModel, where: str, problems: list[Problem | str]) -> ResolvedModel:
    places = [(each, f"{where}.adapters[{i}]") for i, each in enumerate(model.adapters)]
    found = [_collect(problems, lambda each=each, at=at: resolve_adapter(each, resolved, at)) for each, at in places]
    return replace(resolved, adapters=tuple(each for each in found if each is not None))


def _with_controls(
    job: Job, model: Model, resolved: ResolvedModel, where: str, problems: list[Problem | str]
) -> ResolvedModel:
    task, several = _task(job, resolved), len(model.controlnets) > 1
    places = [(net, f"{where}.controlnets[{i}]") for i, net in enumerate(model.controlnets)]
    found = [
        _collect(problems, lambda net=net, at=at: resolve_control(net, resolved, task, several, at))
        for net, at in places
    ]
    nets = tuple(each for each in found if each is not None)
    if len(kinds := {net.kind for net in nets}) > 1:
        problems.append(Problem(f"{where}.controlnets", "networks of one kind", " and ".join(sorted(kinds))))
    return replace(resolved, controlnets=nets)


def _with_ip_adapter(
    job: Job, model: Model, resolved: ResolvedModel, where: str, problems: list[Problem | str]
) -> ResolvedModel:
    given = model.ip_adapter
    if given is None:
        return resolved
    asked = (given, resolved, _task(job, resolved), f"{where}.ip_adapter", resolved.control)
    return replace(resolved, ip_adapter=_collect(problems, lambda: resolve_ip_adapter(*asked)))


def _score_models(job: Job) -> Iterator[tuple[str, str, Callable[[str, str], ResolvedClip]]]:
    """Of the scores that need a model: the model, where it is named, and what finds it."""
    for i, score in enumerate(job.score):
        if score.classifier is not None:
            yield score.classifier, f"score[{i}].classifier", resolve_classifier
        elif score.model is not None:
            yield score.model, f"score[{i}].{'clip' if score.clip else 'relative'}", resolve_clip


def check_classifiers(job: Job, clips: Sequence[ResolvedClip], classes: Sequence[str]) -> None:
    """Raises JobError where a classifier does not know a class."""
    for (_, where, look), model in zip(_score_models(job), clips, strict=True):
        if look is resolve_classifier:
            outputs_of(classifier_labels(classifier_folder(model)), classes, where)


def _named_models(job: Job) -> list[tuple[Model, str]]:
    """Each model once, with the place that names it first."""
    places: dict[Model, str] = {}
    for index, (where, value) in enumerate(job.sweep.values_of("model", job.model)):
        where = f"{where}[{index}]" if where == "sweep.model" else where
        places.setdefault(variants.as_model(value, job.model), where)
    return list(places.items())


def _check_settings(job: Job, models: Mapping[Model, ResolvedModel], problems: list[Problem | str]) -> None:
    """What a model cannot do is no problem in a variant that is left out."""
    schedulers = variants.tally(job, "model", "scheduler")
    places = {name: where for where, name in job.sweep.values_of("scheduler", job.generation.scheduler)}
    for model, name in schedulers:
        if model in models:
            _collect(problems, lambda m=models[model], name=name: check_scheduler(name, m, places[name]))
    for model in dict.fromkeys(model for (model,) in variants.tally(job, "model")):
        if model in models:
            _collect(problems, lambda m=models[model]: check_arguments(m, _asked(job)))
            if where := _scale_asked(job):
                _collect(problems, lambda m=models[model], at=where: check_guidance(m, _has_negative(job), at))
    for model, mode in variants.tally(job, "model", "mode"):
        if model in models:
            _collect(problems, lambda m=models[model], mode=mode: _check_task(job, m, mode))
    _check_strengths(job, models, problems)
    for model, start, end in variants.tally(job, "model", "control_start", "control_end"):
        if model in models and model.controlnets:
            asked = (models[model], _task(job, models[model]), start, end, "generation.control_start")
            _collect(problems, lambda asked=asked: check_start_end(*asked))
    for model, field in product(models, [name for name in job.prompts.mapped.steering if name in CONTROL_TIMES]):
        if model.controlnets:
            place = models[model], _task(job, models[model]), field, f"prompts.columns.{field}"
            _collect(problems, lambda place=place: check_time(*place))
    _check_steps(job, models, problems)
    _check_format(job, models, problems)
    swept = [where for side in ("width", "height") for where, _ in job.sweep.values_of(side, None)]
    where = "sweep" if any(place.startswith("sweep") for place in swept) else "generation"
    for model, width, height in variants.tally(job, "model", "width", "height"):
        if model in models:
            _collect(problems, lambda m=models[model], w=width, h=height: check_size(w, h, m, where))


def _task(job: Job, model: ResolvedModel) -> TaskName:
    return task_for(job.prompts.mapped.images, model.pipeline_class)


def _check_task(job: Job, model: ResolvedModel, mode: TaskName | None) -> None:
    check_task(model, _task(job, model), mode, "prompts.columns.image")


def _check_steps(job: Job, models: Mapping[Model, ResolvedModel], problems: list[Problem | str]) -> None:
    fields = ("num_inference_steps", "scheduler")
    places = {value: where for where, value in job.sweep.values_of(fields[0], job.generation.num_inference_steps)}
    for model, steps, scheduler in variants.tally(job, "model", *fields):
        if model in models:
            asked = (scheduler, steps, models[model], places[steps])
            _collect(problems, lambda asked=asked: check_steps(*asked))


def _check_format(job: Job, models: Mapping[Model, ResolvedModel], problems: list[Problem | str]) -> None:
    """A side that the image format cannot hold: each image would be made, and fail when it is written."""
    most = LARGEST_SIDE.get(job.output.image_format)
    for model, width, height in variants.tally(job, "model", "width", "height") if most else ():
        own = (models[model].width, models[model].height) if model in models else (0, 0)
        side = max(width or own[0], height or own[1])
        if most and side > most:
            got = f"{side:,}, with output.image_format {job.output.image_format}"
            problems.append(Problem("generation", f"sides up to {most:,} pixels", got, "Choose png or jpeg"))
            return


def _check_strengths(job: Job, models: Mapping[Model, ResolvedModel], problems: list[Problem | str]) -> None:
    places = {value: where for where, value in job.sweep.values_of("strength", job.generation.strength)}
    for model, steps, strength in variants.tally(job, "model", "num_inference_steps", "strength"):
        task = _task(job, models[model]) if model in models else "text-to-image"
        if task != "text-to-image":
            asked = (models[model], task, steps, strength, places[strength])
            _collect(problems, lambda asked=asked: check_strength(*asked))


def wrong_values(job: Job, models: Sequence[ResolvedModel], source: Source) -> tuple[Problem, ...]:
    """Values of mapped columns that make no image."""
    return (
        *source.wrong,
        *_unknown_adapters(job, source),
        *_cannot_weigh(models, source),
        *_too_weak(job, models, source.least.get("strength")),
        *too_large(job, models, source.files),
    )


def _unknown_adapters(job: Job, source: Source) -> Iterator[Problem]:
    """Names in rows that some model of the job lacks."""
    for model in variants.swept_models(job):
        known = [each.name for each in model.adapters]
        for name, file in source.adapters.items():
            if name not in known:
                expected = f"an adapter of the model ({', '.join(known) or 'it has none'}), or none"
                field = "syntax" if job.prompts.syntax else "columns.adapter"
                yield Problem(f"prompts.{field}: {file}", expected, repr(name[:80]))
                return


def _cannot_weigh(models: Sequence[ResolvedModel], source: Source) -> Iterator[Problem]:
    others = [model for model in models if model.pipeline_class not in WEIGHS_WORDS]
    if source.emphasised is not None and others:
        got = f"{others[0].path}, a {others[0].pipeline_class}, for the weights of words or the BREAK there"
        expected = f"a model that draws them ({', '.join(sorted(WEIGHS_WORDS))})"
        hint = "Take them out of the prompts, or leave prompts.syntax out to draw all of it as words"
        yield Problem(f"prompts.syntax: {source.emphasised}", expected, got, hint)


def _too_weak(job: Job, models: Sequence[ResolvedModel], least: float | None) -> Iterator[Problem]:
    """Of the smallest strength that a row has."""
    if least is None:
        return
    resolved = dict(zip(variants.swept_models(job), models, strict=True))
    for model, steps in variants.tally(job, "model", "num_inference_steps"):
        task = _task(job, resolved[model])
        if task == "edit":
            yield Problem("prompts.columns.strength", "no strength, which edits do not have", f"{least:g}")
            return
        if steps_made(task, resolved[model].pipeline_class, steps, least) < 1:
            hint = "Raise the strength of such rows, or generation.num_inference_steps"
            yield Problem("prompts.columns.strength", f"one step at least of {steps}", f"none at {least:g}", hint)
            return


def _asked(job: Job) -> dict[str, str]:
    """Arguments of the pipeline's call that the job sets itself, each with its place."""
    default = type(job.generation)()
    own = {name for name in job.generation.model_fields_set if getattr(job.generation, name) != getattr(default, name)}
    places = {field: [where for where, _ in job.sweep.values_of(field, None)] for field in CALLED}
    return {field: where for field, (where, *_) in places.items() if field in own or where.startswith("sweep")}


def _scale_asked(job: Job) -> str | None:
    """Where a job asks for a guidance_scale that should act: above 1 and not the default, or several of them."""
    places = list(job.sweep.values_of("guidance_scale", job.generation.guidance_scale))
    scales = {value for _, value in places}
    asked = "guidance_scale" in _asked(job) and (len(scales) > 1 or max(scales) > 1)
    return places[0][0] if asked else None


def _has_negative(job: Job) -> bool:
    values = [value for _, value in job.sweep.values_of("negative_prompt", job.generation.negative_prompt)]
    return any(values) or job.prompts.mapped.negative_prompt is not None


def _collect(problems: list[Problem | str], check: Any) -> Any:
    try:
        return check()
    except JobError as error:
        problems.extend(error.problems)
        return None


def and_those_of(error: JobError, check: Callable[[], object]) -> JobError:
    """The error with the problems that another check finds too, so that both are shown at once."""
    try:
        check()
    except JobError as more:
        return JobError(*error.problems, *more.problems)
    return error
