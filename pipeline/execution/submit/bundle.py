"""What of a job travels to the cluster: its file, prompts that lie on this machine, and this program if asked."""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from promptmill.pipeline.execution.submit.shipped import package_files
from promptmill.pipeline.prompts.files import find_files
from promptmill.pipeline.prompts.vocabulary import files_place
from promptmill.pipeline.storage.entry import Entry
from promptmill.pipeline.storage.listing import find_objects
from promptmill.pipeline.storage.store import Store
from promptmill.pipeline.storage.urls import absolute_url, is_remote, local_path
from promptmill.schemas.attributes import AttributeFrom
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.job import Job

JOB_NAME: Final = "job.yaml"
CHECK_NAME: Final = "same_version.py"
MOST_BYTES: Final = 200 << 20
"""The head keeps it in memory, and every node gets a copy; Ray itself refuses more than 500 MiB."""
_NO_PATHS: Final = frozenset({"name", "negative_prompt", "distractors", "prompts", "url", "real", "test", "to"})
Find = Callable[[str], tuple[Store, list[Entry]]]
_SHARED: Final = "Give a URL, a hub id, or an absolute path that every node of the cluster sees"


@dataclass(frozen=True)
class Bundle:
    """A zip, named by its content. `overrides` say where prompts and their words lie in it: so many `files`."""

    name: str
    content: bytes
    overrides: tuple[str, ...] = ()
    files: int = 0


def bundle(job: Job, text: str, ship: bool = False, upload: bool = True) -> Bundle:
    """`text` is the job file. Raises JobError for what only this machine has, and for prompts that are too large."""
    _refuse_own_places(job)
    taken = [_taken(*each) for each in _places(job)] if upload else []
    files = {name: path for each in taken for name, path in each.files}
    size = sum(path.stat().st_size for path in files.values())
    if size > MOST_BYTES:
        got = f"{size >> 20} MiB in {len(files):,} files"
        hint = "Put them into object storage, or where every node sees them and give --no-upload"
        raise JobError(Problem("prompts", f"at most {MOST_BYTES >> 20} MiB to upload", got, hint))
    content = _zipped(_contents(text, files, ship))
    name = f"_ray_pkg_{hashlib.sha256(content).hexdigest()[:40]}.zip"
    return Bundle(name, content, tuple(each.override for each in taken if each.override), len(files))


def _contents(text: str, files: Mapping[str, Path], ship: bool) -> Iterator[tuple[str, bytes]]:
    yield JOB_NAME, text.encode("utf-8", "surrogateescape")
    yield CHECK_NAME, Path(__file__).with_name(CHECK_NAME).read_bytes()
    for name, path in files.items():
        yield name, path.read_bytes()
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


def _places(job: Job) -> Iterator[tuple[str, str, str, Find]]:
    """Each field that may name files of this machine, with what it says and the folder in the zip for them; no field
    for a place that is called so there too."""
    prompts, output = job.prompts, job.output.url
    # A folder of classes that images are drawn from is the source by itself.
    if prompts.source is not None and prompts.source != prompts.classes:
        yield "prompts.source", prompts.source, "prompts", lambda place: find_files(place, output)
    if isinstance(prompts.classes, str):
        yield "prompts.classes", prompts.classes, "classes", find_objects
    for number, (name, values) in enumerate(prompts.attributes.items()):
        if isinstance(values, AttributeFrom) and values.file is not None:
            yield f"prompts.attributes.{name}.file", values.file, f"attributes/{number}", find_objects
    if prompts.wildcards:
        named = "" if prompts.wildcards is True else "prompts.wildcards"
        yield named, files_place(prompts).rstrip("/"), "wildcards", find_objects
    for kind, sets in (("real", job.curate.real), ("test", job.curate.test)) if job.curate is not None else ():
        for number, place in enumerate(sets):
            yield f"curate.{kind}[{number}]", place, f"curate/{kind}-{number}", find_objects


@dataclass(frozen=True)
class _Taken:
    """Names in the zip and where each lies; `override` says so to the job. Empty for what lies elsewhere."""

    files: tuple[tuple[str, Path], ...] = ()
    override: str = ""


def _taken(field: str, place: str, folder: str, find: Find) -> _Taken:
    """Names stay those that prompt ids begin with: relative to the folder, or to where a glob begins."""
    if is_remote(place):
        return _Taken()
    path = Path(absolute_url(place))
    if local_path(place).is_absolute() and not _begins_here(path):
        return _Taken()  # a path of the cluster's
    store, entries = find(place)
    root = Path(store.root)
    found = {entry.name: root / entry.name for entry in entries}
    if path.is_dir():
        log = (each for each in (path / "_delta_log").rglob("*") if each.is_file())
        found |= {each.relative_to(path).as_posix(): each for each in log}
        there = folder
    else:
        tail = str(path.relative_to(root)) if path.is_relative_to(root) else next(iter(found), "")
        there = f"{folder}/{tail}"
    if not found:
        return _Taken()  # whoever plans the job says so where it matters
    override = f"{field}={there}" if field else ""
    return _Taken(tuple((f"{folder}/{name}", found[name]) for name in sorted(found)), override)


def _begins_here(path: Path) -> bool:
    """Whether the part before the first wildcard is there."""
    plain = re.split(r"[*?\[]", str(path))[0]
    return path.exists() or (plain != str(path) and Path(plain.rpartition("/")[0] or "/").is_dir())


def _refuse_own_places(job: Job) -> None:
    """Raises JobError for relative paths but those of prompts: on the cluster they would mean another place."""
    problems: list[Problem | str] = []
    written = {"output.url": job.output.url, **({} if job.curate is None else {"curate.to": job.curate.to})}
    for field, output in written.items():
        if not is_remote(output) and not local_path(output).is_absolute():
            hint = "Give object storage, or an absolute path that every node sees"
            problems.append(Problem(field, "a place that the cluster's nodes share", output, hint))
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


def _texts(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, (Mapping, list)):
        for key, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            if key not in _NO_PATHS:
                yield from _texts(inner, f"{place}.{key}" if place else str(key))
