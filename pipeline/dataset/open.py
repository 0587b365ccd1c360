"""An output as it lies there: the folder or bucket, and the plan that claimed it."""

from __future__ import annotations

import errno
import json
import re
import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from promptmill.pipeline.dataset.keys import JOB_KEY, SOURCE_FIELD
from promptmill.pipeline.display import cut, redact
from promptmill.pipeline.models.catalog.versions import newer_version
from promptmill.pipeline.planning.places import found
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.planning.plan_json import MOST_PLAN_BYTES, check_named, check_source, from_json, with_segments
from promptmill.pipeline.storage.store import Store
from promptmill.pipeline.storage.urls import check_place
from promptmill.schemas.checked import NO_OBJECT, text_map
from promptmill.schemas.errors import JobError, OutputMismatchError, Problem
from promptmill.schemas.json_text import parse_object

DELETING = "deleting"
"""The `version` of a `job.json` whose dataset is being deleted: no version of ours reads it."""

_OF_RAY = re.compile(r"/runtime_resources/working_dir_files/|/session_(latest|\d{4}-\d\d-\d\d_[\d_-]+)/")


def open_output(url: str, field: str = "", **options: Any) -> Store:
    """The store of a folder or URL that `field` of the job names, or the command line; `options` are those of Store.

    Raises JobError for a URL that `check_place` refuses, and for a local path that cannot be a folder.
    """
    where = f"{field}: {redact(url)}" if field else redact(url)
    check_place(url, where)
    store = Store(url, **options)
    folder = store.local_path()
    if folder is not None:
        _refuse_rays_own(folder, where)
    if folder is not None and (got := _in_the_way(folder)):
        hint = "Choose another" if field else "Give the job's output.url"
        raise JobError(Problem(where, "a folder, or the name of a new one", got, hint))
    return store


def _refuse_rays_own(path: Path, where: str) -> None:
    """`ray job submit --working-dir` starts the command in a copy that each node has for itself, and then deletes."""
    if any(_OF_RAY.search(f"{given}/") for given in (path, path.resolve())):
        hint = "Give object storage, or the absolute path of a folder that all nodes share"
        got = "one in the working folder of a Ray job, which each node has for itself and which Ray deletes"
        raise JobError(Problem(where, "a place that stays", got, hint))


def _in_the_way(path: Path) -> str:
    """What keeps a path from being a folder; empty where nothing does. A refusal of the disk is left to the store."""
    try:
        return "" if stat.S_ISDIR(path.stat().st_mode) else "a file"
    except OSError as error:
        lasting = {errno.ENOTDIR: "a path below a file", errno.ENAMETOOLONG: "a name that is too long"}
        return lasting.get(error.errno or 0, "")


def open_dataset(url: str, **options: Any) -> tuple[Plan, Store]:
    """Raises JobError where there is no dataset, and as `open_output`."""
    store = open_output(url, **options)
    return require_plan(store), store


def located(plan: Plan, store: Store) -> Plan:
    """The plan with absolute paths to prompts and models, for a command that reads them and is given no job file."""
    return found(plan, None if store.local_path() is None else store.root)


def read_plan(store: Store) -> Plan | None:
    """With paths as recorded, see `located`; None where there is no dataset.

    Raises OutputMismatchError for a job.json that is not Promptmill's.
    """
    name, expected, data = JOB_KEY, "the job file of a Promptmill dataset", None
    try:
        data = store.read_if_exists(JOB_KEY, MOST_PLAN_BYTES)
        if data is None:
            return None
        plan = from_json(data)
        for entry in store.list("segments"):
            name, expected = entry.name, "prompts that came to this dataset later"
            data = store.read_if_exists(name, MOST_PLAN_BYTES)
            plan = _grown(plan, parse_object(data or b""))
    except (*NO_OBJECT, pa.ArrowException, OSError) as error:
        if (why := _not_for_us(data, store)) is not None:
            raise OutputMismatchError(why) from None
        got = cut(f"{type(error).__name__}: {error}".splitlines()[0], 300)
        raise OutputMismatchError(Problem(f"{store.url}/{name}", expected, got, "Choose another output.url")) from None
    return plan


def _not_for_us(data: bytes | None, store: Store) -> Problem | None:
    """Why a claim or segment that cannot be read is no damaged one: it is being deleted, or of a later version."""
    try:
        content = parse_object(data or b"{}")
    except NO_OBJECT:
        return None
    if content.get("version") == DELETING:
        begun = text_map(content.get("deleting"))
        got = f"one that is being deleted since {begun.get('since')}, begun on {begun.get('host')}"
        return Problem(store.url, "a dataset", got, f"`promptmill delete {store.url}` goes on")
    return newer_version(text_map(content.get("versions")), store.url)


def newest_plan(plan: Plan, store: Store) -> Plan:
    """With what `run --extend` and `retry` have added since `plan` was read; how to run stays as it was.

    Read after a listing of `data/`, it has every shard of that listing: segments come before their shards.
    """
    stored = read_plan(store)
    if stored is None or len(stored.segments) == len(plan.segments):
        return plan
    segments = (*plan.segments, *stored.segments[len(plan.segments) :])  # those of `plan` may say where files lie now
    return replace(stored, job=plan.job, notices=plan.notices, models=plan.models, clips=plan.clips, segments=segments)


def require_plan(store: Store) -> Plan:
    """Raises JobError where there is no dataset."""
    plan = read_plan(store)
    if plan is None:
        raise JobError(
            Problem(
                store.url, "a Promptmill dataset (a folder or URL with a job.json)", "none", "Give the job's output.url"
            )
        )
    return plan


def _grown(plan: Plan, content: Mapping[str, Any]) -> Plan:
    fields = json.loads(json.dumps(plan.fields))
    check_source(content["source"])
    fields[SOURCE_FIELD[0]][SOURCE_FIELD[1]].update(content["source"])
    grown = replace(with_segments(plan, content["segments"]), fields=fields)
    check_named(grown)
    return grown
