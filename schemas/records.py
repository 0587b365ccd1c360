"""Arrow schemas of what a run writes, made of the table in `columns.py`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Final

import pyarrow as pa

from promptmill.schemas.columns import HASHES, columns_in, columns_only, hashes_by_role, input_column, named
from promptmill.schemas.inputs import ROLES, Role

RECORD_VERSION: Final = 1

RECORD: Final = pa.schema(columns_in("data"))
"""A kept sample. The other columns of the source follow, `input_` before a name that is taken."""

REJECT: Final = pa.schema(columns_in("rejects"))
"""A sample that was made and not kept, with the `reason`."""

FAILURE: Final = pa.schema(columns_in("failures"))
"""A sample that could not be made, with all columns of its input row: `retry` reads this."""

VIEW: Final = pa.schema(
    [
        *(pa.field(name, pa.string()) for name in (*named("sample_id", "prompt_id", "variant"), "object")),
        pa.field("row", pa.int64()),
        pa.field("weight", pa.float32()),
        pa.field("reason", pa.string()),
    ]
)
"""A selection: `object` and `row` say where the image lies. `weight` is 1 for what is kept, else 0; `reason` is null
for it."""


def input_fields(roles: Iterable[Role]) -> list[pa.Field]:
    """What a sample was drawn from, in every kind of object of a job that has input images, and in no other's.

    `input_image` and its kin say where the bytes were read, `input_image_sha256` which they were, by role.
    """
    more = sorted(set(roles) - set(ROLES))
    fields = [*columns_only("inputs"), *(pa.field(input_column(role), pa.string()) for role in more)]
    return [each.with_type(hashes_by_role((*ROLES, *more))) if each.name == HASHES else each for each in fields]


def kept_input_key(sha256: str) -> str:
    """The object, below the output, of an input image that `output.keep_inputs` stores."""
    return f"inputs/images/{sha256}"


TAKEN: Final = frozenset({*RECORD.names, *REJECT.names, *FAILURE.names})
"""Names that a passed-through column must avoid, the same in every kind of object."""


def with_scores(schema: pa.Schema, names: Sequence[str]) -> pa.Schema:
    """Give `scores` one float32 field for each score of the job.

    A struct and no map: `datasets` 5.2 cannot load a Parquet file that has a map column.
    """
    fields = [pa.field(name, pa.float32()) for name in names or ("clip",)]
    return schema.set(schema.get_field_index("scores"), pa.field("scores", pa.struct(fields)))


LARGEST_NARROW_SEED: Final = 2**63 - 1


def with_wide_seeds(schema: pa.Schema) -> pa.Schema:
    """For a dataset whose source has seeds above 2^63 − 1: `seed` is uint64 there, from the first shard on."""
    return schema.set(schema.get_field_index("seed"), pa.field("seed", pa.uint64()))


def passthrough_names(names: Sequence[str], own: Sequence[str] = ()) -> list[str]:
    """Names under which the columns of a source are written: their own, with `input_` before it where one is taken.

    `own` are columns that the record of this job has besides. A name is taken in whatever case: Spark and DuckDB read
    `Seed` and `seed` as one column.
    """
    taken, written = {name.lower() for name in (*TAKEN, *own)}, []
    for name in names:
        candidate = name
        while candidate.lower() in taken or (candidate != name and candidate in names):
            candidate = f"input_{candidate}"
        taken.add(candidate.lower())
        written.append(candidate)
    return written


# Naming the image alone is enough: `datasets` derives the type of every column it does not find here.
HUGGINGFACE: Final = {b"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}}}}).encode()}
"""Schema metadata that makes Hugging Face `datasets` show the `image` column as pictures."""


def huggingface(class_names: Sequence[str] = ()) -> dict[bytes, bytes]:
    """Schema metadata for `datasets`: `image` as pictures, and `label` as a ClassLabel where there are classes."""
    if not class_names:
        return dict(HUGGINGFACE)
    features = {"image": {"_type": "Image"}, "label": {"names": list(class_names), "_type": "ClassLabel"}}
    return {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
