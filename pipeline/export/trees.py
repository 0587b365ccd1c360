"""Folders of images, by prompt and by variant: what all layouts share."""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from promptmill.pipeline.dataset.samples import Samples
from promptmill.pipeline.export.names import distinct_names
from promptmill.pipeline.planning.variants import shown_value
from promptmill.pipeline.prompts.pixels import decode_image
from promptmill.schemas.errors import JobError, Problem

Place = tuple[str, str]
"""Variant and prompt id: whose images lie together."""

Places = Mapping[Place, Sequence[int]]
"""The rows of each place, by sample index."""

Group = Sequence[tuple[int, bytes]]
"""(row of the table, encoded image) of one place, by sample index."""

Folders = Mapping[str, str]
"""By variant: empty, or a name with `/` behind it."""


@dataclass(frozen=True)
class Tree:
    """A layout, filled: the files that each place gives, and how they are made of its images."""

    keys: Mapping[Place, Callable[[int], list[str]]]
    make: Callable[[Place, Group], Iterator[bytes]]


def places_of(samples: Samples, rows: Sequence[int]) -> dict[Place, list[int]]:
    """Rows of each prompt in each variant, by sample index; a retried one lies in another shard than its siblings."""
    variants, prompts = samples.texts("variant"), samples.texts("prompt_id")
    indices = samples.table.column("sample_index").to_pylist()
    found: dict[Place, list[int]] = defaultdict(list)
    for row in rows:
        found[variants[row], prompts[row]].append(row)
    return {place: sorted(group, key=lambda row: int(indices[row] or 0)) for place, group in found.items()}


def folders_of(variants: Sequence[str]) -> dict[str, str]:
    """Folder of each variant by its text; the root where there is one."""
    if len(variants) == 1:
        return {variants[0]: ""}
    return {text: f"{name}/" for text, name in distinct_names({text: variant_label(text) for text in variants}).items()}


def variant_label(variant: str) -> str:
    """`guidance_scale=5.0,scheduler=ddim`."""
    return ",".join(f"{name}={shown_value(value)}" for name, value in json.loads(variant).items())


def numbers_of(places: Places) -> dict[str, int]:
    return {prompt: number for number, prompt in enumerate(dict.fromkeys(prompt for _, prompt in places))}


def need_columns(samples: Samples, needed: Sequence[str], layout: str) -> None:
    missing = [name for name in needed if name not in samples.source_columns]
    if missing:
        got = ", ".join(samples.source_columns) or "no such columns of the source"
        hint = "The prompts must come from the suite's own file, whose columns are carried through"
        raise JobError(*(Problem(f"layout {layout}", f"a column `{name}`", got, hint) for name in missing))


def as_png(data: bytes) -> bytes:
    if data.startswith(b"\x89PNG"):
        return data
    sink = io.BytesIO()
    Image.fromarray(decode_image(data)).save(sink, "PNG", compress_level=1)
    return sink.getvalue()
