"""Outcomes as Parquet objects, and the footer that proves a shard done."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from promptmill.pipeline.dataset.encode import EncodedImage
from promptmill.pipeline.display import redact
from promptmill.schemas.checked import checked, count, text_map
from promptmill.schemas.columns import ORIGIN, input_column
from promptmill.schemas.errors import SampleError
from promptmill.schemas.inputs import STEERING
from promptmill.schemas.json_text import parse_object
from promptmill.schemas.origin import origin_of
from promptmill.schemas.plan import LEAST_DIGITS, CommitRecord, Sample, Sidecar
from promptmill.schemas.records import (
    FAILURE,
    RECORD,
    RECORD_VERSION,
    REJECT,
    huggingface,
    passthrough_names,
    with_scores,
    with_wide_seeds,
)
from promptmill.schemas.urls import without_query

FOOTER_KEY = b"promptmill"
UNREADABLE: Final = (pa.ArrowException, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What readers raise of a Parquet object that is damaged or has other columns; what a store raises is none of it."""
_ROW_GROUP_BYTES = 64 << 20
_TAKE_BYTES = 1 << 30
_WRITER_VERSION = "2.6"


@dataclass(frozen=True)
class Outcome:
    """How one sample ended: `error` for failed, else `reason` for rejected, else kept."""

    sample: Sample
    scores: Mapping[str, float | None]
    flags: tuple[str, ...] = ()
    width: int | None = None
    height: int | None = None
    image: EncodedImage | None = None
    image_name: str | None = None
    reason: str | None = None
    error: SampleError | None = None
    attempts: int = 1


class RecordWriter:
    """Builds the objects of one shard. `constants` are the settings all of its rows share.

    `clip_score` names the score that is repeated in the column of that name; `more` are columns that not every job has,
    such as `adapters`; `wide_seeds` is for a source that has seeds above 2^63 − 1.
    """

    def __init__(
        self,
        score_names: Sequence[str],
        passthrough: pa.Table,
        constants: Mapping[str, Any],
        clip_score: str | None = None,
        more: Sequence[pa.Field] = (),
        wide_seeds: bool = False,
        class_names: Sequence[str] = (),
    ) -> None:
        self._score_names = score_names
        self._clip_score = clip_score
        self._passthrough = passthrough
        self._constants = dict(constants)
        self._more = list(more)
        self._wide_seeds = wide_seeds
        self._class_names = class_names

    def add_constants(self, constants: Mapping[str, Any]) -> None:
        self._constants.update(constants)

    def kept(self, outcomes: Sequence[Outcome]) -> pa.Table:
        return self._table(RECORD, outcomes).replace_schema_metadata(huggingface(self._class_names))

    def rejected(self, outcomes: Sequence[Outcome]) -> pa.Table:
        return self._table(REJECT, outcomes).replace_schema_metadata(huggingface(self._class_names))

    def failed(self, outcomes: Sequence[Outcome]) -> pa.Table:
        return self._table(FAILURE, outcomes)

    def _table(self, schema: pa.Schema, outcomes: Sequence[Outcome]) -> pa.Table:
        if "scores" in schema.names:
            schema = with_scores(schema, self._score_names)
        schema = with_wide_seeds(schema) if self._wide_seeds else schema
        schema = pa.schema([*schema, *self._more])
        table = pa.Table.from_pylist([self._row(outcome) for outcome in outcomes], schema=schema)
        rows = _taken(self._passthrough, [outcome.sample.row for outcome in outcomes])
        names = passthrough_names(rows.column_names, [each.name for each in self._more])
        for name, column in zip(names, rows.columns, strict=True):
            table = table.append_column(name, column)
        return table

    def _adapters(self, sample: Sample) -> list[Mapping[str, Any]]:
        """Those of the model, or of them those that the sample's row chooses, as strongly as it says."""
        own = dict(sample.adapter_weights)
        return [
            {**each, "weight": own.get(each["name"], each["weight"])}
            for each in self._constants.get("adapters", ())
            if sample.adapters is None or each["name"] in sample.adapters
        ]

    def _steered(self, sample: Sample) -> dict[str, Any]:
        """ControlNets and IP-Adapter with the scales and times that acted, and those that the sample's row says."""
        generation, looks = self._constants.get("generation"), self._constants.get("ip_adapter")
        if generation is None:
            return {}
        scale, start, end = generation.steering(sample.steering)
        nets = [
            {**net, "scale": net["scale"] * scale, "start": start, "end": end} for net in self._constants["controls"]
        ]
        looking = generation.looking(sample.steering)
        acting = looks and {**looks, "scale": looks["scale"] * looking}
        return {**{name: sample.steering.get(name) for name in STEERING}, "controls": nets, "ip_adapter": acting}

    def _row(self, outcome: Outcome) -> dict[str, Any]:
        sample, image = outcome.sample, outcome.image
        return {
            **self._constants,
            **json.loads(sample.settings or "{}"),
            **self._steered(sample),
            "sample_id": sample.sample_id,
            "prompt_id": sample.prompt_id,
            "image": None if image is None else {"bytes": image.data, "path": outcome.image_name},
            "caption": sample.caption,
            "prompt": sample.prompt,
            "negative_prompt": sample.negative_prompt,
            "sample_index": sample.sample_index,
            "seed": sample.seed,
            "width": outcome.width,
            "height": outcome.height,
            "clip_score": outcome.scores.get(self._clip_score) if self._clip_score else None,
            "scores": {name: outcome.scores.get(name) for name in self._score_names} if self._score_names else None,
            "image_sha256": None if image is None else image.sha256,
            "image_phash": None if image is None else image.phash,
            "flags": list(outcome.flags),
            "reason": outcome.reason,
            "error_kind": None if outcome.error is None else outcome.error.kind,
            "message": None if outcome.error is None else redact(outcome.error.message),
            "attempts": outcome.attempts,
            "adapters": self._adapters(sample),
            "strength": sample.strength,
            "prompt_written": sample.written,
            "row_settings": sample.settings,
            "label": sample.label,
            "origin": self._constants.get(ORIGIN) or origin_of(sample.inputs),
            "label_name": None if sample.label is None else self._class_names[sample.label],
            "input_image_sha256": {role: each.sha256 for role, each in sample.inputs.items()},
            **{input_column(role): _told(each.locator, outcome) for role, each in sample.inputs.items()},
        }


def _told(locator: str, outcome: Outcome) -> str:
    """A retry asks a failure for the whole URL; elsewhere a signature is nobody's business."""
    return locator if outcome.error is not None else without_query(locator)


def to_parquet(table: pa.Table, footer: CommitRecord | None = None) -> bytes:
    """The same bytes for the same table. Images lie uncompressed and without dictionary, row groups stay under 64 MiB.

    A table without rows becomes a file without row groups: `datasets` stumbles over an empty group.
    """
    if footer is not None:
        own = {FOOTER_KEY: json.dumps(_footer(footer), sort_keys=True).encode()}
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), **own})
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, table.schema, version=_WRITER_VERSION, **_column_options(table.schema)) as writer:
        for start, stop in _row_groups(table):
            writer.write_table(table.slice(start, stop - start), row_group_size=stop - start)
    return sink.getvalue()


def _footer(record: CommitRecord) -> dict[str, Any]:
    """Without the digits that older versions do not know, where they are as many as there have always been."""
    fields = asdict(record)
    if record.shard.digits == LEAST_DIGITS:
        del fields["shard"]["digits"]
    if not record.labels:
        del fields["labels"]
    return {"version": RECORD_VERSION, **fields}


def _column_options(schema: pa.Schema) -> dict[str, Any]:
    leaves = [path for path in _leaves(schema) if path != "image.bytes"]
    compression = dict.fromkeys(leaves, "zstd")
    if "image" in schema.names:
        compression["image.bytes"] = "none"
    # Checksums, so that `verify --deep` notices a flipped bit in any column.
    return {
        "compression": compression,
        "use_dictionary": leaves,
        "write_statistics": leaves,
        "write_page_checksum": True,
    }


def _leaves(schema: pa.Schema) -> list[str]:
    sink = io.BytesIO()
    pq.ParquetWriter(sink, schema).close()
    parquet_schema = pq.ParquetFile(sink).schema
    return [parquet_schema.column(i).path for i in range(len(parquet_schema.names))]


def _taken(table: pa.Table, rows: Sequence[int]) -> pa.Table:
    """`take` counts the bytes of a column in 32 bits; slices share them and are as long as a row."""
    if table.nbytes * max(1, len(rows) / max(1, table.num_rows)) < _TAKE_BYTES or not rows:
        return table.take(pa.array(rows, pa.int64()))
    return pa.concat_tables([table.slice(row, 1) for row in rows])


def _row_groups(table: pa.Table) -> list[tuple[int, int]]:
    groups, start, size = [], 0, 0
    sizes = [0] * table.num_rows
    if "image" in table.column_names:
        images = pc.struct_field(table.column("image"), "bytes")
        sizes = pc.binary_length(images).fill_null(0).to_pylist()
    others = table.drop_columns(["image"]) if "image" in table.column_names else table
    if others.nbytes > _ROW_GROUP_BYTES:  # large columns of the source
        sizes = [image + others.slice(i, 1).nbytes for i, image in enumerate(sizes)]
    for i, here in enumerate(sizes):
        if i > start and size + here > _ROW_GROUP_BYTES:
            groups.append((start, i))
            start, size = i, 0
        size += here
    return [*groups, (start, table.num_rows)] if table.num_rows else []


def written_by(metadata: pq.FileMetaData) -> Mapping[str, str]:
    """The versions that a footer of ours says of itself, also where the rest of it cannot be read."""
    try:
        return text_map(parse_object((metadata.metadata or {}).get(FOOTER_KEY, b"")).get("versions"))
    except ValueError:
        return {}


def read_footer(metadata: pq.FileMetaData) -> CommitRecord | None:
    """None where the object was not written by Promptmill. Raises one of NO_OBJECT for a footer that says nonsense."""
    data = (metadata.metadata or {}).get(FOOTER_KEY)
    if data is None:
        return None
    content = parse_object(data)
    content.pop("version", None)
    content["versions"] = text_map(content.get("versions"))
    record = checked(CommitRecord, content)
    for name, number in (*vars(record.counts).items(), *vars(record.shard).items(), *record.labels.items()):
        count(number, name)
    described = {sidecar.name: sidecar for sidecar in record.sidecars}
    sidecars = tuple(described.get(name, Sidecar(name)) for name in record.side_objects)
    return replace(record, sidecars=sidecars)
