"""What the page loads: scripts that hand over data, since a page opened from disk may not fetch files.

data/analysis.<hash>.js       variants, metrics, estimates, names of the thumbnails' files
data/prompts-000.<hash>.js    texts and kinds of 2,000 prompts
data/samples-000.<hash>.js    2,500 samples, column by column
thumbs/000.<hash>.js          64 thumbnails, loaded when one of them comes into view
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any

import numpy as np

from promptmill.pipeline.dataset.keys import is_failure, shard_of
from promptmill.pipeline.dataset.samples import FAILED, KEPT, REJECTED, Samples, plain
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.prompts.thumbs import thumbnail
from promptmill.pipeline.report.frame import Frame
from promptmill.pipeline.report.stats import Integers
from promptmill.schemas.columns import named, of_kind
from promptmill.schemas.errors import MissingObjectError
from promptmill.schemas.inputs import Role
from promptmill.schemas.prompts import MAX_SEED

MAX_SHOWN = 20_000
"""Samples in the gallery; numbers and plots are of all."""

MAX_READ_BYTES = 4 << 30
PROMPTS_A_PIECE, SAMPLES_A_PIECE, THUMBS_A_PIECE = 2_000, 2_500, 64
_TEXT_BYTES = 1_500_000
"""For all prompts together, so that the page stays small: each text is cut at its share, at least 200 characters."""

_STATUS = (KEPT, REJECTED, FAILED)

Put = Callable[[str, bytes], None]
"""Stores an object whose key is relative to the page."""

ReadImages = Callable[[str, Sequence[int]], Iterator[tuple[int, bytes]]]
"""From an object's key and rows to (row, encoded image)."""


Inputs = Mapping[Role, Mapping[int, int]]
"""Of each role the number of the picture by row."""


def script(kind: str, number: int, content: Any) -> bytes:
    """A call of the page's one global function."""
    text = json.dumps(plain(content), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # A browser may guess that a file opened from disk is something else; escaped, the text is a script and no more.
    text = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    text = text.replace('"__proto__":', '["__proto__"]:')  # in a script that key would be no key
    return f"promptmill({json.dumps(kind)},{number},{text});\n".encode("utf-8", "backslashreplace")


def choose_rows(plan: Plan, samples: Samples, sizes: dict[str, int]) -> Integers:
    """Rows to show: all, or of a large dataset blocks of prompts in all their variants, spread over the source."""
    blocks: dict[tuple[int, int], list[int]] = {}
    cost: dict[tuple[int, int], dict[str, int]] = {}
    block_of: dict[str, tuple[int, int]] = {}
    for row, key in enumerate(samples.texts("object")):
        if key not in block_of:
            shard = plan.shard(shard_of(key))
            block_of[key] = (shard.segment, shard.start)
        block = block_of[key]
        blocks.setdefault(block, []).append(row)
        cost.setdefault(block, {})[key] = sizes.get(key, 0)
    chosen: list[int] = []
    read = 0
    # Steps of the golden ratio spread any number of first blocks evenly over all of them.
    for _, block in sorted((i * 0.6180339887498949 % 1, block) for i, block in enumerate(sorted(blocks))):
        read += sum(cost[block].values())
        if chosen and (len(chosen) + len(blocks[block]) > MAX_SHOWN or read > MAX_READ_BYTES):
            break
        chosen += blocks[block]
    return np.array(sorted(chosen), np.int64)


def text_pieces(frame: Frame, rows: Integers, inputs: Inputs = MappingProxyType({})) -> Iterator[tuple[str, bytes]]:
    """(key, script) of the prompts of these rows, numbered as they come in `sample_pieces`."""
    first = first_rows(frame, rows)
    limit = max(200, _TEXT_BYTES // max(1, len(first)))
    table = frame.samples.table
    names = [name for name in of_kind("text") if name in table.column_names]
    for number, start in enumerate(range(0, len(first), PROMPTS_A_PIECE)):
        chunk = first[start : start + PROMPTS_A_PIECE]
        columns = {name: [_cut(v, limit) for v in table.column(name).take(chunk).to_pylist()] for name in names}
        if "caption" in columns:
            columns["caption"] = [
                c if c != p else None for c, p in zip(columns["caption"], columns["prompt"], strict=True)
            ]
        content = {
            "id": [_cut(frame.prompt_ids[frame.prompts[row]], 300) for row in chunk],
            **columns,
            "facets": {name: codes[chunk].tolist() for name, (_, codes) in frame.facets.items()},
            **({"inputs": {role: [of.get(row, -1) for row in chunk] for role, of in inputs.items()}} if inputs else {}),
        }
        yield f"data/prompts-{number:03d}.js", script("prompts", number, content)


def first_rows(frame: Frame, rows: Integers) -> list[int]:
    """The first of these rows of each prompt."""
    seen: dict[int, int] = {}
    for row in rows:
        seen.setdefault(int(frame.prompts[row]), int(row))
    return list(seen.values())


def _cut(text: str | None, limit: int) -> str | None:
    return text if text is None or len(text) <= limit else text[:limit] + "…"


def sample_pieces(
    frame: Frame, rows: Integers, variants: Sequence[str], thumbs: dict[int, int]
) -> Iterator[tuple[str, bytes]]:
    """Column by column: prompt, variant, index and status as numbers, scores with five digits. `thumbs` by row."""
    place = {int(frame.prompts[row]): i for i, row in enumerate(first_rows(frame, rows))}
    index_of = {text: i for i, text in enumerate(variants)}
    shown_as = [index_of.get(text, -1) for text in frame.variant_texts]
    scores = {name: frame.samples.score(name) for name in frame.metrics()}
    for number, start in enumerate(range(0, len(rows), SAMPLES_A_PIECE)):
        chunk = rows[start : start + SAMPLES_A_PIECE]
        columns = {
            name: _column(frame.samples, name, chunk) for name in named("sample_id", "sample_index", "seed", "flags")
        }
        why = [
            a or b
            for a, b in zip(_column(frame.samples, "reason", chunk), _failures(frame.samples, chunk), strict=True)
        ]
        content = {
            **columns,
            "seed": [str(seed) if isinstance(seed, int) and seed > MAX_SEED else seed for seed in columns["seed"]],
            "flags": [value or None for value in columns["flags"]],
            "prompt": [place[int(frame.prompts[row])] for row in chunk],
            "cell": [shown_as[frame.variant_of[row]] for row in chunk],
            "status": [_STATUS.index(frame.status[row]) for row in chunk],
            "why": why,
            "thumb": [thumbs.get(int(row), -1) for row in chunk],
            "scores": {name: [_short(values[row]) for row in chunk] for name, values in scores.items()},
        }
        yield f"data/samples-{number:03d}.js", script("samples", number, content)


def _failures(samples: Samples, rows: Integers) -> list[str | None]:
    pairs = zip(_column(samples, "error_kind", rows), _column(samples, "message", rows), strict=True)
    return [kind and f"{kind}: {str(message or '')[:300]}" for kind, message in pairs]


def _column(samples: Samples, name: str, rows: Integers) -> list[Any]:
    if name not in samples.table.column_names:
        return [None] * len(rows)
    return list(samples.table.column(name).take(rows).to_pylist())


def _short(value: float) -> float | None:
    return float(f"{value:.5g}") if np.isfinite(value) else None


def write_thumbnails(samples: Samples, rows: Integers, read: ReadImages, put: Put) -> dict[int, int]:
    """Writes the pieces as pictures are read; number of the thumbnail by row, for those that have one."""
    numbers: dict[int, int] = {}
    waiting: list[str] = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for row, picture in _pictures(samples, rows, read, pool):
            numbers[row] = len(numbers)
            waiting.append(picture)
            if len(waiting) == THUMBS_A_PIECE:
                _put_thumbs(put, len(numbers), waiting)
    _put_thumbs(put, len(numbers), waiting)
    return numbers


def write_inputs(pictures: Sequence[tuple[Role, int, str]], thumbs: int, put: Put) -> Inputs:
    """Writes pictures that prompts were drawn from behind the `thumbs` of samples, from the next piece on."""
    start = -(-thumbs // THUMBS_A_PIECE) * THUMBS_A_PIECE
    distinct = {picture: start + i for i, picture in enumerate(dict.fromkeys(picture for _, _, picture in pictures))}
    for first in range(0, len(distinct), THUMBS_A_PIECE):
        waiting = list(distinct)[first : first + THUMBS_A_PIECE]
        _put_thumbs(put, start + first + len(waiting), waiting)
    found: dict[Role, dict[int, int]] = {}
    for role, row, picture in pictures:
        found.setdefault(role, {})[row] = distinct[picture]
    return found


def _put_thumbs(put: Put, count: int, waiting: list[str]) -> None:
    if waiting:
        number = (count - 1) // THUMBS_A_PIECE
        put(f"thumbs/{number:03d}.js", script("thumbs", number, waiting))
        waiting.clear()


def _pictures(
    samples: Samples, rows: Integers, read: ReadImages, pool: ThreadPoolExecutor
) -> Iterator[tuple[int, str]]:
    objects = samples.texts("object")
    places = samples.table.column("row").to_numpy()
    by_object: dict[str, dict[int, int]] = {}
    for row in rows:
        by_object.setdefault(objects[row], {})[int(places[row])] = int(row)
    for key, wanted in by_object.items():
        found: list[tuple[int, bytes]] = []
        with contextlib.suppress(MissingObjectError):  # `verify --repair` is at work
            found += read(key, list(wanted)) if not is_failure(key) else ()  # a failure has no picture
        for (place, _), picture in zip(found, pool.map(lambda pair: thumbnail(pair[1]), found), strict=True):
            if picture is not None:
                yield wanted[place], picture
