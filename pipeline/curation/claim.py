"""Whose output a curation is: a dataset of the input's shards, with all that decides in its fingerprint."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from promptmill.pipeline.crashpoints import reached
from promptmill.pipeline.curation.decisions import KEY
from promptmill.pipeline.curation.known import KnownPart, contents_of, refuse_sets_without_images
from promptmill.pipeline.curation.percentiles import refuse_percentiles
from promptmill.pipeline.curation.settings import Settings
from promptmill.pipeline.dataset.claim import refuse_other_job
from promptmill.pipeline.dataset.keys import JOB_KEY
from promptmill.pipeline.dataset.open import read_plan
from promptmill.pipeline.dataset.records import UNREADABLE
from promptmill.pipeline.dataset.rounds import awaits_round
from promptmill.pipeline.dataset.state import read_footers
from promptmill.pipeline.dataset.verify import verify_dataset
from promptmill.pipeline.display import first_line, redact
from promptmill.pipeline.planning.fingerprint import differing_fields, fingerprint
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.planning.plan_json import to_json
from promptmill.pipeline.storage.store import Store
from promptmill.pipeline.storage.urls import real_place
from promptmill.schemas.errors import JobError, OutputMismatchError, Problem, StorageError
from promptmill.schemas.plan import CommitRecord

FIELD = "curate"
"""Of a plan's `fields`: there, the dataset came of another one and not of a run."""
_CONTENT = "content"


def claim_curation(
    plan: Plan,
    source: Store,
    target: Store,
    settings: Settings,
    known: Sequence[KnownPart],
    contents: Mapping[str, str] | None = None,
) -> Plan:
    """The plan of the output, written there if nothing was. `contents` are those of the known sets, if read.

    Raises JobError for an input that is not whole, or cannot be curated so, OutputMismatchError for an output that
    belongs to another job.
    """
    _refuse_unfinished(plan, source)
    said = {"input": plan.fingerprint, **settings.fields(contents or contents_of(known))}
    own = _plan_of(plan, source, target, {**said, _CONTENT: _content(plan, source)})
    stored = read_plan(target)
    if stored is None or target.entry(KEY) is None:  # a refusal leaves no claim, which would refuse the right call too
        refuse_percentiles(source, settings)
        refuse_sets_without_images(known)
    if stored is None:
        target.create(JOB_KEY, to_json(own))
        reached("curate-after-claim")
        stored = read_plan(target)
    if stored is None:
        raise StorageError(f"{target.url}/{JOB_KEY} was written and cannot be found. Does something delete there?")
    _refuse_other(own, stored, target)
    return stored


def refuse_other_curation(
    plan: Plan, source: Store, target: Store, settings: Settings, known: Sequence[KnownPart]
) -> Mapping[str, str] | None:
    """Raises as `claim_curation` for an output that is another's, as far as that is known before the input is whole.

    What the known sets hold, where that had to be read.
    """
    stored = read_plan(target)
    if stored is None:
        return None
    contents = contents_of(known)
    said = {"input": plan.fingerprint, **settings.fields(contents), _CONTENT: curation_of(stored).get(_CONTENT)}
    _refuse_other(_plan_of(plan, source, target, said), stored, target)
    if awaits_round(plan, source):
        raise _of_before(target)
    return contents


def _plan_of(plan: Plan, source: Store, target: Store, said: Mapping[str, Any]) -> Plan:
    fields = {**plan.fields, FIELD: dict(said)}
    output = plan.job.output.model_copy(update={"url": target.url})
    own = replace(plan, job=plan.job.model_copy(update={"output": output}), fields=fields, notices=())
    return replace(own, fingerprint=fingerprint(fields), folder=_folder(plan, source, target))


def _refuse_other(own: Plan, stored: Plan, target: Store) -> None:
    names = [name for name, _, _ in differing_fields(own.fields, stored.fields)]
    same = all(name == f"{FIELD}.{_CONTENT}" or name.startswith("prompts.source.") for name in names)
    if same and (names or own.shards > stored.shards):  # of one job, so its source grew, or a retry came
        raise _of_before(target)
    refuse_other_job(own, stored, target.url, "--to")


def _of_before(target: Store) -> OutputMismatchError:
    got, hint = "one of what was there before", "Choose another place; `{date}` in it makes one each day"
    where = f"--to {redact(target.url)}"
    return OutputMismatchError(Problem(where, "a curation of all samples of the input", got, hint))


def curation_of(plan: Plan) -> Mapping[str, Any]:
    """How it was curated; empty of a dataset that a run made, and where `job.json` says what is none of ours."""
    said = plan.fields.get(FIELD)
    return said if isinstance(said, Mapping) else {}


def is_curated(plan: Plan) -> bool:
    return FIELD in plan.fields


def refuse_curated(plan: Plan, url: str, command: str) -> None:
    """Raises JobError where a command would add samples that nobody curated."""
    if is_curated(plan):
        hint = f"`promptmill {command}` its input, and curate that into another output"
        raise JobError(Problem(redact(url), "a dataset that a run made", "one that `promptmill curate` made", hint))


def refuse_overlap(source: str, target: str, what: str = "the input") -> None:
    """Raises JobError where one lies inside the other."""
    one, other = (real_place(url) for url in (source, target))
    if one == other or other.startswith(f"{one}/") or one.startswith(f"{other}/"):
        got = f"{redact(target)}, which {'is' if one == other else 'lies in' if other > one else 'holds'} {what}"
        raise JobError(Problem("--to", f"a place outside {what}, which does not hold it", got, "Choose another"))


def _folder(plan: Plan, source: Store, target: Store) -> str | None:
    """What relative paths are relative to, seen from the output."""
    here, there = source.local_path(), target.local_path()
    if here is None or there is None or plan.folder is None:
        return None
    return os.path.relpath(Path(here, plan.folder), there)


def _refuse_unfinished(plan: Plan, source: Store) -> None:
    found = verify_dataset(plan, source)
    if found.problems:
        hint = "`promptmill verify` says what to do"
        raise JobError(Problem(source.url, "a dataset that is whole", found.problems[0], hint))
    if found.missing:
        got, hint = f"{len(found.missing)} of {plan.shards} shards missing", "`promptmill run` makes them"
        raise JobError(Problem(source.url, "a dataset that is finished", got, hint))


def _content(plan: Plan, source: Store) -> str:
    """A hash over which samples there are, how each ended, and the hashes of their images."""
    footers = read_footers(plan, source)
    digest = hashlib.sha256()
    for part in source.map(lambda number: _part(source, footers[number]), sorted(footers)):
        digest.update(part)
    return digest.hexdigest()


def _part(source: Store, record: CommitRecord) -> bytes:
    digest = hashlib.sha256()
    for sidecar in record.sidecars:
        digest.update(f"{sidecar.name} {sidecar.sha256}\n".encode())
    try:
        with source.open(record.shard.data_key) as file:
            columns: Mapping[str, Any] = pq.read_table(file, columns=["sample_id", "image_sha256"]).to_pydict()
    except UNREADABLE as error:
        where = f"{source.url}/{record.shard.data_key}"
        raise JobError(Problem(where, "a whole data object", first_line(error))) from None
    for sample, image in zip(columns["sample_id"], columns["image_sha256"], strict=True):
        digest.update(f"{sample} {image}\n".encode())
    return digest.digest()
