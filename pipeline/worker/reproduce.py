"""One image made again from its row, and how it differs from the one that is stored."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from promptmill.pipeline.dataset.encode import SUFFIX, encode_image, parameters_text
from promptmill.pipeline.dataset.images import read_images
from promptmill.pipeline.dataset.keys import data_key_of, is_failure, shard_of
from promptmill.pipeline.dataset.open import newest_plan
from promptmill.pipeline.dataset.records import UNREADABLE
from promptmill.pipeline.dataset.state import read_data_objects
from promptmill.pipeline.dataset.whole import whole_object
from promptmill.pipeline.display import redact
from promptmill.pipeline.models.catalog.versions import differing
from promptmill.pipeline.models.interface import Pixels
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.prompts.pixels import ImageError, decode_image
from promptmill.pipeline.prompts.prompt import weights_chosen
from promptmill.pipeline.prompts.reach import HINT, Reach, hashes_in
from promptmill.pipeline.storage.entry import Entry
from promptmill.pipeline.storage.store import Store
from promptmill.pipeline.worker.context import WorkerContext
from promptmill.pipeline.worker.work import read_work
from promptmill.schemas.columns import HASHES, input_column, named, of_kind, own_columns
from promptmill.schemas.errors import InputError, JobError, MissingObjectError, Problem, SampleError, StorageError
from promptmill.schemas.inputs import STEERING, Input
from promptmill.schemas.plan import STAGED, Sample, Shard, Variant
from promptmill.schemas.row_values import rows_of

SHORTEST_ID = 6
_GIVEN_UP = ("crash", "hang")


@dataclass(frozen=True)
class Reproduction:
    """`identical` compares the stored bytes, `max_difference` (0 to 255) and `psnr_db` the pixels.

    All three are None where no image is stored; PSNR is None for equal pixels. `with_mates` says whether the image was
    made in its batch of then: alone, last bits differ. `versions_then` are empty in datasets of older versions.
    """

    sample_id: str
    prompt: str
    seed: int
    data: bytes
    suffix: str
    with_mates: bool
    identical: bool | None = None
    max_difference: int | None = None
    psnr_db: float | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    versions_then: Mapping[str, str] = field(default_factory=dict)

    @property
    def other_versions(self) -> dict[str, tuple[str, str]]:
        """Name → (then, now) of each version that differs."""
        return differing([self.versions_then], self.versions)

    @property
    def verdict(self) -> str:
        if self.identical is None:
            return "made again; the dataset stores no image of it to compare with"
        if self.identical:
            return "byte-identical"
        if self.max_difference == 0:
            return "the same pixels; the text inside the file differs"
        return f"differs by at most {self.max_difference} of 255, PSNR {self.psnr_db:.1f} dB"


def reproduce_sample(
    plan: Plan, store: Store, sample_id: str, context: WorkerContext | None = None, reach: Reach | None = None
) -> Reproduction:
    """`sample_id` may be shortened to what is unique.

    Raises JobError where there is no such image, and for prompts that lie outside of `reach`.
    """
    key, row = find_sample(store, sample_id)
    plan = newest_plan(plan, store)
    fields = _read_row(store, key, row, plan)
    shard = plan.shard(shard_of(key))
    context = context or WorkerContext(plan, store, reach=_reach_of(plan, store, shard, reach))
    try:
        batch, variant = _batch_of(shard, context, fields["sample_id"])
        with_mates = True
    except (InputError, StorageError, FileNotFoundError):
        # The prompts are gone; the row itself says enough.
        batch, variant = [_sample(fields)], plan.variant(shard.variant)
        with_mates = False
    batch = [_with_hashes(each, fields) if each.sample_id == fields["sample_id"] else each for each in batch]
    pixels, sample, scheduler = _generate(context, batch, variant, fields["sample_id"])
    height, width = pixels.shape[:2]
    output = plan.job.output
    parameters = parameters_text(sample, sample.drawn_with(variant.generation), variant.model, scheduler, width, height)
    told = parameters if output.embed_parameters else None
    made = encode_image(pixels, told, output, composite="mask" in sample.inputs)
    stored = next((data for _, data in read_images(store, key, [row])), None)
    difference = compare_images(made.data, stored) if stored is not None else {}
    return Reproduction(
        sample.sample_id,
        sample.prompt,
        sample.seed,
        made.data,
        SUFFIX[output.image_format],
        with_mates,
        versions=context.versions(tried=True),
        versions_then=_versions_then(store, shard),
        **difference,
    )


def _reach_of(plan: Plan, store: Store, shard: Shard, reach: Reach | None) -> Reach | None:
    """With the shard's own prompts, and images whose hashes its rows have. Raises JobError."""
    if reach is None:
        return None
    files = plan.segments[shard.segment].files
    if far := [file.path for file in files if not reach.holds_file(file)]:
        expected = "prompts in the dataset, or where a job that was run here has its own"
        raise JobError(Problem(f"prompts of {redact(store.url)}", expected, redact(far[0]), HINT))
    own = [file.path for file in files if not file.path.startswith(STAGED)]
    return replace(reach, places=(*reach.places, *own), hashes=_input_hashes(store, shard))


def _input_hashes(store: Store, shard: Shard) -> frozenset[str]:
    keys = [entry.name for entry in store.list("rejects") if data_key_of(entry.name) == shard.data_key]
    found: frozenset[str] = frozenset()
    for key in (shard.data_key, *keys):
        with contextlib.suppress(*UNREADABLE, MissingObjectError), store.open(key) as file:
            found |= hashes_in(pq.read_table(file, columns=[HASHES]).column(HASHES))
    return found


def _versions_then(store: Store, shard: Shard) -> Mapping[str, str]:
    entry = store.entry(shard.data_key)
    footers = [item.footer for item in read_data_objects(store, [] if entry is None else [entry])]
    return next((footer.versions for footer in footers if footer is not None), {})


def compare_images(ours: bytes, theirs: bytes) -> dict[str, Any]:
    """Fields of a `Reproduction`; for images of different sizes the difference is 255."""
    if ours == theirs:
        return {"identical": True, "max_difference": 0}
    try:
        a, b = decode_image(ours).astype(np.int16), decode_image(theirs).astype(np.int16)
    except ImageError:  # ours is a picture, so theirs is none
        return {"identical": False, "max_difference": 255, "psnr_db": 0.0}
    if a.shape != b.shape:
        return {"identical": False, "max_difference": 255, "psnr_db": 0.0}
    difference = np.abs(a - b)
    mean_square = float((difference.astype(np.float64) ** 2).mean())
    psnr = 10 * math.log10(255**2 / mean_square) if mean_square else None
    return {"identical": False, "max_difference": int(difference.max()), "psnr_db": psnr}


def find_sample(store: Store, sample_id: str) -> tuple[str, int]:
    """Object and row of a kept or rejected sample. Raises JobError where there is none, or more than one fits."""
    if len(sample_id) < SHORTEST_ID:
        raise JobError(Problem("sample_id", f"at least {SHORTEST_ID} characters", repr(sample_id)))
    entries = [entry for folder in ("data", "rejects", "failures") for entry in store.list(folder)]
    found: dict[str, tuple[str, int]] = {}
    for entry, rows in zip(entries, store.map(lambda entry: _matches(store, entry, sample_id), entries), strict=True):
        for row, full in rows:
            # Of a sample that failed and was retried, the image counts.
            if full not in found or is_failure(found[full][0]):
                found[full] = (entry.name, row)
    if len(found) > 1 and sample_id not in found:
        some = ", ".join(sorted(found)[:3])
        raise JobError(Problem("sample_id", "one sample", f"{len(found)} that begin with {sample_id!r}: {some}"))
    if not found:
        hint = "Ids stand in the column `sample_id` and in the report"
        raise JobError(Problem("sample_id", f"a sample of {store.url}", repr(sample_id), hint))
    key, row = found.get(sample_id) or next(iter(found.values()))
    if is_failure(key):
        kind = _read_row(store, key, row).get("error_kind")
        raise JobError(Problem("sample_id", "a sample that has an image", f"{sample_id!r}, which failed: {kind}"))
    return key, row


def _matches(store: Store, entry: Entry, sample_id: str) -> list[tuple[int, str]]:
    try:
        with store.open(entry.name) as file:
            ids = pq.read_table(file, columns=["sample_id"]).column("sample_id")
        rows = pc.indices_nonzero(pc.starts_with(ids, sample_id)).to_pylist()
    except (*UNREADABLE, MissingObjectError):
        return []
    return [(row, ids[row].as_py()) for row in rows]


def _read_row(store: Store, key: str, row: int, plan: Plan | None = None) -> dict[str, Any]:
    """With a plan no column of the source's is taken for one of ours, and images of named ControlNets are read."""
    with whole_object(store, key) as file:
        parquet = pq.ParquetFile(file)
        schema = parquet.schema_arrow
        names = [name for name in own_columns(schema, None if plan is None else plan.more_columns) if name != "image"]
        places = map(input_column, plan.job.task.roles if plan else ())
        names += [place for place in places if place in schema.names and place not in names]
        fields: dict[str, Any] = rows_of(parquet.read(columns=names).select(names).slice(row, 1))[0]
    return fields


def _batch_of(shard: Shard, context: WorkerContext, sample_id: str) -> tuple[list[Sample], Variant]:
    """The samples that shared a forward pass with this one; those that broke a worker stay out, as they did."""
    work = read_work(shard, context, _given_up(context.store, shard))
    places = [i for i, sample in enumerate(work.ready) if sample is not None and sample.sample_id == sample_id]
    if not places:
        raise InputError(Problem("prompts.source", f"the prompt of sample {sample_id}", "other prompts"))
    size = work.variant.generation.batch_size
    start = places[0] // size * size
    return [sample for sample in work.ready[start : start + size] if sample is not None], work.variant


def _given_up(store: Store, shard: Shard) -> Mapping[str, SampleError]:
    found: dict[str, SampleError] = {}
    for entry in store.list("failures"):
        if data_key_of(entry.name) == shard.data_key:
            with whole_object(store, entry.name) as file:
                rows = pq.read_table(file, columns=list(named("sample_id", "error_kind", "message"))).to_pylist()
                kinds = {row["sample_id"]: row for row in rows if row["error_kind"] in _GIVEN_UP}
            found |= {key: SampleError(row["error_kind"], row["message"] or "") for key, row in kinds.items()}
    return found


def _sample(fields: Mapping[str, Any]) -> Sample:
    chosen = fields.get("adapters")
    adapters = None if chosen is None else tuple(each["name"] for each in chosen)
    identity = {name: fields[name] for name in of_kind("identity", "text")}
    sample = Sample(row=0, adapters=adapters, adapter_weights=weights_chosen(chosen), **identity)
    places = {role: fields.get(input_column(role)) for role in fields.get(HASHES) or {}}
    inputs = {role: Input(str(place)) for role, place in places.items() if place is not None}
    steering = {name: float(fields[name]) for name in STEERING if fields.get(name) is not None}
    sample = replace(sample, written=fields.get("prompt_written"), settings=fields.get("row_settings"))
    return replace(sample, inputs=inputs, strength=fields.get("strength"), steering=steering)


def _with_hashes(sample: Sample, fields: Mapping[str, Any]) -> Sample:
    """With those of the images that its row was drawn from, by which it knows them again."""
    known = fields.get(HASHES) or {}
    found = {role: replace(each, sha256=known.get(role)) for role, each in sample.inputs.items()}
    return replace(sample, inputs=found)


def _generate(
    context: WorkerContext, batch: list[Sample], variant: Variant, sample_id: str
) -> tuple[Pixels, Sample, str]:
    place = next(i for i, sample in enumerate(batch) if sample.sample_id == sample_id)
    generator = context.generator(variant)
    generator.prepare(batch)
    made = generator.generate(batch)[place]
    if made.pixels is None:
        raise JobError(Problem(f"sample {sample_id}", "an image", f"{made.error}, where there was one before"))
    return made.pixels, batch[place], generator.scheduler
