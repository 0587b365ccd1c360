"""Ray, or a word on what to do without it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from promptmill.schemas.errors import ClusterError


@contextlib.contextmanager
def ray_is_there() -> Iterator[None]:
    # Under `uv run` Ray would make the workers' environment anew from a copy of the current folder: none starts.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    try:
        yield
    except ImportError as error:
        raise ClusterError(f"Ray cannot be imported ({error}). Install ray, or give --in-process") from None
