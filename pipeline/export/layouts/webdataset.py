"""`<split>-000000.tar` with `<sample_id>.png`, `.txt`, `.json` and, of classes, `.cls`. A key ends at its first dot."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator

from promptmill.pipeline.export.training import Facts, Picture, Put

NAMES = re.compile(r"[a-zA-Z_]\w*-\d{6}\.tar")
_SHARD_BYTES = 256 << 20
"""A shard is written whole; readers take any size, and split their work by shards."""


class _Shards:
    def __init__(self, split: str, put: Put) -> None:
        self._split, self._put, self._number = split, put, 0
        self._open()

    def _open(self) -> None:
        self._sink = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._sink, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115

    def add(self, picture: Picture) -> None:
        for suffix, data in _members(picture):
            member = tarfile.TarInfo(f"{picture.name}.{suffix}")
            member.size = len(data)
            self._tar.addfile(member, io.BytesIO(data))
        if self._sink.tell() > _SHARD_BYTES:
            self.close()
            self._open()

    def close(self) -> None:
        empty = not self._tar.getmembers()
        self._tar.close()
        if not empty:
            self._put(f"{self._split}-{self._number:06d}.tar", self._sink.getvalue())
            self._number += 1


def write(pictures: Iterator[Picture], facts: Facts, put: Put) -> None:
    shards = {split: _Shards(split, put) for split in facts.splits}
    for each in pictures:
        shards[each.split].add(each)
    for own in shards.values():
        own.close()


def _members(picture: Picture) -> Iterator[tuple[str, bytes]]:
    facts = {**picture.facts, "caption": picture.caption}
    if picture.label is not None:
        facts |= {"label": picture.label, "label_name": picture.label_name}
        yield "cls", str(picture.label).encode()
    yield "json", json.dumps(facts, ensure_ascii=False, sort_keys=True).encode("utf-8", "replace")
    yield picture.suffix, picture.data
    yield "txt", picture.caption.encode("utf-8", "replace")
