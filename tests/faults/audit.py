"""What lies in an output, counted without any of Promptmill's own code."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

Files = Mapping[str, bytes]
"""Every object of an output, by its key."""


@dataclass(frozen=True)
class Audit:
    """`lost` were asked for and ended nowhere; `doubled` are in two places, or were never asked for."""

    asked: int
    kept: int
    rejected: int
    failed: int
    lost: int
    doubled: int

    @property
    def ended(self) -> int:
        return self.kept + self.rejected + self.failed


def audit(files: Files, asked: Iterable[str]) -> Audit:
    """`asked` are the sample ids. A failure that a later shard answers is not counted again."""
    wanted = set(asked)
    ends: dict[str, Counter[str]] = {"data": Counter(), "rejects": Counter(), "failures": Counter()}
    for key, content in data_objects(files).items():
        ends["data"].update(_ids(content))
        for side in footer_of(content)["side_objects"]:
            ends[side.split("/")[0]].update(_ids(files[side]))
        assert key == f"data/part-{footer_of(content)['shard']['number']:06d}.parquet"
    images = ends["data"] + ends["rejects"]
    failed = {sample for sample in ends["failures"] if sample not in images}
    doubled = sum(count - 1 for count in images.values()) + len((set(images) | failed) - wanted)
    lost = len(wanted - set(images) - failed)
    return Audit(len(wanted), len(ends["data"]), len(ends["rejects"]), len(failed), lost, doubled)


def sample_ids(files: Files) -> set[str]:
    """All samples that ended in any way."""
    found: set[str] = set()
    for content in data_objects(files).values():
        found |= set(_ids(content))
        for side in footer_of(content)["side_objects"]:
            found |= set(_ids(files[side]))
    return found


def failures(files: Files) -> list[dict[str, Any]]:
    keys = sorted(key for key in files if key.startswith("failures/"))
    return [row for key in keys for row in pq.read_table(io.BytesIO(files[key])).to_pylist()]


def data_objects(files: Files) -> dict[str, bytes]:
    return {key: content for key, content in sorted(files.items()) if key.startswith("data/")}


def footer_of(content: bytes) -> dict[str, Any]:
    footer: dict[str, Any] = json.loads(pq.read_metadata(io.BytesIO(content)).metadata[b"promptmill"])
    return footer


def dataset_of(files: Files) -> dict[str, bytes]:
    """The objects that a crash must not change by a byte: images, rejects, failures, and what they were made from."""
    folders = ("data/", "rejects/", "failures/", "inputs/", "segments/", ".tmp/")
    return {key: content for key, content in files.items() if key.startswith(folders)}


def difference(files: Files, expected: Files) -> list[str]:
    """Keys that are missing, too many, or have other bytes; empty where the two datasets are the same."""
    mine, theirs = dataset_of(files), dataset_of(expected)
    names = sorted(mine.keys() | theirs.keys())
    return [
        f"{'missing' if key not in mine else 'too many' if key not in theirs else 'other bytes'}: {key}"
        for key in names
        if mine.get(key) != theirs.get(key)
    ]


def _ids(content: bytes) -> list[str]:
    ids: list[str] = pq.read_table(io.BytesIO(content), columns=["sample_id"]).column(0).to_pylist()
    return ids
