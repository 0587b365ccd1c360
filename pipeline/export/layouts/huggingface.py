"""A folder as the Hugging Face hub shows it: `data/<split>-00000.parquet` with all columns, and README.md.

Signed images keep their bytes, which `image_sha256` is of: their manifest is a column beside them.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator

import pyarrow as pa

from promptmill.pipeline.dataset.records import FOOTER_KEY, to_parquet
from promptmill.pipeline.export.card import MANIFEST, exported_card
from promptmill.pipeline.export.lineage import NO_ORIGINS, origins_of, part_of
from promptmill.pipeline.export.signing import Sign
from promptmill.pipeline.export.training import Facts, Put, suffix_of
from promptmill.schemas.records import passthrough_names

NAMES = re.compile(r"README\.md|data/[a-zA-Z_]\w*-\d{5}\.parquet")
TABLES = True
_FILE_BYTES = 256 << 20


def write(tables: Iterator[tuple[str, pa.Table]], facts: Facts, put: Put) -> None:
    waiting: dict[str, list[pa.Table]] = defaultdict(list)
    held: dict[str, int] = defaultdict(int)
    numbers: dict[str, int] = defaultdict(int)
    schema: pa.Schema | None = None
    origins, images = Counter[str](), set[bytes]()

    def write_out(split: str) -> None:
        whole = pa.concat_tables(waiting.pop(split), promote_options="permissive")
        put(f"data/{split}-{numbers[split]:05d}.parquet", to_parquet(whole))
        numbers[split] += 1
        held[split] = 0

    for split, table in tables:
        table = _clean(table)
        if facts.sign is not None:
            table = _with_manifests(table, facts.sign)
        if facts.plan.origins:
            its, seen = part_of(table)
            origins += its
            images |= seen
        schema = schema or table.schema
        waiting[split].append(table)
        held[split] += table.nbytes
        if held[split] > _FILE_BYTES:
            write_out(split)
    for split in list(waiting):
        write_out(split)
    found = origins_of(origins, images) if facts.plan.origins else NO_ORIGINS
    card = exported_card(facts.plan, facts.splits, schema or pa.schema([]), found, facts.sign is not None)
    put("README.md", card.encode("utf-8", "replace"))


def _clean(table: pa.Table) -> pa.Table:
    """Without the proof of the shard that it was part of."""
    metadata = {key: value for key, value in (table.schema.metadata or {}).items() if key != FOOTER_KEY}
    if "reason" in table.column_names:  # of a reject: why it was not kept is no column of the others
        table = table.drop_columns(["reason"])
    return table.replace_schema_metadata(metadata or None)


def _with_manifests(table: pa.Table, sign: Sign) -> pa.Table:
    """With a column of them. One of that name, of images that this dataset was made of, is called `input_…` then."""
    names = passthrough_names(table.column_names, [MANIFEST])
    renamed = [new if old.lower() == MANIFEST else old for old, new in zip(table.column_names, names, strict=True)]
    images = table.column("image").combine_chunks().field("bytes").to_pylist()
    named = zip(images, table.column("sample_id").to_pylist(), strict=True)
    manifests = [sign(data, suffix := suffix_of(data), f"{name}.{suffix}") for data, name in named]
    signed = table.rename_columns(renamed).append_column(MANIFEST, pa.array(manifests, pa.binary()))
    return signed.replace_schema_metadata(table.schema.metadata)  # which a renaming leaves out
