"""Every field that changes rows, and their hash.

The rule for fields that come later: those of the first version (`_FIRST`) are always part of it, every other one only
where it differs from its default. So a field that is added changes no fingerprint of a dataset that is there, and needs
nothing written here; its default must never change.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel

from promptmill.pipeline.models.catalog.clips import ResolvedClip
from promptmill.pipeline.prompts.source import Source
from promptmill.schemas.additions import Adapter, ControlNet, IpAdapter
from promptmill.schemas.generation import WHERE_IT_LIES, Generation, Model
from promptmill.schemas.identity import canonical_json, digest
from promptmill.schemas.job import SCHEMA_VERSION, Job
from promptmill.schemas.output import Output
from promptmill.schemas.plan import PythonScore
from promptmill.schemas.prompts import Columns, Prompts, ShapesSuite
from promptmill.schemas.resolved import ResolvedModel
from promptmill.schemas.scores import Score, Select
from promptmill.schemas.sweep import PRESETS, Partial

_FIRST: Final[Mapping[type[BaseModel], set[str]]] = {
    Job: {"seed", "prompts", "model", "generation", "sweep", "score", "select", "output"},
    Prompts: {"suite", "columns", "shapes", "limit"},
    Columns: {"prompt", "id", "negative_prompt", "seed", "caption", "image", "mask"},
    ShapesSuite: {"per_category", "seed", "split"},
    Model: {"path", "revision", "dtype"},
    Generation: {
        *("num_inference_steps", "guidance_scale", "negative_prompt", "scheduler"),
        *("width", "height", "batch_size", "images_per_prompt"),
    },
    Score: {"clip", "relative", "distractors", "metric", "name"},
    Select: {"keep", "by", "min"},
    Output: {
        *("image_format", "jpeg_quality", "images_per_shard"),
        *("embed_parameters", "embed_source_type", "keep_rejected_images"),
    },
}
"""Fields of each section in the first version. Never add to it."""

_NO_ROWS: Final[Mapping[str, bool | set[str]]] = {
    "name": True,
    "compute": True,
    "curate": True,
    "generation": {"mode"},
    "output": {"url", "keep_inputs"},
    "prompts": {"source", "license"},
    "select": {"max_rounds"},
}
"""Fields that change no row. The source is part of the fingerprint by the files it names."""


def fingerprint_fields(
    job: Job,
    models: Sequence[ResolvedModel],
    clips: Sequence[ResolvedClip],
    source: Source,
    python_scores: Sequence[PythonScore] = (),
) -> dict[str, Any]:
    """Every field that changes rows, by its name in the job file."""
    whole = _without_later_defaults(job, job.model_dump(mode="json", exclude=_NO_ROWS))
    whole["sweep"] = _swept_fields(job, whole["sweep"])
    whole["version"] = SCHEMA_VERSION
    whole["model"]["weights"] = [f"{model.path}@{model.revision}" for model in models]
    if any(model.adapters for model in models):
        whole["model"]["adapter_weights"] = [[each.sha for each in model.adapters] for model in models]
    if any(model.controlnets for model in models):
        whole["model"]["controlnet_weights"] = [[each.revision for each in model.controlnets] for model in models]
    if any(model.ip_adapter for model in models):
        whole["model"]["ip_adapter_weights"] = [model.ip_adapter and model.ip_adapter.revision for model in models]
    with_model = [dumped for dumped, score in zip(whole["score"], job.score, strict=True) if score.model]
    for score, clip in zip(with_model, clips, strict=True):
        score["weights"] = clip.identity
    by_python = [dumped for dumped, score in zip(whole["score"], job.score, strict=True) if score.python]
    for dumped, own in zip(by_python, python_scores, strict=True):
        dumped |= {"version": own.version, "names": own.names}
    whole["prompts"] = _prompt_fields(job, source, whole["prompts"])
    whole["prompts"]["source"] = {
        file.name: {"size_bytes": file.size_bytes, "rows": file.rows, "etag": file.etag} for file in source.files
    }
    fields: dict[str, Any] = json.loads(canonical_json(whole))
    return fields


def _without_later_defaults(value: Any, dumped: Any) -> Any:
    """`dumped`, the JSON of `value`, without fields that came after the first version and have their default."""
    if isinstance(value, Model | Adapter | ControlNet | IpAdapter):
        dumped = {name: item for name, item in dumped.items() if name not in WHERE_IT_LIES}
    if isinstance(value, BaseModel):
        kept = {name: item for name, item in dumped.items() if not _is_later_default(value, name)}
        return {name: _without_later_defaults(getattr(value, name), item) for name, item in kept.items()}
    if isinstance(value, Mapping):
        return {name: _without_later_defaults(value[name], item) for name, item in dumped.items()}
    if isinstance(value, (list, tuple)):
        return [_without_later_defaults(item, its) for item, its in zip(value, dumped, strict=True)]
    return dumped


def _is_later_default(section: BaseModel, name: str) -> bool:
    if isinstance(section, Partial) or any(name in _FIRST.get(kind, ()) for kind in type(section).__mro__):
        return False  # of presets and exclusions, all that is written counts
    field = type(section).model_fields[name]
    return bool(getattr(section, name) == field.get_default(call_default_factory=True))


def _prompt_fields(job: Job, source: Source, dumped: dict[str, Any]) -> dict[str, Any]:
    """Of a suite its name, checksum and options; without one nothing more than before there were suites."""
    if source.words.classes:
        dumped["classes"] = [[each.name, each.wording] for each in source.words.classes]
    for each in (each for each in source.words.attributes if each.origin is not None):
        dumped["attributes"][each.name] = {"values": digest([each.values, each.weights])}
    if source.words.pools:
        dumped["wildcards"] = {each.name: digest(each.values) for each in source.words.pools}
    options = dumped.pop("shapes")
    suite = dumped.pop("suite")
    if suite is None:
        return dumped
    own = {"options": options} if suite == "shapes" else {}
    return {**dumped, "suite": {"name": suite, "sha256": source.sha256, **own}}


def _swept_fields(job: Job, dumped: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is in use. Presets are a list, because their order numbers the variants."""
    if not job.sweep.presets:
        return dumped
    return {**dumped, PRESETS: [{"name": name, **dumped[PRESETS][name]} for name in job.sweep.presets]}


def fingerprint(fields: Mapping[str, Any]) -> str:
    return digest(fields)


def differing_fields(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(dotted name, ours, theirs) for each leaf that is not the same; None where one side lacks it.

    A null that the other side lacks is named, as `null`, where nothing else differs: a setting that says it draws other
    images than one that does not.
    """
    mine, other = dict(_leaves("", ours)), dict(_leaves("", theirs))
    names = sorted(mine.keys() | other.keys())
    named = [(name, mine.get(name), other.get(name)) for name in names if mine.get(name) != other.get(name)]
    nulls = [(name, *(("null", None) if name in mine else (None, "null"))) for name in mine.keys() ^ other.keys()]
    return named or sorted(nulls)


def _leaves(prefix: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        return [leaf for key, item in value.items() for leaf in _leaves(f"{prefix}.{key}" if prefix else key, item)]
    if isinstance(value, (list, tuple)) and any(isinstance(item, Mapping) for item in value):
        return [leaf for i, item in enumerate(value) for leaf in _leaves(f"{prefix}[{i}]", item)]
    return [(prefix, value)]
