"""Whether two plans are of one job: by what their files hold, and not by where these lie."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from promptmill.pipeline.models.catalog.held import is_same
from promptmill.pipeline.planning.fingerprint import differing_fields
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.prompts.formats import is_parquet
from promptmill.schemas.plan import STAGED, SourceFile


def differences(plan: Plan, stored: Plan) -> list[tuple[str, Any, Any]]:
    """(dotted name, ours, theirs) for each field of the job in which they differ."""
    return [*differing_fields(_in_their_words(plan, stored), stored.fields), *_other_contents(plan, stored)]


def _in_their_words(plan: Plan, stored: Plan) -> dict[str, Any]:
    """Our fields, with their names for the folders that are the same."""
    fields: dict[str, Any] = json.loads(json.dumps(plan.fields))
    paths, revisions = {}, {}
    for ours, theirs in zip(plan.models, stored.models, strict=False):
        if is_same(ours, theirs):
            paths[ours.path] = theirs.path
            revisions[f"{ours.path}@{ours.revision}"] = f"{theirs.path}@{theirs.revision}"
        paths |= {a.path: b.path for a, b in zip(ours.adapters, theirs.adapters, strict=False) if a.sha == b.sha}
        nets = zip(ours.controlnets, theirs.controlnets, strict=False)
        paths |= {a.path: b.path for a, b in nets if a.revision == b.revision}
        a, b = ours.ip_adapter, theirs.ip_adapter
        if a is not None and b is not None and a.revision == b.revision:
            paths[a.path] = b.path
    for clip, their_clip in zip(plan.clips, stored.clips, strict=False):
        if is_same(clip, their_clip):
            paths[clip.path] = their_clip.path
            revisions[clip.identity] = their_clip.identity
    _rename(fields, paths, revisions)
    _count_as_they_did(fields, stored)
    return fields


def _count_as_they_did(fields: dict[str, Any], stored: Plan) -> None:
    """In place: an earlier version took blank lines for prompts, and other text formats in other rows than this one."""
    theirs = stored.fields["prompts"].get("source", {})
    for name, ours in fields["prompts"].get("source", {}).items():
        before = theirs.get(name)
        if before is not None and before.get("etag") == ours["etag"] and not is_parquet(name):
            ours["rows"] = before["rows"]


def _rename(value: Any, paths: Mapping[str, str], revisions: Mapping[str, str]) -> None:
    """In place, wherever fields name models: as text, or as an object with a `path`."""
    if isinstance(value, list):
        for item in value:
            _rename(item, paths, revisions)
    if not isinstance(value, dict):
        return
    for key, item in value.items():
        if key in ("model", "path", "clip", "relative"):
            value[key] = _renamed(item, paths)
        elif key == "weights":
            value[key] = _renamed(item, revisions)
        if isinstance(item, dict | list):
            _rename(value[key], paths, revisions)


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [_renamed(item, names) for item in value]
    return names.get(value, value) if isinstance(value, str) else value


def _other_contents(plan: Plan, stored: Plan) -> Iterator[tuple[str, Any, Any]]:
    """Files that look the same from outside, as Parquet does of which the footer is the same.

    What is compared is no field of the fingerprint: older plans hold no digest, and the etag of one content differs
    from place to place, so that it says something at the same URL alone.
    """
    parts = Counter(file.name for file in _files(stored))  # what was appended is held against them when it is added
    in_place = (file for file in _files(stored) if not file.path.startswith(STAGED))
    theirs = {file.name: file for file in in_place if parts[file.name] == 1}
    for file in _files(plan):
        other = theirs.get(file.name)
        if other is None:
            continue
        if None not in (file.digest, other.digest) and file.digest != other.digest:
            yield f"prompts.source.{file.name}.digest", file.digest, other.digest
        if file.path == other.path and None not in (file.version, other.version) and file.version != other.version:
            yield f"prompts.source.{file.name}.version", file.version, other.version


def _files(plan: Plan) -> Iterator[SourceFile]:
    return (file for segment in plan.segments if segment.kind != "retry" for file in segment.files)
