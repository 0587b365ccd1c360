"""What of a job travels to the cluster: its file, prompts that lie on this machine, and this program if asked."""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from promptmill.pipeline.execution.submit.shipped import package_files
from promptmill.pipeline.prompts.files import find_files
from promptmill.pipeline.storage.urls import absolute_url, is_remote
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.job import Job

JOB_NAME: Final = "job.yaml"
CHECK_NAME: Final = "same_version.py"
MOST_BYTES: Final = 200 << 20
"""The head keeps it in memory, and every node gets a copy; Ray itself refuses more than 500 MiB."""
_NO_PATHS: Final = frozenset({"name", "negative_prompt", "distractors", "source", "url"})
_SHARED: Final = "Give a URL, a hub id, or an absolute path that every node of the cluster sees"


@dataclass(frozen=True)
class Bundle:
    """A zip, named by its content. `overrides` say where its prompts lie, of which there are `files`."""

    name: str
    content: bytes
    overrides: tuple[str, ...] = ()
    files: int = 0


def bundle(job: Job, text: str, ship: bool = False, upload: bool = True) -> Bundle:
    """`text` is the job file. Raises JobError for what only this machine has, and for prompts that are too large."""
    _refuse_own_places(job)
    prompts, source = _local_prompts(job) if upload else ([], None)
    size = sum(path.stat().st_size for _, path in prompts)
    if size > MOST_BYTES:
        got = f"{size >> 20} MiB in {len(prompts):,} files"
        hint = "Put them into object storage, or where every node sees them and give --no-upload"
        raise JobError(Problem("prompts.source", f"at most {MOST_BYTES >> 20} MiB to upload", got, hint))
    content = _zipped(_contents(text, prompts, ship))
    name = f"_ray_pkg_{hashlib.sha256(content).hexdigest()[:40]}.zip"
    overrides = () if source is None else (f"prompts.source={source}",)
    return Bundle(name, content, overrides, len(prompts))


def _contents(text: str, prompts: list[tuple[str, Path]], ship: bool) -> Iterator[tuple[str, bytes]]:
    yield JOB_NAME, text.encode("utf-8", "surrogateescape")
    yield CHECK_NAME, Path(__file__).with_name(CHECK_NAME).read_bytes()
    for name, path in prompts:
        yield f"prompts/{name}", path.read_bytes()
    if ship:
        yield from package_files()


def _zipped(files: Iterator[tuple[str, bytes]]) -> bytes:
    """The same bytes for the same files: they are named by them."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, data in files:
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, data, compresslevel=1)
    return sink.getvalue()


def _local_prompts(job: Job) -> tuple[list[tuple[str, Path]], str | None]:
    """Names below `prompts/` and where each lies, and the source there; nothing for prompts that lie elsewhere.

    Names stay those that prompt ids begin with: relative to the folder, or to where a glob begins.
    """
    source = job.prompts.source
    if source is None or is_remote(source):
        return [], None
    path = Path(absolute_url(source))
    if Path(source).is_absolute() and not _begins_here(path):
        return [], None  # a path of the cluster's
    store, entries = find_files(source, job.output.url)
    root = Path(store.root)
    found = {entry.name: root / entry.name for entry in entries}
    if path.is_dir():
        log = (each for each in (path / "_delta_log").rglob("*") if each.is_file())
        return sorted((found | {each.relative_to(path).as_posix(): each for each in log}).items()), "prompts"
    tail = str(path.relative_to(root)) if path.is_relative_to(root) else next(iter(found))
    return sorted(found.items()), f"prompts/{tail}"


def _begins_here(path: Path) -> bool:
    """Whether the part before the first wildcard is there."""
    plain = re.split(r"[*?\[]", str(path))[0]
    return path.exists() or (plain != str(path) and Path(plain.rpartition("/")[0] or "/").is_dir())


def _refuse_own_places(job: Job) -> None:
    """Raises JobError for relative paths but those of prompts: on the cluster they would mean another place."""
    problems: list[Problem | str] = []
    output = job.output.url
    if not is_remote(output) and not Path(_without_scheme(output)).is_absolute():
        hint = "Give object storage, or an absolute path that every node sees"
        problems.append(Problem("output.url", "a place that the cluster's nodes share", output, hint))
    for place, text in _texts(job.model_dump(mode="json")):
        plain = text.removeprefix("local-dir:")
        if (
            is_remote(plain)
            or ":" in plain
            or Path(plain).is_absolute()
            or not ("/" in plain or place.endswith("path"))
        ):
            continue
        if Path(plain).exists():
            problems.append(Problem(f"{place}: {text}", "what every node has", "a path of this machine", _SHARED))
    if problems:
        raise JobError(*problems)


def _without_scheme(url: str) -> str:
    return url.partition("://")[2] if url.startswith(("file://", "local://")) else url


def _texts(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, (Mapping, list)):
        for key, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            if key not in _NO_PATHS:
                yield from _texts(inner, f"{place}.{key}" if place else str(key))
