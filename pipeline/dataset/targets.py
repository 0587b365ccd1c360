"""Where commands may write: beside a dataset and not into it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from promptmill.pipeline.dataset.keys import JOB_KEY, OWN_FOLDERS
from promptmill.pipeline.dataset.open import open_output
from promptmill.pipeline.display import redact
from promptmill.pipeline.planning.plan_json import MOST_PLAN_BYTES
from promptmill.pipeline.storage.store import Store
from promptmill.pipeline.storage.urls import absolute_url, is_remote
from promptmill.schemas.errors import JobError, Problem, StorageError
from promptmill.schemas.json_text import parse_json


def open_target(url: str, where: str, page: bool = False) -> Store:
    """The store of a folder or URL that a command fills. Raises JobError where that is a dataset, or lies in a folder
    of one; a `page` may lie below its `report/`.
    """
    store = open_output(url)
    refuse_dataset(url, where, page)
    return store


def refuse_dataset(url: str, where: str, page: bool = False) -> None:
    """Raises JobError as `open_target`."""
    for base, inner in _places(url):
        if not (page and inner.startswith("report/")) and _is_dataset(base):
            _refuse(where, base, inner, "Choose a folder beside it")


def refuse_inside(url: str, where: str) -> None:
    """Raises JobError where `url` lies in a folder of a dataset; the dataset's own place is the place meant for it."""
    for base, inner in _places(url):
        if inner and _is_dataset(base):
            _refuse(where, base, inner, "Give the dataset itself, or a folder beside it")


def _refuse(where: str, base: str, inner: str, hint: str) -> None:
    got = f"{f'{inner} of ' if inner else ''}the dataset {redact(base)}"
    raise JobError(Problem(where, "a place outside every dataset", got, hint))


def _places(url: str) -> Iterator[tuple[str, str]]:
    """Where a dataset might be that the URL lies in, and what follows: nothing, or a folder that is the dataset's."""
    scheme, path = "", url
    if is_remote(url):
        scheme, _, path = url.partition("://")
        scheme += "://"
    else:
        path = str(Path(absolute_url(url)).resolve())
    parts = path.rstrip("/").split("/")
    for end in range(len(parts), 0, -1):
        inner = parts[end:]
        if not inner or inner[0] in OWN_FOLDERS:
            yield scheme + ("/".join(parts[:end]) or "/"), "/".join(inner)


def _is_dataset(url: str) -> bool:
    """What cannot be looked at is left to the command that writes there."""
    with contextlib.suppress(StorageError):
        return claims(Store(url)) is not None
    return False


def claims(store: Store) -> dict[str, Any] | None:
    """The `job.json` of a dataset, unchecked; None where there is none, or another program's."""
    with contextlib.suppress(ValueError):
        content = parse_json(store.read_if_exists(JOB_KEY, MOST_PLAN_BYTES) or b"null")
        return content if isinstance(content, dict) and {"fingerprint", "plan"} <= content.keys() else None
    return None
