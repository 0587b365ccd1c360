"""Objects of rows for commands that cannot go on without them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from promptmill.pipeline.dataset.records import UNREADABLE
from promptmill.pipeline.dataset.state import MAKE_AGAIN
from promptmill.pipeline.display import first_line
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import JobError, Problem


@contextmanager
def whole_object(store: Store, key: str) -> Iterator[BinaryIO]:
    """Opened for reading. Raises JobError, also while its rows are read, where they are not what such an object has."""
    try:
        with store.open(key) as file:
            yield file
    except UNREADABLE as error:
        problem = Problem(
            f"{store.url}/{key}", "a whole Parquet object with its columns", first_line(error), MAKE_AGAIN
        )
        raise JobError(problem) from None
