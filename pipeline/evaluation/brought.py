"""Scores that others gave (GenEval's verdicts, ratings by people, any metric) as one more object of `scores/`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from promptmill.pipeline.dataset.records import to_parquet
from promptmill.pipeline.dataset.samples import Samples, read_samples
from promptmill.pipeline.dataset.side_scores import FOLDER, Floats, as_numbers, names_in
from promptmill.pipeline.display import first_line
from promptmill.pipeline.export.layouts.geneval import geneval_files
from promptmill.pipeline.prompts.first_look import LookError, first_look
from promptmill.pipeline.prompts.formats import (
    PARQUET_FORMATS,
    file_suffix,
    is_parquet,
    read_text_format,
    read_unpacked,
)
from promptmill.pipeline.prompts.kinds import is_text
from promptmill.pipeline.storage.listing import find_objects
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.columns import of_kind
from promptmill.schemas.errors import InputError, JobError, Problem
from promptmill.schemas.prompts import Prompts

_TEXT_FORMATS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".xlsx")
_NO_SCORES = frozenset({*of_kind("identity"), "filename"})
_MOST_BYTES = 256 << 20
"""Of the file, and of its table: five million rows of an id and a score."""


@dataclass(frozen=True)
class Brought:
    """`unknown` rows name no sample of the dataset. `mean` is of the images that have the score."""

    images: int
    unknown: int
    mean: Mapping[str, float]


def bring_scores(store: Store, path: str, again: bool = False) -> Brought:
    """Every column of numbers or truth values becomes a score of its name; several rows of one image are averaged.

    A row says its image by `sample_id`, or by `filename` in the tree that `export --layout geneval` wrote.
    Raises JobError where the file cannot be read, has no such column, a name is taken, or no row fits.
    """
    where = f"--from: {path}"
    table, samples = _read(path, where), read_samples(store)
    found = [(name, _numbers(table.column(name))) for name in table.column_names if name not in _NO_SCORES]
    scores = {name: numbers for name, numbers in found if numbers is not None}
    if not scores:
        got = ", ".join(table.column_names)[:200] or "none"
        raise JobError(Problem(where, "a column of numbers or truth values", got))
    key = f"{FOLDER}/from_{_stem(path)}-all.parquet"
    _refuse_taken(store, samples, key, scores, where, again)
    ids, places = _images(_ids(table, samples, where), samples, where)
    means = {name: _means(numbers, places, len(ids)) for name, numbers in scores.items()}
    store.put(key, to_parquet(pa.table({"sample_id": ids, **means})))
    finite = {name: values[np.isfinite(values)] for name, values in means.items()}
    average = {name: float(values.mean()) for name, values in finite.items() if len(values)}
    return Brought(len(ids), int((places < 0).sum()), average)


def _read(path: str, where: str) -> pa.Table:
    """A file or URL in any format that prompts are read from, packed or not, whatever its dialect."""
    known = (*PARQUET_FORMATS, *_TEXT_FORMATS)
    if file_suffix(path) not in known:
        raise JobError(Problem(where, "a file of scores: " + ", ".join(known), file_suffix(path) or "no ending"))
    try:
        store, entries = find_objects(path)
        if len(entries) != 1:
            raise JobError(Problem(where, "one file that can be read", f"{len(entries)} files"))
        if entries[0].size_bytes > _MOST_BYTES:
            raise ValueError(f"more than {_MOST_BYTES:,} bytes")
        data = read_unpacked(store, entries[0].name)
        if is_parquet(path):
            with first_look() as look:
                table = look.table(data, _MOST_BYTES)
        else:
            table = read_text_format(data, file_suffix(path), path, Prompts(source=path))[0]
    except InputError as error:
        raise JobError(*(_at(problem, where) for problem in error.problems)) from None
    except (OSError, pa.ArrowException, ValueError, LookError) as error:
        got = first_line(error)
        raise JobError(Problem(where, "a file that can be read", got)) from None
    if len(set(table.column_names)) < len(table.column_names):
        raise JobError(Problem(where, "each column once", ", ".join(table.column_names)[:200]))
    return table


def _at(problem: Problem | str, where: str) -> Problem | str:
    return problem if isinstance(problem, str) else replace(problem, where=where)


_WORDS: Mapping[str, float] = {"": np.nan, "true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0}


def _numbers(column: pa.ChunkedArray) -> Floats | None:
    """As `as_numbers`; also of texts that all write one, with a decimal comma where that is how they do."""
    numbers = as_numbers(column)
    if numbers is not None or not is_text(column.type):
        return numbers
    texts = [str(value or "").strip().lower() for value in column.to_pylist()]
    try:
        read = [_WORDS[text] if text in _WORDS else float(text.replace(",", ".", 1)) for text in texts]
    except ValueError:
        return None
    return np.asarray(read, np.float64) if any(texts) else None


def _ids(table: pa.Table, samples: Samples, where: str) -> list[str]:
    """The sample that each row names; empty where it names none."""
    if "sample_id" in table.column_names:
        return _texts(table, "sample_id", where)
    if "filename" not in table.column_names:
        hint = "`sample_id` stands in data/*.parquet; GenEval's results have `filename`"
        got = ", ".join(table.column_names)[:200]
        raise JobError(Problem(where, "a column `sample_id` or `filename`", got, hint))
    files = geneval_files(samples)
    levels = {key.count("/") + 1 for key in files}
    names = [name.replace("\\", "/").split("/") for name in _texts(table, "filename", where)]
    keys = (["/".join(parts[-count:]) for count in levels] for parts in names)
    return [next((files[key] for key in some if key in files), "") for some in keys]


def _texts(table: pa.Table, name: str, where: str) -> list[str]:
    try:
        return [str(value or "") for value in table.column(name).to_pylist()]
    except (ValueError, OverflowError) as error:  # no UTF-8, or a moment that Python has no word for
        raise JobError(Problem(where, f"a column `{name}` of text", type(error).__name__)) from None


def _images(
    ids: Sequence[str], samples: Samples, where: str
) -> tuple[list[str], np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """The samples that are of this dataset, each once, and which of them each row is of, -1 for none."""
    there = set(samples.texts("sample_id"))
    place = {sample: i for i, sample in enumerate(dict.fromkeys(sample for sample in ids if sample in there))}
    if not place:
        got = f"{len(ids)} rows of others, such as {ids[0]!r}" if ids else "no rows"
        raise JobError(Problem(where, "samples of this dataset", got))
    return list(place), np.array([place.get(sample, -1) for sample in ids], np.int64)


def _means(numbers: Floats, places: np.ndarray[tuple[int], np.dtype[np.int64]], count: int) -> Floats:
    good = np.isfinite(numbers) & (places >= 0)
    total = np.bincount(places[good], weights=numbers[good], minlength=count)
    size = np.bincount(places[good], minlength=count)
    found: Floats = np.divide(total, size, out=np.full(count, np.nan), where=size > 0)
    return found


def _refuse_taken(
    store: Store, samples: Samples, key: str, scores: Mapping[str, Floats], where: str, again: bool
) -> None:
    """Raises JobError where a score of that name is of another origin, or the same file was brought before."""
    before = names_in(store, key)
    if before and not again:
        raise JobError(Problem(where, "a file that was not brought before", key, "`--again` replaces it"))
    taken = sorted(set(scores) & (set(samples.score_names) - set(before)))
    if taken:
        hint = "Rename the column: two origins under one name would be one score"
        raise JobError(Problem(where, "names that no score of the dataset has", ", ".join(taken), hint))


def _stem(path: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "_", Path(path).stem)[:60] or "file"
