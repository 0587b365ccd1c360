"""Whose output this is: `job.json` claims it for one job, `segments/` holds what was added to that job later.

job.json                 the resolved job, its fingerprint and the plan; created if absent, before anything is made
segments/000000042.json  prompts added by `run --extend`, samples to make again by `retry`: the shards from 42 on.
                         Created if absent, so that of two drivers that add to the same state one wins
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from promptmill.pipeline.crashpoints import reached
from promptmill.pipeline.dataset.extend import find_growth, may_extend, new_segment
from promptmill.pipeline.dataset.keys import JOB_KEY
from promptmill.pipeline.dataset.open import read_plan, require_plan
from promptmill.pipeline.models.catalog.versions import library_versions
from promptmill.pipeline.planning.places import recorded, recorded_later, relocated
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.planning.plan_json import MOST_PLAN_BYTES, segment_json, to_json
from promptmill.pipeline.planning.same import differences
from promptmill.pipeline.prompts.held import held_copy
from promptmill.pipeline.prompts.staging import stage
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import InputError, JobError, OutputMismatchError, Problem, StorageError
from promptmill.schemas.plan import STAGED, Segment, SourceFile


def claim_output(plan: Plan, store: Store, extend: bool = False) -> Plan:
    """Make the output this job's, or join it where it is already; the plan that holds for everyone.

    With `extend`, source files that are new since then are added, and rows by which others grew. Raises
    OutputMismatchError where the output belongs to another job, naming each field that differs, and InputError for rows
    of a new dataset that make no image; in what comes later they fail alone.
    """
    stored = read_plan(store)
    if stored is None:
        if plan.wrong:
            raise InputError(*plan.wrong)
        store.create(JOB_KEY, _readable(to_json(recorded(_staged(plan, store), _folder(store)))))
        reached("driver-after-claim")
        stored = read_plan(store)
        if stored is None:
            raise StorageError(f"{store.url}/{JOB_KEY} was written and cannot be found. Does something delete there?")
    if extend:
        plan, stored = _extend(plan, stored, store)
    return _with_copies(plan, join(plan, stored, store.url), store)


def _readable(data: bytes) -> bytes:
    if len(data) > MOST_PLAN_BYTES:
        got, hint = f"{len(data):,} bytes of names", "Give fewer, larger files"
        raise JobError(Problem("prompts.source", f"files whose names fit into {MOST_PLAN_BYTES:,} bytes", got, hint))
    return data


def join(plan: Plan, stored: Plan, url: str) -> Plan:
    """The plan of the dataset at `url`, to be run as `plan` says. Raises OutputMismatchError as `claim_output`."""
    refuse_other_job(plan, stored, url)
    # How to run, where the files lie, how many rounds there may be, and what is made of it later, is today's choice;
    # what to make is the claim's.
    today = {name: getattr(plan.job, name) for name in ("compute", "output", "select", "curate")}
    job = stored.job.model_copy(update=today)
    return replace(relocated(plan, stored), job=job)


def _with_copies(plan: Plan, joined: Plan, store: Store) -> Plan:
    """Bring back copies that someone deleted or changed: the source is the same, else `join` would have refused."""
    staged = [
        file
        for segment in joined.segments
        for file in segment.files
        if segment.kind != "retry" and file.path.startswith(STAGED)
    ]
    copies = {file.path: held_copy(file, store) for file in staged}
    ours = {file.name: file for file in plan.segments[0].files}
    lost = [file for file in staged if copies[file.path] is None and file.name in ours]
    brought = stage([_as_it_was(ours[file.name], file) for file in lost], plan.job.prompts, store)
    copies |= {file.path: copy for file, copy in zip(lost, brought, strict=True)}

    def copied(segment: Segment) -> Segment:
        files = (copies.get(file.path) or file for file in segment.files)
        return segment if segment.kind == "retry" else replace(segment, files=tuple(files))

    return replace(joined, segments=tuple(copied(segment) for segment in joined.segments))


def _as_it_was(now: SourceFile, copied: SourceFile) -> SourceFile:
    """The file with the rows of its copy: a part of it, where it grew."""
    whole = now.rows if now.etag != copied.etag or copied.first else None
    return replace(now, rows=copied.rows, first=copied.first, whole=whole)


def _folder(store: Store) -> str | None:
    return None if store.local_path() is None else store.root


def _staged(plan: Plan, store: Store) -> Plan:
    segments = tuple(replace(segment, files=stage(segment.files, plan.job.prompts, store)) for segment in plan.segments)
    return replace(plan, segments=segments)


def add_segments(plan: Plan, store: Store, segments: Sequence[Segment], source: Mapping[str, Any]) -> Plan:
    """The plan with these segments, or with those that another driver added to the same state before."""
    if not segments:
        return plan
    kept = recorded_later(segments, plan, _folder(store))
    content: dict[str, Any] = {"segments": [segment_json(segment) for segment in kept], "source": dict(source)}
    content["versions"] = dict(library_versions())
    store.create(f"segments/{plan.shards:09d}.json", json.dumps(content, indent=2).encode())
    reached("driver-after-segment")
    return require_plan(store)


def _extend(plan: Plan, stored: Plan, store: Store) -> tuple[Plan, Plan]:
    """`plan` with the files that are gone, and the stored one with all of its rows.

    Whoever adds to the same state first wins, and we add to that what it still lacks.
    """
    while (growth := find_growth(plan, stored, store)).files:
        refuse_other_job(growth.known, stored, store.url)
        files = stage(growth.files, plan.job.prompts, store, stored.source_schema)
        grown = add_segments(stored, store, [new_segment(plan, stored, files, growth.lineage)], growth.source)
        if grown.shards == stored.shards:
            raise StorageError(f"{store.url}/segments/ does not show what was written there. Does something delete?")
        stored = grown
    return growth.plan, stored


def refuse_other_job(plan: Plan, stored: Plan, url: str, place: str = "output.url") -> None:
    """Raises OutputMismatchError that names every field in which the two differ. `place` is who named the URL."""
    different = differences(plan, stored)
    if not different:
        return
    only_source = all(name.startswith("prompts.source.") for name, _, _ in different)
    only_new = only_source and all(theirs is None for _, _, theirs in different)
    problems = [
        Problem(f"{url}: {name}", f"{_short(theirs)}, as in the dataset there", _short(ours))
        for name, ours, theirs in different
    ]
    if only_new:
        hint = "The source has new files: `promptmill run --extend` adds what is new"
    elif only_source:
        hint = (
            "The dataset was made from these files as they were. Bring them back, with new prompts in a new file that "
            "`promptmill run --extend` adds, or choose another output.url"
        )
        if set(_names_of(different)) <= may_extend(plan, stored):
            hint = (
                "Files grew or were archived: `promptmill run --extend` adds what is new, and misses none that is gone"
            )
    else:
        hint = f"This output belongs to another job. Choose another {place}, or change these fields back"
    raise OutputMismatchError(*problems, hint)


def _names_of(different: Sequence[tuple[str, Any, Any]]) -> list[str]:
    """The source files that fields are about: `prompts.source.a.b.csv.rows` is about `a.b.csv`."""
    return [field.removeprefix("prompts.source.").rpartition(".")[0] for field, _, _ in different]


def _short(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:197] + "…"
