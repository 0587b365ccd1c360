"""From a job to its shards: pure arithmetic over source footers, so the plan is known before any GPU is taken."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from pipeline import sweep
from pipeline.identity import canonical_json, fingerprint
from pipeline.models.catalog import check_size, resolve_model
from pipeline.models.clips import ResolvedClip, resolve_clip
from pipeline.models.schedulers import check_scheduler
from pipeline.sources import Source, open_source
from pipeline.storage import check_url, split_query
from schemas.errors import JobError, Problem
from schemas.job import SCHEMA_VERSION, Job, Model
from schemas.plan import ResolvedModel, Segment, Shard, SourceFile, Variant

CELLS_WITHOUT_ASKING = 1_000


@dataclass(frozen=True)
class Plan:
    """Everything a worker needs to know about the job. `fields` is what the fingerprint is made of.

    `clips` are the open_clip models of those scores that need one, in the order of the job.
    """

    job: Job
    fingerprint: str
    fields: Mapping[str, Any]
    models: tuple[ResolvedModel, ...]
    clips: tuple[ResolvedClip, ...]
    source_schema: pa.Schema
    segments: tuple[Segment, ...]
    notices: tuple[str, ...] = ()

    @property
    def cells(self) -> int:
        return sweep.cell_count(self.job)

    @property
    def prompts(self) -> int:
        return sum(segment.prompts for segment in self.segments if segment.kind != "retry")

    @property
    def suite(self) -> dict[str, Any] | None:
        """Name and checksum of the prompt suite, and the options of a built-in one; None for other prompts."""
        found: dict[str, Any] | None = self.fields["prompts"].get("suite")
        return found

    @property
    def shards(self) -> int:
        return sum(segment.shards for segment in self.segments)

    @property
    def samples(self) -> int:
        return self.prompts * sum(images * cells for images, cells in sweep.images_per_prompt(self.job).items())

    @cached_property
    def rows_per_shard(self) -> int:
        """Prompts; the rows of a retry are single images, `output.images_per_shard` of them."""
        return rows_per_shard(self.job)

    def variant(self, index: int) -> Variant:
        models = dict(zip(sweep.swept_models(self.job), self.models, strict=True))
        return sweep.variant(self.job, models, index)

    def shard(self, number: int) -> Shard:
        """Raises IndexError for a number the plan does not have."""
        for position, segment in enumerate(self.segments):
            offset = number - segment.first_shard
            if 0 <= offset < segment.shards:
                if segment.ends:
                    start = segment.ends[offset - 1] if offset else 0
                    return Shard(number, position, segment.variant or 0, start, segment.ends[offset])
                size = self.job.output.images_per_shard if segment.kind == "retry" else self.rows_per_shard
                cell, block = divmod(offset, blocks(segment.prompts, size))
                cell = cell if segment.variant is None else segment.variant
                return Shard(number, position, cell, block * size, min((block + 1) * size, segment.prompts))
        raise IndexError(number)

    def all_shards(self) -> Iterator[Shard]:
        """In the order of work: all shards of a model are neighbours, so that its weights are loaded once."""
        return (self.shard(number) for segment in self.segments for number in _numbers(segment))

    def samples_in(self, shard: Shard) -> int:
        rows = shard.stop - shard.start
        if self.segments[shard.segment].kind == "retry":
            return rows
        return rows * self.variant(shard.variant).generation.images_per_prompt


def rows_per_shard(job: Job) -> int:
    return max(1, job.output.images_per_shard // max(sweep.images_per_prompt(job)))


def blocks(rows: int, per_shard: int) -> int:
    return max(1, -(-rows // per_shard))


def _numbers(segment: Segment) -> range:
    return range(segment.first_shard, segment.first_shard + segment.shards)


def check_job(job: Job, allow_large_sweep: bool = False) -> tuple[tuple[ResolvedModel, ...], tuple[ResolvedClip, ...]]:
    """Hold everything the job names, prompts aside, against what is there. Raises JobError with all problems."""
    cells = sweep.cell_count(job)
    if cells > CELLS_WITHOUT_ASKING and not allow_large_sweep:
        got = f"{cells:,} ({describe_axes(job)})"
        raise JobError(Problem("sweep", f"at most {CELLS_WITHOUT_ASKING:,} cells", got, "Give --yes if you mean it"))
    problems: list[Problem | str] = []
    _collect(problems, lambda: check_url(job.output.url, "output.url"))
    models: dict[Model, ResolvedModel] = {}
    for model, where in _named_models(job):
        resolved = _collect(problems, lambda model=model, where=where: resolve_model(model, where))
        if resolved is not None:
            models[model] = resolved
    _check_settings(job, models, problems)
    clips = [
        _collect(problems, lambda model=model, where=where: resolve_clip(model, where))
        for model, where in _score_models(job)
    ]
    if problems:
        raise JobError(*dict.fromkeys(problems))
    return tuple(models.values()), tuple(clip for clip in clips if clip is not None)


def _score_models(job: Job) -> list[tuple[str, str]]:
    """Of the scores that need an open_clip model: the model, and where it is named."""
    kinds = [(score.model, "clip" if score.clip else "relative") for score in job.score]
    return [(model, f"score[{i}].{kind}") for i, (model, kind) in enumerate(kinds) if model]


def describe_axes(job: Job) -> str:
    """Such as `settings 2 × guidance_scale 5, 3 excluded`; empty where nothing is swept."""
    grid = job.sweep.grid
    excluded = math.prod(grid.sizes) - grid.cells
    text = " × ".join(f"{name} {len(values)}" for name, values in job.sweep.axes().items())
    return text + (f", {excluded:,} excluded" if excluded else "")


def _named_models(job: Job) -> list[tuple[Model, str]]:
    """Each model once, with the place that names it first."""
    places: dict[Model, str] = {}
    for index, (where, value) in enumerate(job.sweep.values_of("model", job.model)):
        where = f"{where}[{index}]" if where == "sweep.model" else where
        places.setdefault(sweep.as_model(value, job.model), where)
    return list(places.items())


def _check_settings(job: Job, models: Mapping[Model, ResolvedModel], problems: list[Problem | str]) -> None:
    """What a model cannot do is no problem in a combination that is left out."""
    schedulers = sweep.combinations(job, "model", "scheduler")
    places = {name: where for where, name in job.sweep.values_of("scheduler", job.generation.scheduler)}
    for model, name in schedulers:
        if model in models and name is not None:
            _collect(problems, lambda m=models[model], name=name: check_scheduler(name, m, places[name]))
    swept = [where for side in ("width", "height") for where, _ in job.sweep.values_of(side, None)]
    where = "sweep" if any(place.startswith("sweep") for place in swept) else "generation"
    for model, width, height in sweep.combinations(job, "model", "width", "height"):
        if model in models:
            _collect(problems, lambda m=models[model], w=width, h=height: check_size(w, h, m, where))


def _collect(problems: list[Problem | str], check: Any) -> Any:
    try:
        return check()
    except JobError as error:
        problems.extend(error.problems)
        return None


def plan_job(job: Job, allow_large_sweep: bool = False) -> Plan:
    """Read footers, resolve models, count; writes nothing. Raises JobError, and InputError for the prompts."""
    try:
        models, clips = check_job(job, allow_large_sweep)
    except JobError as error:
        raise _and_those_of(error, lambda: open_source(job.prompts, job.output.url)) from None
    source = open_source(job.prompts, job.output.url)
    prompts = min(source.rows, job.prompts.limit or source.rows)
    shards = sweep.cell_count(job) * blocks(prompts, rows_per_shard(job))
    segment = Segment("source", source.files, prompts, 0, shards)
    fields = _fingerprint_fields(job, models, clips, source)
    return Plan(job, fingerprint(fields), fields, models, clips, source.schema, (segment,), source.notices)


def _and_those_of(error: JobError, check: Callable[[], object]) -> JobError:
    """The error with the problems that another check finds too, so that both are shown at once."""
    try:
        check()
    except JobError as more:
        return JobError(*error.problems, *more.problems)
    return error


def _fingerprint_fields(
    job: Job, models: Sequence[ResolvedModel], clips: Sequence[ResolvedClip], source: Source
) -> dict[str, Any]:
    """Every field that changes rows, by its name in the job file."""
    whole = job.model_dump(
        mode="json", exclude={"name": True, "compute": True, "output": {"url"}, "prompts": {"source"}}
    )
    whole["sweep"] = _swept_fields(job, whole["sweep"])
    whole["version"] = SCHEMA_VERSION
    whole["model"]["weights"] = [f"{model.path}@{model.revision}" for model in models]
    with_model = [dumped for dumped, score in zip(whole["score"], job.score, strict=True) if score.model]
    for score, clip in zip(with_model, clips, strict=True):
        score["weights"] = clip.identity
    whole["prompts"] = _prompt_fields(job, source, whole["prompts"])
    whole["prompts"]["source"] = {
        file.name: {"size_bytes": file.size_bytes, "rows": file.rows, "etag": file.etag} for file in source.files
    }
    fields: dict[str, Any] = json.loads(canonical_json(whole))
    return fields


def _prompt_fields(job: Job, source: Source, dumped: dict[str, Any]) -> dict[str, Any]:
    """Of a suite its name, checksum and options; without one nothing more than before there were suites."""
    options = dumped.pop("shapes")
    suite = dumped.pop("suite")
    if suite is None:
        return dumped
    own = {"options": options} if suite == "shapes" else {}
    return {**dumped, "suite": {"name": suite, "sha256": source.sha256, **own}}


def _swept_fields(job: Job, dumped: Mapping[str, Any]) -> dict[str, Any]:
    """Axes in use alone, so that an axis that is added to Promptmill changes no fingerprint."""
    fields = {name: dumped[name] for name in job.sweep.axes()}
    if job.sweep.settings is not None:  # as a list, because their order numbers the cells
        fields["settings"] = [{"name": name, **dumped["settings"][name]} for name in job.sweep.settings]
    return {**fields, "exclude": dumped["exclude"]} if job.sweep.exclude else fields


def to_json(plan: Plan) -> bytes:
    job = plan.job.model_dump(mode="json")
    if plan.job.prompts.source is not None:  # the query of a presigned URL is a secret
        job["prompts"]["source"] = split_query(plan.job.prompts.source)[0]
    content = {
        "version": SCHEMA_VERSION,
        "fingerprint": plan.fingerprint,
        "job": job,
        "fields": plan.fields,
        "plan": {
            "prompts": plan.prompts,
            "variants": plan.cells,
            "samples": plan.samples,
            "shards": plan.shards,
            "models": [asdict(model) for model in plan.models],
            "clips": [asdict(clip) for clip in plan.clips],
            "segments": [asdict(segment) for segment in plan.segments],
            "source_schema": base64.b64encode(plan.source_schema.serialize().to_pybytes()).decode(),
        },
    }
    return json.dumps(content, indent=2, ensure_ascii=False).encode("utf-8", "backslashreplace")


def from_json(data: bytes) -> Plan:
    content = json.loads(data)
    if content["version"] != SCHEMA_VERSION:
        raise ValueError(f"version {content['version']}; this Promptmill reads version {SCHEMA_VERSION}")
    inner = content["plan"]
    schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(inner["source_schema"])))
    return Plan(
        job=Job.model_validate(content["job"]),
        fingerprint=content["fingerprint"],
        fields=content["fields"],
        models=tuple(ResolvedModel(**model) for model in inner["models"]),
        clips=tuple(ResolvedClip(**clip) for clip in inner["clips"]),
        source_schema=schema,
        segments=tuple(segment_from_json(segment) for segment in inner["segments"]),
    )


def segment_from_json(content: Mapping[str, Any]) -> Segment:
    files = tuple(SourceFile(**file) for file in content["files"])
    return Segment(**{**content, "files": files, "ends": tuple(content.get("ends", ()))})
