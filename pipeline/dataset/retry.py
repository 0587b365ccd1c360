"""Failed samples as new shards of the same dataset."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from promptmill.pipeline.dataset.claim import add_segments
from promptmill.pipeline.dataset.far import refuse_far_rows
from promptmill.pipeline.dataset.keys import is_failure
from promptmill.pipeline.dataset.rounds import lacking_by_variant
from promptmill.pipeline.dataset.state import (
    MAKE_AGAIN,
    DataObject,
    belongs,
    missing_shards,
    read_data_objects,
    side_objects,
)
from promptmill.pipeline.dataset.whole import whole_object
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.planning.variants import variant_text
from promptmill.pipeline.prompts.reach import Reach
from promptmill.pipeline.prompts.retried import quota_column
from promptmill.pipeline.prompts.staging import stage_table
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.columns import HASHES, ORIGIN, input_column, named, of_kind
from promptmill.schemas.errors import INPUT_FAILURES, JobError, MissingObjectError, Problem
from promptmill.schemas.identity import digest
from promptmill.schemas.inputs import ROLES, STEERING, Role
from promptmill.schemas.origin import Lineage
from promptmill.schemas.plan import STAGED, Segment, SourceFile
from promptmill.schemas.records import FAILURE

_DROPPED = frozenset(FAILURE.names) - frozenset(of_kind("identity", "text"))
_OF_INPUTS = frozenset(named("task", HASHES))


def plan_retry(plan: Plan, store: Store, reach: Reach | None = None) -> Plan:
    """The plan with shards for every sample whose latest state is failed; as it was where a retry is still unfinished.

    Faults of the input row stay: what `failures/` holds of a text that is no Unicode, or of a seed that is no integer,
    would make a sample that nobody asked for.

    Raises JobError while the dataset itself is unfinished, and for rows whose images lie outside of `reach`.
    """
    stage_again(plan, store)
    while True:
        try:
            segments = _segments(plan, store, reach)
        except MissingObjectError as error:
            expected = "a dataset of which nothing is removed meanwhile"
            raise JobError(Problem(store.url, expected, str(error), MAKE_AGAIN)) from None
        grown = add_segments(plan, store, segments, {})
        added = grown.segments[len(plan.segments) :]
        if not segments or any(segment.kind == "retry" for segment in added):
            return grown
        plan = grown  # extended by somebody before our segments were there


def stage_again(plan: Plan, store: Store) -> None:
    """Bring back what unfinished retries read, where somebody deleted it: the failures are there still."""
    missing = {shard.segment for shard in missing_shards(plan, store)}
    there = {f"{STAGED}{entry.name}" for entry in store.list("inputs")} if missing else set()
    for position in sorted(missing):
        segment = plan.segments[position]
        if segment.kind == "retry" and segment.files[0].path not in there:
            for start in range(position, -1, -1):  # segments of one retry were planned together
                if plan.segments[start].kind != "retry":
                    break
                with contextlib.suppress(JobError, MissingObjectError):
                    _segments(replace(plan, segments=plan.segments[:start]), store)


def _segments(plan: Plan, store: Store, reach: Reach | None = None) -> list[Segment]:
    missing = missing_shards(plan, store)
    unfinished = {plan.segments[shard.segment].kind for shard in missing}
    if unfinished - {"retry"}:
        got, hint = f"{len(missing)} shards missing", "`promptmill run` makes them; then retry"
        raise JobError(Problem(store.url, "a finished dataset", got, hint))
    if missing:
        for position in {shard.segment for shard in missing} if reach is not None else ():
            with whole_object(store, plan.segments[position].files[0].path.removeprefix(STAGED)) as copy:
                refuse_far_rows(pq.read_table(copy), plan, store, reach)
        return []
    objects = sorted(
        (item for item in read_data_objects(store, store.list("data")) if belongs(plan, item)),
        key=lambda item: item.footer.shard.number if item.footer else 0,
    )
    failures = _latest_failures(plan, store, objects)
    for rows in failures.values():
        refuse_far_rows(rows, plan, store, reach)
    numbers = {variant_text(plan.variant(i).values): i for i in range(plan.variant_count)}
    segments: list[Segment] = []
    first = plan.shards
    for lineage, text, rows in _by_variant(failures):
        rows = _with_room(rows, plan, store, objects)
        name = f"retry-{digest([first, rows.column('sample_id').to_pylist()])[:16]}"
        file = stage_table(rows, SourceFile(name, name, rows.nbytes, rows.num_rows), name, store)
        ends = _shard_ends(rows.column("prompt_id").to_pylist(), plan.job.output.images_per_shard)
        variant = numbers[text]
        segments.append(Segment("retry", (file,), rows.num_rows, first, len(ends), variant, ends, lineage=lineage))
        first += len(ends)
    return segments


def _by_variant(failures: Mapping[Lineage | None, pa.Table]) -> Iterator[tuple[Lineage | None, str, pa.Table]]:
    for lineage, table in failures.items():
        for text in sorted(set(table.column("variant").to_pylist())):
            yield lineage, text, _by_prompt(table.filter(pc.equal(table.column("variant"), text)))


def _latest_failures(plan: Plan, store: Store, objects: Sequence[DataObject]) -> dict[Lineage | None, pa.Table]:
    """Failure rows that no later retry has answered, by the lineage of their segment; a sample's last row counts.

    Raises JobError where one is gone.
    """
    there = side_objects(store) | {item.entry.name for item in objects}
    tables: dict[int, pa.Table] = {}
    rows: dict[str, tuple[int, int]] = {}
    for item in objects:
        assert item.footer is not None
        shard = item.footer.shard
        is_retry = plan.segments[shard.segment].kind == "retry"
        for key in (item.entry.name, *item.footer.side_objects):
            if not (is_retry or is_failure(key)):
                continue
            if key not in there:
                raise JobError(Problem(f"{store.url}/{key}", f"what {item.entry.name} names", "nothing", MAKE_AGAIN))
            if is_failure(key):
                with whole_object(store, key) as file:
                    tables[shard.number], failed = _failed(file)
                rows |= {sample: (shard.number, position) for sample, position in failed.items()}
            else:
                for sample in _column(store, key, "sample_id"):
                    rows.pop(sample, None)
    wanted: dict[int, list[int]] = {}
    for number, position in rows.values():
        wanted.setdefault(number, []).append(position)
    found: dict[Lineage | None, list[pa.Table]] = {}
    for number, positions in sorted(wanted.items()):
        lineage = plan.segments[plan.shard(number).segment].lineage
        found.setdefault(lineage, []).append(tables[number].take(positions))
    return {lineage: pa.concat_tables(parts) for lineage, parts in found.items()}


_TEXTS = named("sample_id", "error_kind", "variant", "prompt_id")


def _failed(file: BinaryIO) -> tuple[pa.Table, dict[str, int]]:
    """All rows, and by sample the place of those that a retry can help."""
    table = pq.read_table(file)
    for name in _TEXTS:
        if table.schema.field(name).type != pa.string():
            raise TypeError(f"{name} is {table.schema.field(name).type}")
    ids, kinds = (table.column(name).to_pylist() for name in ("sample_id", "error_kind"))
    places = enumerate(zip(ids, kinds, strict=True))
    return table, {sample: place for place, (sample, kind) in places if kind not in INPUT_FAILURES}


def _by_prompt(rows: pa.Table) -> pa.Table:
    """The rows of one prompt one after the other, prompts in the order of their first row."""
    positions: dict[str, list[int]] = {}
    for position, prompt in enumerate(rows.column("prompt_id").to_pylist()):
        positions.setdefault(prompt, []).append(position)
    return rows.take([position for group in positions.values() for position in group])


def _shard_ends(prompts: Sequence[str], images_per_shard: int) -> tuple[int, ...]:
    """After which rows a shard ends: as full as it can be with no prompt in two."""
    ends: list[int] = []
    start = stop = 0
    for _, group in groupby(prompts):
        size = sum(1 for _ in group)
        if stop > start and stop + size - start > images_per_shard:
            ends.append(stop)
            start = stop
        stop += size
    return (*ends, stop)


def _with_room(rows: pa.Table, plan: Plan, store: Store, objects: Iterable[DataObject]) -> pa.Table:
    """Input rows of a retry: `quota` is how many images the sample's group may still keep, null for no bound."""
    quota: list[int | None] = [None] * rows.num_rows
    keep = plan.job.select.keep if plan.job.select is not None else None
    if plan.job.per_class is not None:
        quota = _room_of_classes(rows, plan, objects)
    elif keep is not None:
        variant = rows.column("variant")[0].as_py()
        kept: Counter[str] = Counter()
        wanted = set(rows.column("prompt_id").to_pylist())
        for item in objects:
            if item.footer is not None and item.footer.counts.kept:
                ids = _column(store, item.entry.name, "prompt_id", ("variant", variant))
                kept.update(prompt for prompt in ids if prompt in wanted)
        quota = [max(0, keep - kept[prompt]) for prompt in rows.column("prompt_id").to_pylist()]
    dropped = _DROPPED | _of_inputs(plan.job.task.roles)
    by_row = plan.job.adapters_by_row
    dropped |= {"adapters"} if any(model.adapters for model in plan.models) and not by_row else frozenset()
    dropped |= {"image_guidance_scale"} if plan.keeps_to_images else frozenset()
    dropped |= {"controls"} if any(model.controlnets for model in plan.models) else frozenset()
    dropped |= {"ip_adapter"} if any(model.ip_adapter for model in plan.models) else frozenset()
    dropped |= {ORIGIN} if plan.origins else frozenset()
    dropped |= {"label_name"} if plan.words.classes else frozenset()
    rows_say = plan.job.prompts.mapped.steering
    dropped |= {*STEERING} - {*rows_say} if rows_say else frozenset()
    rows = rows.drop_columns([name for name in rows.column_names if name in dropped])
    return rows.append_column(quota_column(rows.column_names), pa.array(quota, pa.int32()))


def _room_of_classes(rows: pa.Table, plan: Plan, objects: Iterable[DataObject]) -> list[int | None]:
    """What a class lacks goes to its first prompts, one image to each: exactly so many are kept, or fewer."""
    variant = rows.column("variant")[0].as_py()
    numbers = {variant_text(plan.variant(i).values): i for i in range(plan.variant_count)}
    footers = {item.footer.shard.number: item.footer for item in objects if item.footer is not None}
    lacking = lacking_by_variant(plan, footers).get(numbers[variant], {})
    left, room = dict(lacking), dict[str, int]()
    for prompt, label in zip(rows.column("prompt_id").to_pylist(), rows.column("label").to_pylist(), strict=True):
        if prompt not in room:
            room[prompt] = min(1, left.get(label, 0))
            left[label] = left.get(label, 0) - room[prompt]
    return [room[prompt] for prompt in rows.column("prompt_id").to_pylist()]


def _of_inputs(roles: Collection[Role]) -> frozenset[str]:
    """Of the columns of a job that has input images those that say nothing of how its samples are asked for."""
    if not roles:
        return frozenset()
    others = {input_column(role) for role in ROLES if role not in roles}
    return _OF_INPUTS | others | ({"strength"} if "image" not in roles else set())


def _column(store: Store, key: str, name: str, where: tuple[str, str] | None = None) -> list[str]:
    with whole_object(store, key) as file:
        filters = None if where is None else [(where[0], "==", where[1])]
        values: list[str] = pq.read_table(file, columns=[name], filters=filters).column(name).to_pylist()
    return values
