"""What `--extend` adds to a dataset: files that are new, and the rows by which others grew since they were planned.

A file that was archived or rotated away needs not be there any more: its copy below `inputs/`, or the rows that were
made of it, suffice.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from promptmill.pipeline.dataset.keys import ROWS_FOLDERS, SOURCE_FIELD
from promptmill.pipeline.dataset.records import UNREADABLE
from promptmill.pipeline.dataset.state import missing_shards
from promptmill.pipeline.planning import variants
from promptmill.pipeline.planning.lineage import lineage_of
from promptmill.pipeline.planning.plan import Plan, blocks
from promptmill.pipeline.prompts.folders import add_folder_columns
from promptmill.pipeline.prompts.formats import as_schema
from promptmill.pipeline.prompts.reader import prompt_reader
from promptmill.pipeline.prompts.staging import read_whole
from promptmill.pipeline.prompts.tables import IS_DELTA
from promptmill.pipeline.prompts.unpacking import UNPACK
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import InputError, JobError, MissingObjectError, OutputMismatchError, Problem
from promptmill.schemas.origin import Lineage
from promptmill.schemas.plan import STAGED, Segment, SourceFile
from promptmill.schemas.records import LARGEST_NARROW_SEED
from promptmill.schemas.resolved import with_triggers
from promptmill.schemas.row_values import rows_of

_ROWS_AT_ONCE = 10_000
_OTHERS = "Give these prompts a job and an output of their own"


@dataclass(frozen=True)
class Growth:
    """`files` are what is new, each with the rows that are; `source` what the fingerprint says of them.

    `plan` knows the files that are gone too, `known` is as if nothing had been added.
    """

    files: tuple[SourceFile, ...]
    source: dict[str, Any]
    plan: Plan
    known: Plan

    @property
    def lineage(self) -> Lineage:
        return lineage_of(self.plan.job.prompts, self.files)


def find_growth(plan: Plan, stored: Plan, store: Store) -> Growth:
    """Raises JobError for what cannot be added, and InputError for a file whose beginning is another."""
    plan = _without_renamed(plan, stored)
    ours, theirs = _source(plan), _source(stored)
    parts = _parts(stored)
    grown = {name for name in ours.keys() & theirs.keys() if _is_longer(ours[name], theirs[name]) and name in parts}
    gone = {name: theirs[name] for name in theirs.keys() - ours.keys()}
    files = tuple(
        _later_part(file, parts[file.name]) if file.name in grown else file
        for file in plan.segments[0].files
        if file.name in grown or file.name not in theirs
    )
    if files:
        _refuse_what_cannot_grow(plan, stored)
    for file in plan.segments[0].files:
        if file.name in grown:
            _refuse_another_beginning(file, parts[file.name], plan, stored, store)
    if gone and any(IS_DELTA in notice for notice in plan.notices):
        got = (
            f"one that was rewritten (compacted, updated): {len(gone)} of its files are gone, and their rows in others"
        )
        raise OutputMismatchError(Problem("prompts.source", "a Delta table that was appended to", got, _OTHERS))
    _refuse_lost(gone.keys(), stored, store)
    known = {name: theirs[name] if name in grown else entry for name, entry in ours.items() if name in theirs}
    return Growth(
        files,
        {file.name: ours[file.name] for file in files},
        _with_source(plan, {**gone, **ours}),
        _without_files(_with_source(plan, {**gone, **known}), grown),
    )


def _without_renamed(plan: Plan, stored: Plan) -> Plan:
    """Without files that are gone elsewhere and stand here packed, moved to another folder or with a suffix behind
    their name (`a.csv`, `a.csv.gz`, `old/a.csv`, `a.csv-20261128.gz`): their rows are there already."""
    ours, theirs = _source(plan), _source(stored)
    gone = [name for name in theirs if name not in ours]
    renamed: set[str] = set()
    for name in [name for name in ours if name not in theirs]:
        before = next((each for each in gone if _is_renamed(name, ours[name], each, theirs[each])), None)
        if before is not None:
            gone.remove(before)
            renamed.add(name)
    if not renamed:
        return plan
    source = {name: entry for name, entry in ours.items() if name not in renamed}
    return _without_files(_with_source(plan, source), renamed)


def _is_renamed(name: str, now: dict[str, Any], before: str, then: dict[str, Any]) -> bool:
    """Of the same content and the same name, as rotation changes it: other files of the same prompts are new."""
    same = now.get("etag") is not None and (now["etag"], now["rows"]) == (then.get("etag"), then["rows"])
    base, old = (_unpacked_name(each.rpartition("/")[2]) for each in (name, before))
    return same and (base == old or base.startswith((f"{old}.", f"{old}-")))


def _unpacked_name(name: str) -> str:
    stem, mark, ending = name.rpartition(".")
    return stem if f"{mark}{ending}" in UNPACK else name


def may_extend(plan: Plan, stored: Plan) -> set[str]:
    """Files that are new, longer than they were, or gone: no word about whether the rest of them is the same."""
    ours, theirs = _source(plan), _source(stored)
    grown = {name for name in ours.keys() & theirs.keys() if _is_longer(ours[name], theirs[name])}
    return grown | (ours.keys() ^ theirs.keys())


def new_segment(plan: Plan, stored: Plan, files: Sequence[SourceFile], lineage: Lineage) -> Segment:
    """`lineage` is that of the originals of these files, which copies do not show."""
    prompts = sum(file.rows for file in files) * plan.texts_per_row
    shards = variants.count(plan.job) * blocks(prompts, plan.rows_per_shard)
    own = None if lineage == stored.source_lineage else lineage
    return Segment("extend", tuple(files), prompts, stored.shards, shards, lineage=own)


def as_if_extended(plan: Plan, stored: Plan, store: Store) -> tuple[Plan, Plan]:
    """The plan, and the stored one with what `run --extend` would add; nothing is written."""
    growth = find_growth(plan, stored, store)
    if not growth.files:
        return growth.plan, stored
    source = {**_source(stored), **growth.source}
    segments = (*stored.segments, new_segment(plan, stored, growth.files, growth.lineage))
    return growth.plan, replace(_with_source(stored, source), segments=segments)


def _source(plan: Plan) -> dict[str, Any]:
    found: dict[str, Any] = plan.fields[SOURCE_FIELD[0]][SOURCE_FIELD[1]]
    return found


def _with_source(plan: Plan, source: dict[str, Any]) -> Plan:
    fields = json.loads(json.dumps(plan.fields))
    fields[SOURCE_FIELD[0]][SOURCE_FIELD[1]] = source
    return replace(plan, fields=fields)


def _without_files(plan: Plan, names: set[str]) -> Plan:
    source, *rounds = plan.segments
    files = tuple(file for file in source.files if file.name not in names)
    return replace(plan, segments=(replace(source, files=files), *rounds))


def _parts(stored: Plan) -> dict[str, list[SourceFile]]:
    found: dict[str, list[SourceFile]] = {}
    for segment in stored.segments:
        for file in segment.files if segment.kind != "retry" else ():
            found.setdefault(file.name, []).append(file)
    return found


def _is_longer(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    return bool(ours.get("etag") != theirs.get("etag") and ours["rows"] > theirs["rows"])


def _later_part(file: SourceFile, parts: Sequence[SourceFile]) -> SourceFile:
    first = sum(part.rows for part in parts)
    return replace(file, first=first, rows=file.rows - first, whole=file.rows)


def _refuse_what_cannot_grow(plan: Plan, stored: Plan) -> None:
    if plan.job.prompts.limit is not None:
        got, hint = f"{plan.job.prompts.limit}", "Extend a job without a limit"
        raise JobError(Problem("prompts.limit", "null for a job that is extended", got, hint))
    if plan.job.per_class is not None:
        expected = "null for a job that is extended"
        raise JobError(Problem("select.per_class", expected, f"{plan.job.per_class}, which is full", _OTHERS))
    if plan.wide_seeds and not stored.wide_seeds:
        expected = f"seeds up to {LARGEST_NARROW_SEED}, as the dataset can hold"
        raise JobError(Problem("prompts.columns.seed", expected, "larger ones in what is new", _OTHERS))


def _refuse_another_beginning(
    file: SourceFile, parts: Sequence[SourceFile], plan: Plan, stored: Plan, store: Store
) -> None:
    staged = all(part.path.startswith(STAGED) for part in parts)
    check = _differs_from_copies if staged else _differs_from_records
    row = check(file, parts, plan, stored, store)
    if row is not None:
        expected, got = "the rows that it had, and new ones behind them", f"another row {row}"
        hint = f"{_OTHERS}, or bring the file back, with new prompts in a new file"
        raise OutputMismatchError(Problem(f"prompts.source: {file.name}", expected, got, hint))


def _differs_from_copies(
    file: SourceFile, parts: Sequence[SourceFile], plan: Plan, stored: Plan, store: Store
) -> int | None:
    """The first row of the new file that is not as in the copies below the output."""
    try:
        copies = [pq.read_table(pa.BufferReader(store.read(part.path.removeprefix(STAGED)))) for part in parts]
        before = pa.concat_tables([_as_dataset(copy, file.name, stored.source_schema) for copy in copies])
        now = _as_dataset(read_whole(file, plan.job.prompts), file.name, stored.source_schema)
    except (pa.ArrowException, KeyError) as error:
        expected = "values of the types that the columns of the dataset have"
        raise InputError(Problem(f"prompts.source: {file.name}", expected, f"{error}", _OTHERS)) from None
    if now.slice(0, before.num_rows).equals(before):
        return None
    pairs = zip(rows_of(before), rows_of(now), strict=False)
    return next((row for row, (a, b) in enumerate(pairs) if a != b), before.num_rows)


def _as_dataset(table: pa.Table, name: str, schema: pa.Schema) -> pa.Table:
    return as_schema(add_folder_columns(table, name, schema), schema).combine_chunks()


def _differs_from_records(
    file: SourceFile, parts: Sequence[SourceFile], plan: Plan, stored: Plan, store: Store
) -> int | None:
    """Of Parquet there is no copy: what was made says which prompts it had; of what was not made nothing is mixed."""
    made = {key: _hash(text) for key, text in _recorded(store)}  # texts of a whole dataset are long
    reader = prompt_reader((file,), store, stored.source_schema, plan.job.prompts, stored.words)
    adapters = {model.adapters for model in plan.models if model.adapters}
    rows = sum(part.rows for part in parts) * plan.texts_per_row
    for start in range(0, rows, _ROWS_AT_ONCE):
        for row, prompt in enumerate(reader.read(start, min(start + _ROWS_AT_ONCE, rows)).prompts, start):
            said = {prompt.prompt, *(with_triggers(prompt.prompt, each, prompt.adapters) for each in adapters)}
            known = made.get(prompt.prompt_id)
            if known is not None and known not in map(_hash, said):
                return row
    return None


def _hash(text: str) -> int:
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))


def _recorded(store: Store) -> Iterator[tuple[str, str]]:
    """Ids and prompts of all that was made; a damaged object is made again, from the file as it is now."""
    for entry in (entry for folder in ROWS_FOLDERS for entry in store.list(folder) if entry.name.endswith(".parquet")):
        with contextlib.suppress(*UNREADABLE, MissingObjectError):
            with store.open(entry.name) as stream:
                table = pq.read_table(stream, columns=["prompt_id", "prompt"])
            yield from zip(table.column("prompt_id").to_pylist(), table.column("prompt").to_pylist(), strict=True)


def _refuse_lost(names: Any, stored: Plan, store: Store) -> None:
    """Raises InputError where shards are to be made of files that are gone and have no copy."""
    missing = [(shard.segment, shard.start, shard.stop) for shard in missing_shards(stored, store)] if names else []
    for position, segment in enumerate(stored.segments):
        start = 0
        for file in segment.files:
            rows = file.rows * (1 if segment.kind == "retry" else stored.texts_per_row)
            needed = [each for each in missing if each[0] == position and each[1] < start + rows and each[2] > start]
            if file.name in names and not file.path.startswith(STAGED) and needed:
                got = f"nothing, while {len(needed)} shards are still to be made of it"
                hint = "Bring it back until they are made"
                raise InputError(Problem(f"prompts.source: {file.name}", "the file", got, hint))
            start += rows
