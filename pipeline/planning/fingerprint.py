"""Every field that changes rows, and their hash."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from promptmill.pipeline.models.catalog.clips import ResolvedClip
from promptmill.pipeline.prompts.source import Source
from promptmill.schemas.identity import canonical_json, digest
from promptmill.schemas.job import SCHEMA_VERSION, Job
from promptmill.schemas.plan import ResolvedModel


def fingerprint_fields(
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


def fingerprint(fields: Mapping[str, Any]) -> str:
    return digest(fields)


def differing_fields(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(dotted name, ours, theirs) for each leaf that is not the same; None where one side lacks it."""
    mine, other = dict(_leaves("", ours)), dict(_leaves("", theirs))
    names = sorted(mine.keys() | other.keys())
    return [(name, mine.get(name), other.get(name)) for name in names if mine.get(name) != other.get(name)]


def _leaves(prefix: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        return [leaf for key, item in value.items() for leaf in _leaves(f"{prefix}.{key}" if prefix else key, item)]
    if isinstance(value, (list, tuple)) and any(isinstance(item, Mapping) for item in value):
        return [leaf for i, item in enumerate(value) for leaf in _leaves(f"{prefix}[{i}]", item)]
    return [(prefix, value)]
