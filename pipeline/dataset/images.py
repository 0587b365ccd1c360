"""Pictures of a dataset, as they are stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from promptmill.pipeline.dataset.whole import whole_object
from promptmill.pipeline.display import first_line
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import JobError


def read_images(store: Store, key: str, rows: Sequence[int]) -> Iterator[tuple[int, bytes]]:
    """(row, encoded image) for those of `rows` that have one; at most a row group in memory."""
    wanted = set(rows)
    with whole_object(store, key) as file:
        parquet = pq.ParquetFile(file)
        if "image" not in parquet.schema_arrow.names:
            return
        begins = 0
        for group in range(parquet.metadata.num_row_groups):
            size = parquet.metadata.row_group(group).num_rows
            if any(begins <= row < begins + size for row in wanted):
                images = parquet.read_row_group(group, columns=["image"]).column("image")
                for row in sorted(row for row in wanted if begins <= row < begins + size):
                    image = images[row - begins].as_py()
                    data = image.get("bytes") if isinstance(image, dict) else image
                    if data is not None:
                        yield row, data
            begins += size


def holds_images(kind: pa.DataType) -> bool:
    """Whether a column of that type is read here: bytes, or Hugging Face's struct of bytes and path."""
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and holds_images(kind.field("bytes").type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def readable_images(store: Store, problems: list[str], key: str, rows: Sequence[int]) -> Iterator[tuple[int, bytes]]:
    """As `read_images`; of an object that is damaged what comes before, and a word to the `problems`."""
    try:
        yield from read_images(store, key, rows)
    except JobError as error:
        problems.append(f"images are left out: {first_line(error)}")
