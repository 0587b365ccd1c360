"""Scores for images that are there already, as `scores/<metric>-<part>.parquet` beside the data they describe.

Nothing of the data is rewritten. An object of scores that is there is done, so that the same call continues after a
crash; `again` makes them anew.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from promptmill.pipeline.dataset.keys import is_reject, shard_number
from promptmill.pipeline.dataset.records import to_parquet
from promptmill.pipeline.dataset.side_scores import FOLDER, lowest_metadata
from promptmill.pipeline.dataset.state import read_data_objects
from promptmill.pipeline.dataset.whole import whole_object
from promptmill.pipeline.prompts.bombs import check_strangers
from promptmill.pipeline.prompts.pixels import ImageError, decode_image
from promptmill.pipeline.scores.interface import KnowsSome, Picture, Scorer
from promptmill.pipeline.storage.entry import Entry
from promptmill.pipeline.storage.footers import parquet_metadata
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.columns import named
from promptmill.schemas.errors import JobError, MissingObjectError, Problem

_MADE_BY = b"promptmill-made-by"
_READ_ROWS = 64
_HELD_BYTES = 1 << 30
"""Of pixels at one time: 1,300 images of 512×512. Those of larger shards are decoded once more for each metric."""
_COLUMNS = (*named("sample_id", "caption", "prompt", "prompt_id", "variant"), "text", "truth")

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Unit:
    """Objects that are scored together: a shard's kept and rejected images, or one file of a foreign dataset."""

    name: str
    keys: tuple[str, ...]


@dataclass(frozen=True)
class ScoreSummary:
    """`mean` by score over its finite values, None where there are none; `left_out` images do not decode.

    `done_before` counts objects of scores that were there already and are not in the other numbers.
    """

    images: int
    left_out: int
    objects: int
    done_before: int
    mean: Mapping[str, float | None]


def _no_one(done: int, of: int) -> None:
    pass


def score_dataset(
    store: Store, metrics: Sequence[Scorer], again: bool = False, on_unit: Callable[[int, int], None] = _no_one
) -> ScoreSummary:
    """Works on our datasets and on any folder of Parquet files with `image` and, where asked for, `caption`.

    Raises JobError where there are no images, a column is missing that a metric needs, or it does not know a class.
    """
    units = find_units(store)
    check_columns(store, units, metrics)
    there = {entry.name: entry for entry in store.list(FOLDER)}
    if not again:
        _check_made_by(store, there, [(metric, unit) for metric in metrics for unit in units])
    for metric in metrics:
        if isinstance(metric, KnowsSome):
            unscored = [unit for unit in units if again or _key(metric, unit) not in there]
            metric.check_classes(_values(store, unscored, metric.needs[0]))
    values: dict[str, list[Floats]] = defaultdict(list)
    images = left_out = done_before = 0
    for number, unit in enumerate(units):
        todo = [metric for metric in metrics if again or _key(metric, unit) not in there]
        done_before += len(metrics) - len(todo)
        if todo:
            with contextlib.suppress(MissingObjectError):  # a shard that is to be made again has no scores yet
                pictures, broken = read_pictures(store, unit, None, [name for each in todo for name in each.needs])
                images, left_out = images + len(pictures), left_out + broken
                for metric in todo:
                    for name, column in _write(store, metric, unit, pictures).items():
                        values[name].append(column)
        on_unit(number + 1, len(units))
    means = {name: _mean(parts) for name, parts in values.items()}
    return ScoreSummary(images, left_out, len(units), done_before, means)


def _check_made_by(store: Store, there: Mapping[str, Entry], pairs: Sequence[tuple[Scorer, Unit]]) -> None:
    """Raises JobError for scores of another CLIP or among other distractors: half of either would be one column."""
    expected = {_key(metric, unit): metric.version for metric, unit in pairs if metric.version}
    entries = [entry for key, entry in there.items() if key in expected]
    for entry, found in zip(entries, store.map(lambda entry: _made_by(store, entry), entries), strict=True):
        if found not in ("", expected[entry.name]):
            hint = "`--again` makes all of them anew; another name (`clip:name=…`) keeps both"
            wanted = "scores of the same model, among the same distractors"
            raise JobError(Problem(f"{store.url}/{entry.name}", wanted, "those of others", hint))


def _made_by(store: Store, entry: Entry) -> str:
    """Empty where an older version, or somebody else, wrote it."""
    try:
        return ((parquet_metadata(store, entry).metadata or {}).get(_MADE_BY) or b"").decode(errors="replace")
    except pa.ArrowException:
        return ""


def _mean(parts: Sequence[Floats]) -> float | None:
    whole = np.concatenate(parts).astype(np.float64)
    finite = whole[np.isfinite(whole)]
    return float(finite.mean()) if len(finite) else None


def _key(metric: Scorer, unit: Unit) -> str:
    return f"{FOLDER}/{metric.name}-{unit.name}.parquet"


def _write(store: Store, metric: Scorer, unit: Unit, pictures: Sequence[Picture]) -> dict[str, Floats]:
    empty = {name: np.zeros(0, np.float32) for name in metric.columns}
    metric.prepare([picture.caption for picture in pictures])
    scores = dict(metric.score(pictures)) if pictures else empty
    columns: dict[str, pa.Array[Any]] = {"sample_id": pa.array([p.sample_id for p in pictures], pa.string())}
    columns |= {name: pa.array(scores[name], pa.float32()) for name in metric.columns}
    said = {_MADE_BY: metric.version} if metric.version else {}
    table = pa.table(columns).replace_schema_metadata(
        {**said, **lowest_metadata(getattr(metric, "lower_is_better", ()))} or None
    )
    store.put(_key(metric, unit), to_parquet(table))
    return scores


def find_units(store: Store) -> list[Unit]:
    """Shards that a footer vouches for; where there are none, every Parquet file of the folder and of its `data/`."""
    entries = [entry for entry in store.list("data") if shard_number(entry.name) is not None]
    units = []
    for item in read_data_objects(store, entries):
        if item.footer is not None:
            rejects = [key for key in item.footer.side_objects if is_reject(key)]
            units.append(Unit(item.footer.shard.part, (item.entry.name, *rejects)))
    if units:
        return units
    found = [e for folder in ("", "data") for e in store.list(folder) if e.name.endswith(".parquet")]
    check_strangers(store, found)
    units = [Unit(_foreign_name(entry), (entry.name.lstrip("/"),)) for entry in found]
    if not units:
        raise JobError(Problem(store.url, "Parquet files with images, there or below data/", "none"))
    return units


def _foreign_name(entry: Entry) -> str:
    stem = entry.name.rpartition("/")[2].removesuffix(".parquet")
    return f"{stem[:80]}-{hashlib.sha256(entry.name.encode()).hexdigest()[:8]}"


def check_columns(store: Store, units: Sequence[Unit], metrics: Sequence[Scorer]) -> None:
    with store.open(units[0].keys[0]) as file:
        names = pq.read_schema(file).names
    where = f"{store.url}/{units[0].keys[0]}"
    got = f"the columns {', '.join(names[:20])}"
    problems: list[Problem | str] = []
    if "image" not in names:
        problems.append(Problem(where, "a column `image`", got))
    for metric in metrics:
        for name in metric.needs:
            if name not in names and not (name == "caption" and {"prompt", "text"} & set(names)):
                problems.append(Problem(f"metric {metric.name}", f"a column `{name}` in {where}", got))
    if problems:
        raise JobError(*problems)


def read_pictures(
    store: Store, unit: Unit, chosen: Container[str] | None = None, columns: Sequence[str] = ()
) -> tuple[list[Picture], int]:
    """The images of a unit, or its `chosen` samples, and how many of them do not decode.

    Rows without an image are passed over. `columns` are read besides, where they are there.
    """
    pictures: list[Picture] = []
    broken = held = 0
    for key in unit.keys:
        for row, fields in enumerate(_rows(store, key, columns)):
            data = _image_bytes(fields.pop("image", None))
            sample_id = str(fields.get("sample_id") or f"{key}:{row}")
            if data is None or (chosen is not None and sample_id not in chosen):
                continue
            caption = next((str(fields[n]) for n in ("caption", "prompt", "text") if fields.get(n) is not None), "")
            group = f"{fields.get('prompt_id', caption)}\n{fields.get('variant', '')}"
            try:
                pixels = decode_image(data)
            except ImageError:
                broken += 1
                continue
            held += pixels.nbytes
            pictures.append(Picture(sample_id, caption, group, pixels if held <= _HELD_BYTES else data, fields))
    return pictures, broken


def _rows(store: Store, key: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    with whole_object(store, key) as file:
        parquet = pq.ParquetFile(file)
        names = [name for name in dict.fromkeys((*_COLUMNS, *columns, "image")) if name in parquet.schema_arrow.names]
        for batch in parquet.iter_batches(batch_size=_READ_ROWS, columns=names):
            yield from batch.to_pylist()


def _values(store: Store, units: Sequence[Unit], column: str) -> set[str]:
    """What a column says; no other is read."""

    def of(key: str) -> set[str]:
        with contextlib.suppress(MissingObjectError), whole_object(store, key) as file:
            parquet = pq.ParquetFile(file)
            if column in parquet.schema_arrow.names:
                batches = parquet.iter_batches(columns=[column])
                return {str(each) for batch in batches for each in batch.column(0).to_pylist() if each is not None}
        return set()

    return set[str]().union(*store.map(of, [key for unit in units for key in unit.keys]))


def _image_bytes(value: Any) -> bytes | None:
    """Of a Hugging Face image struct, or of a plain binary column."""
    if isinstance(value, dict):
        value = value.get("bytes")
    return value if isinstance(value, bytes) else None
