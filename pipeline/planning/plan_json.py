"""A plan as `job.json` holds it."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

import pyarrow as pa

from promptmill.pipeline.models.catalog.clips import ResolvedClip
from promptmill.pipeline.planning import variants
from promptmill.pipeline.planning.plan import Plan, blocks
from promptmill.pipeline.planning.rounds import places_of
from promptmill.schemas.checked import checked, count, text_map
from promptmill.schemas.job import SCHEMA_VERSION, Job
from promptmill.schemas.json_text import parse_object
from promptmill.schemas.origin import Lineage, checked_lineage
from promptmill.schemas.plan import (
    MOST_SHARDS,
    STAGED,
    PythonScore,
    Segment,
)
from promptmill.schemas.resolved import ResolvedAdapter, ResolvedControl, ResolvedIpAdapter, ResolvedModel
from promptmill.schemas.scores import MOST_ROUNDS
from promptmill.schemas.urls import split_query
from promptmill.schemas.words import NO_WORDS, Words

_COPY = re.compile(rf"{STAGED}inputs/[\w-][\w.-]*")
MOST_PLAN_BYTES = 64 << 20
"""Of `job.json` and of each segment: 200,000 source files have so much."""


def to_json(plan: Plan) -> bytes:
    job = plan.job.model_dump(mode="json")
    del job["curate"]  # what is made of it later is no part of it, and may name places with a secret
    if plan.job.prompts.source is not None:  # the query of a presigned URL is a secret
        job["prompts"]["source"] = split_query(plan.job.prompts.source)[0]
    content = {
        "version": SCHEMA_VERSION,
        "fingerprint": plan.fingerprint,
        "job": job,
        "fields": plan.fields,
        "versions": dict(plan.versions),
        "plan": {
            "prompts": plan.prompts,
            "variants": plan.variant_count,
            "samples": plan.samples,
            "shards": plan.shards,
            "folder": plan.folder,
            **({"wide_seeds": True} if plan.wide_seeds else {}),
            **({"words": asdict(plan.words)} if plan.words != NO_WORDS else {}),
            **({"control_modes": True} if plan.control_modes else {}),
            **({"origins": True} if plan.origins else {}),
            **({"lineage": asdict(plan.source_lineage)} if plan.source_lineage != Lineage() else {}),
            "models": [asdict(model) for model in plan.models],
            "clips": [asdict(clip) for clip in plan.clips],
            "python_scores": [asdict(score) for score in plan.python_scores],
            "segments": [segment_json(segment) for segment in plan.segments],
            "source_schema": base64.b64encode(plan.source_schema.serialize().to_pybytes()).decode(),
        },
    }
    return json.dumps(content, indent=2, ensure_ascii=False).encode("utf-8", "backslashreplace")


def from_json(data: bytes) -> Plan:
    """Raises ValueError, TypeError, KeyError or pyarrow.ArrowException for what is no plan, or claims what none can."""
    content = parse_object(data)
    if content["version"] != SCHEMA_VERSION:
        raise ValueError(f"version {str(content['version'])[:20]}; this Promptmill reads version {SCHEMA_VERSION}")
    inner = content["plan"]
    schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(inner["source_schema"])))
    plan = Plan(
        job=Job.model_validate(content["job"]),
        fingerprint=_text(content, "fingerprint"),
        fields=content["fields"],
        models=tuple(_model(model) for model in inner["models"]),
        clips=tuple(checked(ResolvedClip, clip) for clip in inner["clips"]),
        python_scores=tuple(checked(PythonScore, score) for score in inner.get("python_scores", ())),
        source_schema=schema,
        segments=(),
        folder=None if inner.get("folder") is None else _text(inner, "folder"),
        versions=text_map(content.get("versions")),
        wide_seeds=inner.get("wide_seeds") is True,
        words=checked(Words, inner.get("words", {})),
        control_modes=inner.get("control_modes") is True,
        origins=inner.get("origins") is True,
        source_lineage=checked_lineage(inner.get("lineage", {})),
    )
    _check_fields(plan)
    plan = with_segments(plan, inner["segments"])
    check_named(plan)
    return plan


def with_segments(plan: Plan, contents: Iterable[object]) -> Plan:
    """The plan with segments that a file says are its next. Raises ValueError where they cannot be."""
    for content in contents:
        plan = replace(plan, segments=(*plan.segments, _fitting(plan, segment_from_json(content))))
    if plan.shards > MOST_SHARDS:
        raise ValueError(f"more than {MOST_SHARDS:,} shards")
    return plan


def _text(content: Mapping[str, Any], name: str) -> str:
    if not isinstance(content[name], str):
        raise ValueError(f"{name}: no text")  # noqa: TRY004 - one kind of error for all that is wrong
    return str(content[name])


def _check_fields(plan: Plan) -> None:
    """Of what every reader of `fields` relies on. Raises ValueError."""
    section: Any = plan.fields
    for name in ("prompts", "source"):
        section = section.get(name) if isinstance(section, Mapping) else None
    check_source(section)
    suite = plan.fields["prompts"].get("suite")
    if suite is not None and not (isinstance(suite, Mapping) and {"name", "sha256"} <= suite.keys()):
        raise ValueError("fields: a suite without name and sha256")
    if bool(plan.words.classes) != plan.job.prompts.labelled:
        raise ValueError("classes without labels, or labels without classes")
    if len(plan.models) != len(variants.swept_models(plan.job)):
        raise ValueError(f"{len(plan.models)} models, of {len(variants.swept_models(plan.job))} that the job names")
    if len(plan.python_scores) != sum(score.python is not None for score in plan.job.score):
        raise ValueError(f"{len(plan.python_scores)} scores of its maker's own, which is not what the job names")
    if len(plan.clips) != sum(score.model is not None for score in plan.job.score):
        raise ValueError(f"{len(plan.clips)} CLIPs, which is not what the job's scores need")


def check_source(section: object) -> None:
    """Of what the fields say of each source file. Raises ValueError."""
    if not isinstance(section, Mapping):
        raise ValueError("fields: no source")  # noqa: TRY004
    for entry in section.values():
        if not (isinstance(entry, Mapping) and isinstance(entry.get("rows"), int)):
            raise ValueError("fields: a file of the source without its number of rows")  # noqa: TRY004


def check_named(plan: Plan) -> None:
    """Whether prompts come from files that `fields` name, which a job is held against. Raises ValueError."""
    named = plan.fields["prompts"]["source"].keys()
    files = (file for segment in plan.segments if segment.kind != "retry" for file in segment.files)
    unknown = [file.name for file in files if file.name not in named]
    if unknown:
        raise ValueError(f"a segment of {unknown[0][:80]!r}, which is no file of its source")


def _model(content: Mapping[str, Any]) -> ResolvedModel:
    adapters = tuple(checked(ResolvedAdapter, each) for each in content.get("adapters", ()))
    controls = tuple(checked(ResolvedControl, each) for each in content.get("controlnets", ()))
    given = content.get("ip_adapter")
    looks = None if given is None else checked(ResolvedIpAdapter, given)
    return checked(ResolvedModel, {**content, "adapters": adapters, "controlnets": controls, "ip_adapter": looks})


def segment_json(segment: Segment) -> dict[str, Any]:
    """Without the fields of rounds where it is none, nor a lineage it has not: as versions wrote it that knew none."""
    content = asdict(segment)
    left_out = {"lineage"} if segment.lineage is None else set()
    left_out |= set() if segment.kind == "round" else {"round", "lacking"}
    return {name: value for name, value in content.items() if name not in left_out}


def segment_from_json(content: object) -> Segment:
    """Raises ValueError."""
    segment = checked(Segment, content)
    if segment.lineage is not None:
        checked_lineage(asdict(segment.lineage))
    for file in segment.files:
        count(file.rows, "rows")
        count(file.size_bytes, "size_bytes")
        if file.path.startswith(STAGED) and not _COPY.fullmatch(file.path):
            raise ValueError("path: no copy of prompts below inputs/")
    if segment.kind == "retry" and [file.path.startswith(STAGED) for file in segment.files] != [True]:
        raise ValueError("a retry of other rows than those of one copy below inputs/")
    return segment


def _check_round(plan: Plan, segment: Segment) -> None:
    """Raises ValueError for a round that no plan of this job has."""
    number, classes = count(segment.round, "round", MOST_ROUNDS), len(plan.words.classes)
    if plan.job.per_class is None or number < 1 or segment.files:
        raise ValueError("a round of a job without rounds")
    for label, lacking in segment.lacking:
        count(lacking, "lacking", plan.job.per_class)
        if not 0 <= label < classes:
            raise ValueError(f"a round for class {label} of {classes}")
    if segment.prompts != sum(places_of(plan.job, number, lacking) for _, lacking in segment.lacking):
        raise ValueError("a round with other places than its classes lack")


def _fitting(plan: Plan, segment: Segment) -> Segment:
    """The segment, where its shards follow from its prompts: whoever lists shards is told no number."""
    prompts, variant_count = count(segment.prompts, "prompts"), variants.count(plan.job)
    if segment.first_shard != plan.shards:
        raise ValueError(f"the segment of shard {segment.first_shard} does not follow shard {plan.shards - 1}")
    if segment.ends:
        expected = len(segment.ends)
        if list(segment.ends) != sorted(set(segment.ends)) or segment.ends[0] < 1 or segment.ends[-1] != prompts:
            raise ValueError("shards that do not end one after the other")
    elif segment.kind == "retry":
        expected = blocks(prompts, plan.job.output.images_per_shard)
    elif segment.kind == "round":
        _check_round(plan, segment)
        expected = blocks(prompts, plan.rows_in_shards_of(segment)) * (variant_count if segment.variant is None else 1)
    elif plan.job.per_class is not None:
        expected = 0
    else:
        expected = variant_count * blocks(prompts, plan.rows_per_shard)
    if segment.shards != expected or not 0 <= (segment.variant or 0) < variant_count:
        raise ValueError(f"{segment.shards} shards of {prompts} prompts, which make {expected}")
    return segment
