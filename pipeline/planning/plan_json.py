"""A plan as `job.json` holds it."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from promptmill.pipeline.models.catalog.clips import ResolvedClip
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.storage.urls import split_query
from promptmill.schemas.job import SCHEMA_VERSION, Job
from promptmill.schemas.plan import ResolvedAdapter, ResolvedControl, ResolvedModel, Segment, SourceFile


def to_json(plan: Plan) -> bytes:
    job = plan.job.model_dump(mode="json")
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
            "variants": plan.cells,
            "samples": plan.samples,
            "shards": plan.shards,
            "folder": plan.folder,
            **({"wide_seeds": True} if plan.wide_seeds else {}),
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
        models=tuple(_model(model) for model in inner["models"]),
        clips=tuple(ResolvedClip(**clip) for clip in inner["clips"]),
        source_schema=schema,
        segments=tuple(segment_from_json(segment) for segment in inner["segments"]),
        folder=inner.get("folder"),
        versions=content.get("versions", {}),
        wide_seeds=inner.get("wide_seeds", False),
    )


def _model(content: Mapping[str, Any]) -> ResolvedModel:
    adapters = tuple(ResolvedAdapter(**each) for each in content.get("adapters", ()))
    controls = tuple(ResolvedControl(**each) for each in content.get("controlnets", ()))
    return ResolvedModel(**{**content, "adapters": adapters, "controlnets": controls})


def segment_from_json(content: Mapping[str, Any]) -> Segment:
    files = tuple(SourceFile(**file) for file in content["files"])
    return Segment(**{**content, "files": files, "ends": tuple(content.get("ends", ()))})
