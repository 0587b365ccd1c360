"""Which files a source names: everything of a known format that the job did not write itself."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from promptmill.pipeline.prompts.formats import NAMED_FORMATS, PARQUET_FORMATS, TEXT_FORMATS, file_suffix
from promptmill.pipeline.prompts.image_files import is_image
from promptmill.pipeline.prompts.tables import files_that_count
from promptmill.pipeline.prompts.tars import is_tar
from promptmill.pipeline.storage.entry import Entry
from promptmill.pipeline.storage.listing import find_objects
from promptmill.pipeline.storage.store import Store
from promptmill.pipeline.storage.urls import check_url, real_place
from promptmill.schemas.errors import InputError, NoFilesError, Problem
from promptmill.schemas.urls import split_query

_OWN_OBJECT: Final = re.compile(
    r"(data|rejects|failures|receipts)/part-|inputs/((retry-)?[0-9a-f]{16}\.parquet$|images/)"
    r"|(segments|report|scores|selections)/"
    r"|(job\.json|heartbeat\.json|README\.md|croissant\.json)$"
)
"""Keys that runs write below the output, and no prompts of a folder `data` or `inputs` that someone else filled."""


_DATA_OBJECT: Final = re.compile(r"data/part-[0-9]{6,18}\.parquet$")


class Found(NamedTuple):
    """`images` are names of those that lie beside the files of prompts; `notices` what is to be said."""

    store: Store
    entries: list[Entry]
    notices: list[str]
    images: list[str]


def find_prompt_files(source: str, output: str | None) -> Found:
    """Those of a format that is known: a folder may hold others, a glob may not; and what is to be said about them.

    Of a folder that is a table, the files that it still has. Raises InputError.
    """
    store, entries = find_files(source, output)
    entries = kept_of_dataset(entries)
    known: tuple[str, ...] = (*PARQUET_FORMATS, *TEXT_FORMATS)
    readable = [entry for entry in entries if file_suffix(entry.name) in known]
    if not readable or any(c in source for c in "*?["):
        known = (*known, *NAMED_FORMATS)
        readable = [entry for entry in entries if file_suffix(entry.name) in known]
        if not any(c in source for c in "*?["):  # of a folder of tars, JSON beside them is about them
            readable = [entry for entry in readable if is_tar(entry.name)] or readable
    if not readable and (images := [entry for entry in entries if is_image(entry.name)]):
        return Found(store, _images_alone(source, entries, images), [], [])
    if not readable or (len(readable) < len(entries) and any(c in source for c in "*?[")):
        strange = next(entry for entry in entries if entry not in readable)
        raise InputError(
            Problem(
                f"prompts.source: {strange.name}",
                f"a file that ends in {', '.join(known)}",
                f"{file_suffix(strange.name) or 'no ending'!r}",
            )
        )
    refuse_strange_names(readable)
    if source.startswith(("http://", "https://")) or (len(readable) == 1 and source.endswith(readable[0].name)):
        return Found(store, readable, [], [])
    counting, notices = files_that_count(store, readable)
    if not counting:
        raise InputError(Problem(f"prompts.source: {source}", "at least one prompt", "a table without rows"))
    return Found(store, counting, notices, [entry.name for entry in entries if is_image(entry.name)])


def _images_alone(source: str, entries: Sequence[Entry], images: list[Entry]) -> list[Entry]:
    """Of a folder without prompts; a glob says what it wants, so nothing else may come with it."""
    strange = next((entry for entry in entries if not is_image(entry.name)), None)
    if strange is not None and any(c in source for c in "*?["):
        got = f"{file_suffix(strange.name) or 'no ending'!r}"
        raise InputError(Problem(f"prompts.source: {strange.name}", "an image, as others are there", got))
    refuse_strange_names(images)
    return images


def find_files(source: str, output: str | None) -> tuple[Store, list[Entry]]:
    """All that the source names, less what the job wrote itself, where its `output` lies inside the source.

    Raises InputError where that is nothing.
    """
    check_url(source, "prompts.source")
    store, entries = find_objects(source)
    entries = entries if output is None else _without_own(store, entries, output)
    if not entries:
        raise NoFilesError(
            Problem(
                f"prompts.source: {split_query(source)[0]}",
                "at least one file",
                "nothing there",
                "The path is relative to the folder the command is started in; quote a glob in --set",
            )
        )
    return store, entries


def refuse_strange_names(entries: Sequence[Entry]) -> None:
    """Raises InputError for a name that is no text: it would be part of the prompt ids."""
    for entry in entries:
        shown = os.fsencode(entry.name).decode(errors="backslashreplace")
        if shown != entry.name:
            hint = "Rename it: the prompt ids begin with it"
            raise InputError(Problem(f"prompts.source: {shown}", "a file name in UTF-8", "other bytes", hint))


def kept_of_dataset(entries: list[Entry]) -> list[Entry]:
    """Of a dataset that an earlier job made, what it kept; of every other folder all."""
    kept = [entry for entry in entries if _DATA_OBJECT.match(entry.name)]
    is_dataset = bool(kept) and any(entry.name == "job.json" for entry in entries)
    return kept if is_dataset else entries


def _without_own(store: Store, entries: Sequence[Entry], output: str) -> list[Entry]:
    own = f"{real_place(output)}/"
    places = [(entry, f"{real_place(store.url)}/{entry.name}") for entry in entries]
    return [entry for entry, key in places if not (key.startswith(own) and _OWN_OBJECT.match(key, len(own)))]
