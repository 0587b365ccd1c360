"""From a job to its shards: pure arithmetic over source footers, so the plan is known before any GPU is taken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pyarrow as pa

from promptmill.pipeline.models.catalog.clips import ResolvedClip
from promptmill.pipeline.models.catalog.diffusers_source import call_parameters
from promptmill.pipeline.models.catalog.tasks import task_for
from promptmill.pipeline.planning import variants
from promptmill.pipeline.planning.checks import and_those_of, check_classifiers, check_job, wrong_values
from promptmill.pipeline.planning.fingerprint import fingerprint, fingerprint_fields
from promptmill.pipeline.planning.lineage import lineage_of, merged
from promptmill.pipeline.planning.notices import notices_of
from promptmill.pipeline.planning.rounds import images_of, places_of, places_per_shard, round_segment
from promptmill.pipeline.prompts.expansion import Expansion
from promptmill.pipeline.prompts.source import Source, open_source
from promptmill.schemas.checked import MOST as MOST_IMAGES
from promptmill.schemas.columns import Only
from promptmill.schemas.errors import JobError, NoFilesError, Problem
from promptmill.schemas.job import Job
from promptmill.schemas.origin import Lineage
from promptmill.schemas.plan import LEAST_DIGITS, PythonScore, Segment, Shard, Variant
from promptmill.schemas.records import LARGEST_NARROW_SEED
from promptmill.schemas.resolved import ResolvedModel
from promptmill.schemas.scores import LOWER_IS_BETTER
from promptmill.schemas.words import NO_WORDS, Words


@dataclass(frozen=True)
class Plan:
    """Everything a worker needs to know about the job. `fields` is what the fingerprint is made of.

    `clips` are the open_clip models of those scores that need one, in the order of the job, `python_scores` the scores
    of the user's own. `folder` is what relative paths in `job.json` are relative to: where the command was started that
    claimed it, seen from the output. `versions` are those of the driver that did.
    """

    job: Job
    fingerprint: str
    fields: Mapping[str, Any]
    models: tuple[ResolvedModel, ...]
    clips: tuple[ResolvedClip, ...]
    source_schema: pa.Schema
    segments: tuple[Segment, ...]
    notices: tuple[str, ...] = ()
    folder: str | None = field(default=None, compare=False)
    versions: Mapping[str, str] = field(default_factory=dict, compare=False)
    wide_seeds: bool = False
    """Whether seeds above 2^63 − 1 may come, so that their column is uint64 in every shard."""
    control_modes: bool = False
    """Whether records say which kind of maps a union ControlNet was given; those of older datasets do not."""
    origins: bool = False
    """Whether records say if their image was drawn over a real or a synthetic one; those of older datasets do not."""
    source_lineage: Lineage = field(default=Lineage(), compare=False)
    """Of what the job began with; what came later has its own (`lineage_at`)."""
    wrong: tuple[Problem, ...] = field(default=(), compare=False)
    """Values of mapped columns that make no image: no dataset is begun with such rows.

    One that an earlier version began goes on, and they fail one by one."""
    python_scores: tuple[PythonScore, ...] = ()
    words: Words = NO_WORDS

    @property
    def score_names(self) -> list[str]:
        """Keys in the `scores` column, in the order of the job."""
        own = iter(self.python_scores)
        return [name for score in self.job.score for name in (next(own).names if score.python else score.names)]

    @cached_property
    def lowest_is_best(self) -> frozenset[str]:
        """Names of scores of which the lowest is the best, whoever makes them."""
        return LOWER_IS_BETTER.union(*(own.lower_is_better for own in self.python_scores))

    @property
    def lineage(self) -> Lineage:
        """Of the whole dataset."""
        return merged([self.source_lineage, *(each.lineage for each in self.segments if each.lineage is not None)])

    def lineage_at(self, position: int) -> Lineage:
        """Of one segment."""
        return self.segments[position].lineage or self.source_lineage

    @property
    def variant_count(self) -> int:
        return variants.count(self.job)

    @cached_property
    def texts_per_row(self) -> int:
        """Prompts that a row of the source becomes."""
        return Expansion(self.job.prompts, self.words).each

    @property
    def prompts(self) -> int:
        return sum(segment.prompts for segment in self.segments if segment.kind in ("source", "extend"))

    @property
    def tasks(self) -> tuple[str, ...]:
        """What its models do, one after the other where they differ: edits beside image-to-image."""
        names = (task_for(self.job.task.roles, model.pipeline_class) for model in self.models)
        return tuple(dict.fromkeys(names))

    @property
    def more_columns(self) -> frozenset[Only]:
        """The sorts of columns that its records have beside those of every job."""
        job, models = self.job, self.models
        there: dict[Only, bool] = {
            "inputs": bool(job.task.roles),
            "edits": self.keeps_to_images,
            "steering": bool(job.prompts.mapped.steering),
            "adapters": any(model.adapters for model in models),
            "controls": any(model.controlnets for model in models),
            "syntax": bool(job.prompts.syntax),
            "labels": bool(self.words.classes),
            "references": any(model.ip_adapter for model in models),
            "origins": self.origins,
            "mask settings": job.treats_masks,
        }
        return frozenset(only for only, is_there in there.items() if is_there)

    @property
    def keeps_to_images(self) -> bool:
        """Whether a model has a scale for how closely an edit keeps to its image."""
        return any("image_guidance_scale" in call_parameters(model.pipeline_class) for model in self.models)

    @property
    def told_task(self) -> str:
        """For people: the task, and what steers it."""
        nets = sorted({net.name for model in self.models for net in model.controlnets})
        return " and ".join(self.tasks) + (f", steered by {', '.join(nets)}" if nets else "")

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
        if self.job.per_class is not None:
            return sum(
                each.prompts * images_of(self.job, each.round) * (self.variant_count if each.variant is None else 1)
                for each in self.segments
                if each.kind == "round"
            )
        return self.prompts * sum(images * count for images, count in variants.images_per_prompt(self.job).items())

    @cached_property
    def rows_per_shard(self) -> int:
        """Prompts; the rows of a retry are single images, `output.images_per_shard` of them."""
        return rows_per_shard(self.job)

    def variant(self, index: int) -> Variant:
        models = dict(zip(variants.swept_models(self.job), self.models, strict=True))
        return variants.variant(self.job, models, index)

    def pixels(self, model: ResolvedModel) -> int:
        """Of the largest image that the job draws with a model, where it says sizes; else of the model's own."""
        found = dict(zip(variants.swept_models(self.job), self.models, strict=True))
        sizes = variants.tally(self.job, "model", "width", "height")
        drawn = [(w or model.width) * (h or model.height) for own, w, h in sizes if found[own] == model]
        return max(drawn, default=model.width * model.height)

    def shard(self, number: int) -> Shard:
        """Raises IndexError for a number the plan does not have."""
        for position, segment in enumerate(self.segments):
            offset = number - segment.first_shard
            if 0 <= offset < segment.shards:
                digits = max(LEAST_DIGITS, len(str(segment.first_shard + segment.shards - 1)))
                if segment.ends:
                    start = segment.ends[offset - 1] if offset else 0
                    return Shard(number, position, segment.variant or 0, start, segment.ends[offset], digits)
                size = self.rows_in_shards_of(segment)
                variant, block = divmod(offset, blocks(segment.prompts, size))
                variant = variant if segment.variant is None else segment.variant
                stop = min((block + 1) * size, segment.prompts)
                return Shard(number, position, variant, block * size, stop, digits)
        raise IndexError(number)

    def rows_in_shards_of(self, segment: Segment) -> int:
        if segment.kind == "round":
            return places_per_shard(self.job, segment.round)
        return self.job.output.images_per_shard if segment.kind == "retry" else self.rows_per_shard

    def rounds_before(self, position: int) -> list[Segment]:
        """Those that made images of the same variant before the round at this position."""
        variant = self.segments[position].variant
        earlier = (each for each in self.segments[:position] if each.kind == "round")
        return [each for each in earlier if each.variant in (None, variant)]

    def all_shards(self) -> Iterator[Shard]:
        """In the order of work: all shards of a model are neighbours, so that its weights are loaded once."""
        return (self.shard(number) for segment in self.segments for number in _numbers(segment))

    def samples_in(self, shard: Shard) -> int:
        rows = shard.stop - shard.start
        segment = self.segments[shard.segment]
        if segment.kind == "retry":
            return rows
        if segment.kind == "round":
            return rows * images_of(self.job, segment.round)
        return rows * self.variant(shard.variant).generation.images_per_prompt


def rows_per_shard(job: Job) -> int:
    return max(1, job.output.images_per_shard // max(variants.images_per_prompt(job)))


def blocks(rows: int, per_shard: int) -> int:
    return max(1, -(-rows // per_shard))


def _numbers(segment: Segment) -> range:
    return range(segment.first_shard, segment.first_shard + segment.shards)


def plan_job(job: Job, allow_large_sweep: bool = False, archived: Plan | None = None) -> Plan:
    """Read footers, resolve models, count; writes nothing. Raises JobError, and InputError for the prompts.

    `archived` is that of a dataset whose prompts are there, so that no file of them needs to be left.
    """
    try:
        models, clips, own = check_job(job, allow_large_sweep)
    except JobError as error:
        raise and_those_of(error, lambda: open_source(job.prompts, job.output.url)) from None
    try:
        source = open_source(job.prompts, job.output.url)
    except NoFilesError:
        if archived is None:
            raise
        told = "prompts.source: no file is there; what the dataset has of them suffices"
        source = Source((), archived.source_schema, (told,), words=archived.words)
    words = replace(source.words, seed=job.seed) if job.prompts.draws or job.prompts.wildcards else source.words
    check_classifiers(job, clips, words.class_names)
    prompts = min(source.rows, job.prompts.limit or source.rows) * Expansion(job.prompts, words).each
    _check_size(job, prompts)
    if job.per_class is not None:
        _check_classes(job, source)
    fields = fingerprint_fields(job, models, clips, source, own)
    last = int(source.largest.get("seed", 0)) + _most_images(job) - 1
    lineage = lineage_of(job.prompts, source.files)
    return Plan(
        *(job, fingerprint(fields), fields, models, clips, source.schema, _segments(job, source, prompts)),
        notices=tuple(notices_of(job, models, clips, source, lineage)),
        wide_seeds=last > LARGEST_NARROW_SEED,
        control_modes=any(net.mode is not None for model in models for net in model.controlnets),
        origins="image" in job.task.roles,
        source_lineage=lineage,
        wrong=wrong_values(job, models, source),
        python_scores=own,
        words=words,
    )


def _most_images(job: Job) -> int:
    """Of one prompt; with classes, all of the places of a class in all rounds may be one prompt."""
    if job.per_class is None or job.select is None:
        return max(variants.images_per_prompt(job))
    numbers = range(1, job.select.max_rounds + 1)
    return sum(places_of(job, number, job.per_class) * images_of(job, number) for number in numbers)


def _segments(job: Job, source: Source, prompts: int) -> tuple[Segment, ...]:
    """Those that the job begins with: its source, and the first round where classes are filled."""
    shards = variants.count(job) * blocks(prompts, rows_per_shard(job))
    if job.per_class is None:
        return (Segment("source", source.files, prompts, 0, shards),)
    wanted = dict.fromkeys(range(len(source.words.classes)), job.per_class)
    begun = round_segment(job, 1, wanted, 0, variants.count(job))
    return (Segment("source", source.files, prompts, 0, 0), begun)


def _check_size(job: Job, prompts: int) -> None:
    """Raises JobError for more images than can be counted exactly."""
    images = prompts * sum(number * count for number, count in variants.images_per_prompt(job).items())
    if images > MOST_IMAGES:
        hint = "Say how many prompts of each row are drawn in `prompts.draws`"
        where = "prompts.attributes" if job.prompts.attributes else "prompts.source"
        raise JobError(Problem(where, f"at most 2^53 images ({MOST_IMAGES:,})", f"{images:,}", hint))


def _check_classes(job: Job, source: Source) -> None:
    """Raises JobError for a class that `select.per_class` wants images of and no prompt asks for."""
    empty = [each.name for each in source.words.classes if source.labels.get(each.name) == 0]
    if empty:
        got, hint = f"none of {empty[0]!r}", "Leave the class out of prompts.classes, or add prompts for it"
        raise JobError(Problem("select.per_class", "a prompt of each class", got, hint))
