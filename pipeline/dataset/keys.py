"""The names of the objects below an output."""

from __future__ import annotations

import hashlib

from promptmill.schemas.plan import Shard

JOB_KEY = "job.json"


SOURCE_FIELD = ("prompts", "source")


SIDE_FOLDERS = ("rejects", "failures")


def shard_number(key: str) -> int | None:
    """7 for `data/part-000007.parquet`; None for any other name."""
    name = key.rpartition("/")[2]
    digits = name.removeprefix("part-").removesuffix(".parquet")
    return int(digits) if name == f"part-{digits}.parquet" and digits.isdecimal() else None


def side_object_key(folder: str, shard: Shard, data: bytes) -> str:
    """Named by content: a second attempt writes the same name or leaves an orphan that no footer names."""
    return f"{folder}/{shard.part}-{hashlib.sha256(data).hexdigest()[:12]}.parquet"
