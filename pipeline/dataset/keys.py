"""The names of the objects below an output."""

from __future__ import annotations

import hashlib
import re

from promptmill.schemas.plan import Shard

JOB_KEY = "job.json"

SOURCE_FIELD = ("prompts", "source")
"""Where the fields of a job name the files of its source."""

SIDE_FOLDERS = ("rejects", "failures")
ROWS_FOLDERS = ("data", *SIDE_FOLDERS)
"""Every sample that ended has its row in an object below one of these."""

OWN_FOLDERS = (*ROWS_FOLDERS, "receipts", "scores", "segments", "inputs", "selections", "curation", "report", ".tmp")
"""All that a dataset's folder or bucket has of folders that Promptmill writes to."""

OWN_FILES = (JOB_KEY, "heartbeat.json", "README.md", "croissant.json")
"""And of files beside them."""

_ROWS_OBJECT = re.compile(r"(?:data|rejects|failures)/part-([0-9]{6,18})(?:-[0-9a-f]{12})?\.parquet")
_SIDE_OBJECT = re.compile(r"(?:rejects|failures)/(part-[0-9]{6,})-([0-9a-f]{12})\.parquet")


def shard_number(key: str) -> int | None:
    """7 for `data/part-000007.parquet`; None for any other name, such as the `part-0.parquet` of other programs.

    Only the plan knows whether a shard has that name: with how many digits.
    """
    name = key.rpartition("/")[2]
    digits = name.removeprefix("part-").removesuffix(".parquet")
    return int(digits) if re.fullmatch("[0-9]{6,18}", digits) and name == f"part-{digits}.parquet" else None


def shard_of(key: str) -> int:
    """The shard whose rows a data object or a side object holds. Raises ValueError for a name that we do not give."""
    match = _ROWS_OBJECT.fullmatch(key)
    if match is None:
        raise ValueError(f"expected the name of a data object or a side object, got {key!r}")
    return int(match[1])


def side_object_key(folder: str, shard: Shard, data: bytes) -> str:
    """Named by content: a second attempt writes the same name or leaves an orphan that no footer names."""
    return f"{folder}/{shard.part}-{hashlib.sha256(data).hexdigest()[:12]}.parquet"


def data_key_of(side_object: str) -> str | None:
    """The data object whose footer would name it; None for a name that `side_object_key` does not give."""
    match = _SIDE_OBJECT.fullmatch(side_object)
    return f"data/{match[1]}.parquet" if match else None


def is_reject(key: str) -> bool:
    return key.startswith("rejects/")


def is_failure(key: str) -> bool:
    return key.startswith("failures/")


def hash_in_name(side_object: str) -> str:
    """What `side_object_key` put into it: the first twelve digits of the content's SHA-256."""
    match = _SIDE_OBJECT.fullmatch(side_object)
    return match[2] if match else ""


def is_own(key: str) -> bool:
    """Whether Promptmill gives that name. What others laid beside our objects has another one."""
    folder, slash, name = key.partition("/")
    if not slash:
        return key in OWN_FILES
    if folder == "data":
        return shard_number(key) is not None
    if folder in SIDE_FOLDERS:
        return data_key_of(key) is not None
    known = {"receipts": r"part-[0-9]{6,}\.json", "segments": r"[0-9]{9}\.json"}
    return folder in OWN_FOLDERS and (folder not in known or re.fullmatch(known[folder], name) is not None)


def is_temporary(key: str) -> bool:
    """Whether the store gave that name to an object of its own below `.tmp/`."""
    name = key.rpartition("/")[2]
    return re.fullmatch(r"(?:clock-|taken-|guard-)?[0-9a-f]{32}|run-[0-9a-f]{16}(?:-.*)?", name) is not None
