"""`verify --deep`: every row and every byte of what the proofs name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from promptmill.pipeline.dataset.keys import hash_in_name, is_reject
from promptmill.pipeline.dataset.records import UNREADABLE
from promptmill.pipeline.dataset.state import DataObject
from promptmill.pipeline.display import first_line
from promptmill.pipeline.prompts.pixels import ImageError, open_image
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.columns import named
from promptmill.schemas.errors import MissingObjectError
from promptmill.schemas.plan import CommitRecord, Sidecar

if TYPE_CHECKING:
    from promptmill.pipeline.dataset.verify import Verification

_COLUMNS = list(named("sample_id", "image", "image_sha256", "width", "height"))


@dataclass
class _Seen:
    """Where each sample was found so far, and how many images decode."""

    places: dict[bytes, str] = field(default_factory=dict)
    images: int = 0


def look_at_everything(store: Store, good: Mapping[int, DataObject], result: Verification) -> None:
    seen = _Seen()
    for item in good.values():
        assert item.footer is not None
        problems = [
            *_check_rows(store.read_if_exists(item.entry.name), item.entry.name, item.footer.counts.kept, seen),
            *(problem for sidecar in item.footer.sidecars for problem in _check_side(store, item, sidecar, seen)),
        ]
        if problems:
            result.blame(item, problems)
    result.images_checked = seen.images


def _check_side(store: Store, item: DataObject, sidecar: Sidecar, seen: _Seen) -> Iterator[str]:
    """The content is held against the hash in the proof, in the proofs of older versions that in the name."""
    assert item.footer is not None
    content, name = store.read_if_exists(sidecar.name), sidecar.name
    if content is not None:
        digest = hashlib.sha256(content).hexdigest()
        expected = sidecar.sha256 or hash_in_name(name)
        if not digest.startswith(expected):
            yield f"{name}: other bytes than {item.entry.name} says: SHA-256 {digest[:12]}, not {expected[:12]}"
    if is_reject(name):
        yield from _check_rows(content, name, item.footer.counts.rejected, seen)
    else:
        yield from _check_failures(content, name, item.footer, seen)


def _check_failures(content: bytes | None, name: str, record: CommitRecord, seen: _Seen) -> Iterator[str]:
    try:
        ids = pq.read_table(_whole(content), page_checksum_verification=True).column("sample_id").to_pylist()
    except (*UNREADABLE, MissingObjectError) as error:
        yield f"{name}: cannot be read: {first_line(error)}"
        return
    if len(set(ids)) < len(ids):
        yield f"{name}: a sample_id comes twice"
    if len(ids) != record.counts.failed:
        yield f"{name}: {len(ids)} rows can be read, its proof says {record.counts.failed}"
    own = (record.shard.data_key, *record.side_objects)  # elsewhere: a later retry made it
    for sample in ids:
        if seen.places.get(_short(str(sample))) in own:
            yield f"{name}: sample {sample} is in {seen.places[_short(str(sample))]} too"


def _whole(content: bytes | None) -> pa.BufferReader:
    """Read first and parsed afterwards, so that an error of the storage is never taken for damage."""
    if content is None:
        raise MissingObjectError("not there any more")
    return pa.BufferReader(content)


def _check_rows(content: bytes | None, key: str, rows: int, seen: _Seen) -> Iterator[str]:
    found = 0
    try:
        file = pq.ParquetFile(_whole(content), page_checksum_verification=True)
        for batch in file.iter_batches(batch_size=64):
            for row in batch.select(_COLUMNS).to_pylist():
                found += 1
                short = _short(row["sample_id"])
                if short in seen.places:
                    yield f"{key}: sample {row['sample_id']} is in {seen.places[short]} too"
                seen.places[short] = key
                yield from _check_image(key, row)
                seen.images += row["image"] is not None
    except (*UNREADABLE, MissingObjectError) as error:
        yield f"{key}: cannot be read: {first_line(error)}"
        return
    if found != rows:
        yield f"{key}: {found} rows can be read, its footer says {rows}"


def _short(sample_id: str) -> bytes:
    return hashlib.blake2b(sample_id.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _check_image(key: str, row: dict[str, object]) -> Iterator[str]:
    image = row["image"]
    if not isinstance(image, dict):
        return
    data = image["bytes"] or b""
    if hashlib.sha256(data).hexdigest() != row["image_sha256"]:
        yield f"{key}: the image of sample {row['sample_id']} does not have its hash"
        return
    try:
        with open_image(data) as picture:
            picture.load()
            size = picture.size
    except ImageError as error:
        yield f"{key}: the image of sample {row['sample_id']} does not decode: {error}"
        return
    if size != (row["width"], row["height"]):
        yield f"{key}: the image of sample {row['sample_id']} is {size[0]}×{size[1]}, its row says otherwise"
