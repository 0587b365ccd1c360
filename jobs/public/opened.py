"""A dataset that lies somewhere, as an object."""

from __future__ import annotations

import html
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from promptmill.pipeline.dataset.keys import is_reject
from promptmill.pipeline.dataset.open import newest_plan, open_dataset
from promptmill.pipeline.dataset.selections import kept_by
from promptmill.pipeline.dataset.state import DataObject, belongs, dataset_counts, read_data_objects
from promptmill.pipeline.dataset.whole import whole_object
from promptmill.schemas.job import Job
from promptmill.schemas.plan import Counts
from promptmill.schemas.records import RECORD, REJECT
from promptmill.schemas.row_values import rows_of

if TYPE_CHECKING:
    import datasets
    import pandas as pd
    from PIL import Image

_SHOWN = 8
_ONLY_REJECTED = frozenset(REJECT.names) - frozenset(RECORD.names)


@dataclass(frozen=True)
class Record:
    """A kept sample. `fields` are the columns of its row but the image: `record["prompt"]`, `record["seed"]`."""

    fields: dict[str, Any]
    _images: _Images = field(repr=False)
    _row: int = field(repr=False)

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    @property
    def sample_id(self) -> str:
        return str(self.fields["sample_id"])

    @property
    def image_bytes(self) -> bytes:
        """The file as it is stored: PNG, WebP or JPEG. The row group is read at the first use."""
        return self._images.read(self._row)

    @property
    def image(self) -> Image.Image:
        """Decoded. Raises ValueError for bytes that are no image, and for one of more than 100 megapixels."""
        from promptmill.pipeline.prompts.pixels import open_image

        with open_image(self.image_bytes) as picture:
            picture.load()
            return picture


class Dataset:
    """The objects that a run has committed so far; `refresh` looks again. Iterates over kept samples, shard by shard.

    >>> dataset = promptmill.open_dataset("out/shapes-demo")    # doctest: +SKIP
    >>> dataset.counts                                          # doctest: +SKIP
    Counts(samples=256, kept=64, rejected=192, failed=0)
    >>> next(iter(dataset)).image.size                          # doctest: +SKIP
    (64, 64)
    """

    def __init__(self, url: str, selection: str | None = None) -> None:
        """With the name of a selection (`promptmill select`), the samples that it keeps are the kept ones."""
        self.url, self.selection = url, selection
        self.refresh()

    def refresh(self) -> None:
        """Raises JobError where there is no dataset, StorageError where the storage does not answer."""
        self._plan, self._store = open_dataset(self.url)
        entries = self._store.list("data")
        self._plan = newest_plan(self._plan, self._store)  # after the listing, so that it has all of its shards
        items = read_data_objects(self._store, entries)
        self._objects: list[DataObject] = [item for item in items if belongs(self._plan, item)]
        self._keys = [item.entry.name for item in self._objects if item.rows]
        self._selected: frozenset[str] | None = None
        if self.selection is not None:
            self._selected = kept_by(self._store, self.selection)
            sidecars = (key for item in self._objects if item.footer for key in item.footer.side_objects)
            self._keys += [key for key in sidecars if is_reject(key)]

    @property
    def job(self) -> Job:
        return self._plan.job

    @property
    def fingerprint(self) -> str:
        return self._plan.fingerprint

    @property
    def counts(self) -> Counts:
        """With a selection those of its view."""
        footers = [item.footer for item in self._objects if item.footer is not None]
        counts = dataset_counts(self._plan, {footer.shard.number: footer.counts for footer in footers})
        if self._selected is None:
            return counts
        return replace(counts, kept=len(self._selected), rejected=counts.samples - counts.failed - len(self._selected))

    @property
    def complete(self) -> bool:
        """Whether every shard is there."""
        return len(self._objects) == self._plan.shards

    def __len__(self) -> int:
        return sum(item.rows for item in self._objects) if self._selected is None else len(self._selected)

    def __iter__(self) -> Iterator[Record]:
        for key in self._keys:
            with self._opened(key) as parquet:
                names = [name for name in parquet.schema_arrow.names if name != "image"]
                for group in range(parquet.num_row_groups):
                    images = _Images(self, key, group)
                    rows = rows_of(parquet.read_row_group(group, columns=names))
                    records = (Record(fields, images, row) for row, fields in enumerate(rows))
                    yield from (each for each in records if self._counts(each.sample_id))

    @contextmanager
    def _opened(self, key: str) -> Iterator[pq.ParquetFile]:
        """Raises JobError for an object that is damaged."""
        with whole_object(self._store, key) as file:
            yield pq.ParquetFile(file)

    def _counts(self, sample_id: str) -> bool:
        return self._selected is None or sample_id in self._selected

    def to_arrow(self, images: bool = True) -> pa.Table:
        """All kept samples, in memory. Without `images` only what is said of them."""
        tables = [self._table(key, images) for key in self._keys]
        return pa.concat_tables(tables, promote_options="permissive") if tables else pa.table({"sample_id": []})

    def to_pandas(self, images: bool = False) -> pd.DataFrame:
        frame: pd.DataFrame = self.to_arrow(images).to_pandas()
        return frame

    def to_datasets(self) -> datasets.Dataset:
        """A Hugging Face dataset whose column `image` is decoded. Needs the package `datasets`."""
        import datasets

        return datasets.Dataset(self.to_arrow())

    def _table(self, key: str, images: bool) -> pa.Table:
        with self._opened(key) as parquet:
            own = parquet.schema_arrow.names
            left_out = {*(() if images else ("image",)), *(_ONLY_REJECTED if is_reject(key) else ())}
            table = parquet.read(columns=[name for name in own if name not in left_out])
        if self._selected is not None:
            table = table.filter(pa.array([self._counts(each) for each in table.column("sample_id").to_pylist()]))
        kept = {b"huggingface": table.schema.metadata[b"huggingface"]} if images else None
        return table.replace_schema_metadata(kept)

    def read_group(self, key: str, group: int) -> pa.ChunkedArray:
        """The column `image` of one row group."""
        with self._opened(key) as parquet:
            return parquet.read_row_group(group, columns=["image"]).column(0)

    def __repr__(self) -> str:
        state = "complete" if self.complete else f"{len(self._objects)} of {self._plan.shards} shards"
        return f"<Dataset {self.job.name!r}: {self.counts.kept} kept samples, {state}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: the counts and the first images with their captions."""
        from promptmill.pipeline.prompts.thumbs import thumbnail

        figures = []
        for record, _ in zip(self, range(_SHOWN), strict=False):
            caption = html.escape(str(record["caption"]))[:300]
            picture = f"<img src='{thumbnail(record.image_bytes) or ''}' alt='' style='max-width: 128px'>"
            text = f"<figcaption style='width: 128px; font-size: small'>{caption}</figcaption>"
            figures.append(f"<figure style='margin: 4px'>{picture}{text}</figure>")
        head = html.escape(repr(self))
        return f"<p>{head}</p><div style='display: flex; flex-wrap: wrap'>{''.join(figures)}</div>"


class _Images:
    """The images of one row group, read when the first is asked for."""

    def __init__(self, dataset: Dataset, key: str, group: int) -> None:
        self._dataset, self._key, self._group = dataset, key, group
        self._column: pa.ChunkedArray | None = None

    def read(self, row: int) -> bytes:
        if self._column is None:
            self._column = self._dataset.read_group(self._key, self._group)
        data: bytes = self._column[row].as_py()["bytes"]
        return data
