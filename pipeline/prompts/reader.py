"""Rows of the source as prompts: any block of rows, without reading what lies before it where that can be helped."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate
from types import MappingProxyType
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from promptmill.pipeline.prompts.bombs import check_widths, whole_parquet
from promptmill.pipeline.prompts.folders import add_folder_columns
from promptmill.pipeline.prompts.formats import as_schema
from promptmill.pipeline.prompts.held import HeldFiles
from promptmill.pipeline.prompts.inputs import locator
from promptmill.pipeline.prompts.kinds import is_text
from promptmill.pipeline.prompts.unicode import mend
from promptmill.pipeline.prompts.values import MAX_TEXT_BYTES, adapters_of, seed_of, strength_of
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import InputError, Problem, SampleError
from promptmill.schemas.identity import derived_prompt_id
from promptmill.schemas.inputs import Input, Role
from promptmill.schemas.plan import SourceFile
from promptmill.schemas.prompts import Columns

_CACHED_GROUP_BYTES = 128 << 20
_INVALID_TEXT = SampleError("invalid_text", "a text of this row is no valid Unicode (a lone surrogate or broken UTF-8)")


@dataclass(frozen=True)
class Prompt:
    """One row of the source. `error` says why no image can be made of it; the texts are then as far as readable.

    A retried row stands for the one sample `sample_index`, with its own seed, and `quota` is how many images its group
    may still keep.
    """

    prompt_id: str
    prompt: str
    negative_prompt: str | None = None
    caption: str | None = None
    seed: int | None = None
    sample_id: str | None = None
    sample_index: int | None = None
    quota: int | None = None
    inputs: Mapping[Role, Input] = field(default_factory=dict)
    strength: float | None = None
    adapters: tuple[str, ...] | None = None
    error: SampleError | None = None


@dataclass(frozen=True)
class Block:
    """Consecutive rows. `passthrough` holds the source's unmapped columns, row for row."""

    prompts: tuple[Prompt, ...]
    passthrough: pa.Table


class PromptReader:
    """Safe to use from several threads. Staged files are read from `output`, others with ambient credentials."""

    def __init__(
        self,
        files: tuple[SourceFile, ...],
        output: Store,
        schema: pa.Schema,
        columns: Columns,
        helpers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._held = HeldFiles(output)
        self._files = files
        self._schema = schema
        self._columns = columns
        self._ends = list(accumulate(file.rows for file in files))
        self._helpers = helpers
        mapped = {*columns.named.values(), *helpers}
        self.passthrough_schema = pa.schema([field for field in schema if field.name not in mapped])
        if missing := [name for name in mapped if name is not None and name not in schema.names]:
            got = f"{len(missing)} that are not there, such as {missing[0]!r}"
            raise InputError(Problem("prompts.columns", "columns of the source, as the plan has it", got))
        self._roles = columns.images
        embedded = {name for name in self._roles.values() if not is_text(schema.field(name).type)}
        # Images that lie in the source are read where they are needed, a few at a time, and never with the rows.
        self._schema = pa.schema([each for each in schema if each.name not in embedded])
        self._read = list(self._schema.names)
        self._lock = threading.Lock()
        self._cached: tuple[tuple[str, int], pa.Table] | None = None

    def read(self, start: int, stop: int) -> Block:
        """Rows `start` to `stop` over all files in order."""
        pieces = list(self._pieces(start, stop))
        tables = [self._read_rows(file, first, rows) for file, first, rows in pieces]
        prompts: list[Prompt] = []
        for (file, first, _), table in zip(pieces, tables, strict=True):
            prompts.extend(self._parse(table, file, first))
        table = pa.concat_tables(tables) if tables else self._schema.empty_table()
        passthrough, broken = mend(table.select(self.passthrough_schema.names))
        for row in broken:
            prompts[row] = replace(prompts[row], error=prompts[row].error or _INVALID_TEXT)
        return Block(tuple(prompts), passthrough)

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[SourceFile, int, int]]:
        index = bisect_right(self._ends, start)
        while start < stop and index < len(self._files):
            begins = self._ends[index] - self._files[index].rows
            end = min(stop, self._ends[index])
            yield self._files[index], start - begins, end - start
            start, index = end, index + 1

    def _read_rows(self, file: SourceFile, first: int, rows: int) -> pa.Table:
        parts: list[pa.Table] = []
        with self._held.open(file) as stream, whole_parquet(file.name):
            parquet = open_thin(stream)
            if parquet.metadata.num_rows != (file.whole or file.rows):
                raise InputError(
                    Problem(
                        f"prompts.source: {file.name}",
                        f"{file.whole or file.rows} rows, as when the job was planned",
                        f"{parquet.metadata.num_rows}",
                        "Put the file back as it was, or start a new output",
                    )
                )
            begins = 0
            for group in range(parquet.metadata.num_row_groups):
                size = parquet.metadata.row_group(group).num_rows
                low, high = max(first, begins), min(first + rows, begins + size)
                if low < high:
                    parts.append(self._rows_of_group(parquet, file, group, low - begins, high - low))
                begins += size
        return as_schema(add_folder_columns(pa.concat_tables(parts), file.name, self._schema), self._schema)

    def _rows_of_group(self, parquet: pq.ParquetFile, file: SourceFile, group: int, offset: int, rows: int) -> pa.Table:
        with self._lock:
            if self._cached is not None and self._cached[0] == (file.path, group):
                return self._cached[1].slice(offset, rows)
        if parquet.metadata.row_group(group).total_byte_size > _CACHED_GROUP_BYTES or rows > 10_000:
            return _stream_rows(parquet, file.name, group, offset, rows, self._read)
        taken: list[pa.RecordBatch] = []
        total = 0
        # Row groups are read in steps: what a footer claims about decoded size is not to be trusted.
        for batch in parquet.iter_batches(batch_size=1024, row_groups=[group], columns=self._read):
            check_widths(batch, file.name)
            taken.append(batch)
            total += batch.nbytes
            if total > _CACHED_GROUP_BYTES:
                return _stream_rows(parquet, file.name, group, offset, rows, self._read)
        table = pa.Table.from_batches(taken)
        with self._lock:
            self._cached = ((file.path, group), table)
        return table.slice(offset, rows)

    def _parse(self, table: pa.Table, file: SourceFile, first: int) -> Iterator[Prompt]:
        dumped = self._columns.named.items()
        columns = {role: _values(table, name) for role, name in dumped if name is None or name in table.column_names}
        extra = {field: table.column(name).to_pylist() for name, field in self._helpers.items()}
        for i in range(table.num_rows):
            given = columns["id"][i]
            prompt_id = derived_prompt_id(file.name, file.first + first + i) if given is None else _readable(given)[0]
            helped = Prompt(prompt_id, "", **{name: values[i] for name, values in extra.items()})
            helped = replace(helped, adapters=_adapters(columns["adapter"][i]))
            yield parse_prompt(
                _with_inputs(helped, self._locators(columns, file, first, i), columns["strength"][i]),
                columns["prompt"][i],
                columns["negative_prompt"][i],
                columns["caption"][i],
                columns["seed"][i],
            )

    def _locators(
        self, columns: Mapping[str, list[object]], file: SourceFile, first: int, i: int
    ) -> dict[Role, str | None]:
        """Where the images of row `i` are; None where the row names none."""
        found: dict[Role, str | None] = {}
        for role, name in self._roles.items():
            cell = columns[role][i] if role in columns else b""
            value = cell.decode("utf-8", "replace") if isinstance(cell, bytes) and role in columns else cell
            found[role] = locator(value, file, name, first + i)
        return found


def _with_inputs(prompt: Prompt, found: Mapping[Role, str | None], strength: object) -> Prompt:
    missing = [role for role, place in found.items() if not place]
    error = SampleError("input", f"{missing[0]}: null") if missing else None
    value = None
    try:
        value = strength_of(strength)
    except ValueError as wrong:
        error = SampleError("invalid_strength", f"{wrong}")
    value = None if error else value
    inputs = {role: Input(place or "") for role, place in found.items()}
    return replace(prompt, inputs=inputs, strength=value, error=error)


def _adapters(chosen: object) -> tuple[str, ...] | None:
    """Names in a cell: text, or the `adapters` of a row that failed; None for all of the model's."""
    if chosen is None:
        return None
    if isinstance(chosen, list):
        return tuple(each["name"] for each in chosen)
    return adapters_of(_readable(chosen)[0])


def open_thin(stream: BinaryIO) -> pq.ParquetFile:
    """Texts as dictionaries, where the file has them: one long value of all rows is held once, and seen to be long."""
    parquet = pq.ParquetFile(stream)
    texts = [field.name for field in parquet.schema_arrow if pa.types.is_string(field.type)]
    thin = pq.ParquetFile(stream, metadata=parquet.metadata, read_dictionary=texts)
    try:
        next(thin.iter_batches(batch_size=1), None)
    except (pa.ArrowException, OSError):  # values that say only in what they differ from the one before have none
        return parquet
    return thin


def parse_prompt(base: Prompt, prompt: object, negative: object, caption: object, seed: object) -> Prompt:
    """`base` with its texts, or with the reason why they make no image. Texts come as bytes, seeds as either."""
    text, broken = _readable(prompt)
    negative_text, negative_broken = _readable(negative)
    caption_text, caption_broken = _readable(caption)
    number, wrong_seed = _seed(seed)
    parsed = replace(
        base,
        prompt=text,
        negative_prompt=None if negative is None else negative_text,
        caption=caption_text or None,
        seed=number,
    )
    error = None
    if broken or negative_broken or caption_broken:
        error = _INVALID_TEXT
    elif not text.strip():
        error = SampleError("empty_prompt", "null" if prompt is None else "nothing but white space")
    elif long := _too_long({"prompt": text, "negative_prompt": negative_text, "caption": caption_text}):
        error = SampleError("prompt_too_long", f"over {MAX_TEXT_BYTES:,} bytes: {long}")
    return replace(parsed, error=error or wrong_seed or base.error)


def _too_long(texts: Mapping[str, str]) -> str | None:
    """The first that is, with its size."""
    sizes = ((role, len(text.encode())) for role, text in texts.items())
    return next((f"{role} {size:,} bytes" for role, size in sizes if size > MAX_TEXT_BYTES), None)


def _seed(value: object) -> tuple[int | None, SampleError | None]:
    try:
        return seed_of(value), None
    except ValueError as wrong:
        return None, SampleError("invalid_seed", f"{wrong}")


def _stream_rows(
    parquet: pq.ParquetFile, name: str, group: int, offset: int, rows: int, columns: list[str] | None
) -> pa.Table:
    kept: list[pa.RecordBatch] = []
    begins = 0
    for batch in parquet.iter_batches(batch_size=64, row_groups=[group], columns=columns):
        check_widths(batch, name)
        low, high = max(offset, begins), min(offset + rows, begins + batch.num_rows)
        if low < high:
            kept.append(batch.slice(low - begins, high - low))
        begins += batch.num_rows
        if begins >= offset + rows:
            break
    return pa.Table.from_batches(kept, None if kept else parquet.schema_arrow)


def _values(table: pa.Table, name: str | None) -> list[object]:
    if name is None:
        return [None] * table.num_rows
    column = table.column(name)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string(column.type):
        column = column.cast(pa.binary())  # broken UTF-8 is the row's own failure, not the shard's
    elif pa.types.is_large_string(column.type):
        column = column.cast(pa.large_binary())
    values: list[object] = column.to_pylist()
    return values


def _readable(value: object) -> tuple[str, bool]:
    """The text, and whether bytes of it had to be replaced."""
    if value is None:
        return "", False
    if not isinstance(value, bytes):
        return str(value), False
    try:
        return value.decode("utf-8"), False
    except UnicodeDecodeError:
        return value.decode("utf-8", "replace"), True
