"""Arrow schemas of what a run writes. Version 1: columns are added, never changed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Final

import pyarrow as pa

from promptmill.schemas.inputs import ROLES, Role

RECORD_VERSION: Final = 1

# Hugging Face `datasets` decodes the column only in this form: nullable, bytes before path.
IMAGE: Final = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])

_SETTINGS: Final = [
    pa.field("sample_index", pa.int32()),
    pa.field("variant", pa.string()),
    pa.field("seed", pa.int64()),
    pa.field("model", pa.string()),
    pa.field("model_revision", pa.string()),
    pa.field("pipeline_class", pa.string()),
    pa.field("scheduler", pa.string()),
    pa.field("dtype", pa.string()),
    pa.field("num_inference_steps", pa.int32()),
    pa.field("guidance_scale", pa.float32()),
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
]
_TEXTS: Final = [
    pa.field("caption", pa.string()),
    pa.field("prompt", pa.string()),
    pa.field("negative_prompt", pa.string()),
]
_QUALITY: Final = [
    pa.field("clip_score", pa.float32()),
    pa.field("scores", pa.struct([pa.field("clip", pa.float32())])),
    pa.field("image_sha256", pa.string()),
    pa.field("image_phash", pa.string()),
    pa.field("flags", pa.list_(pa.string())),
]
_IDS: Final = [pa.field("sample_id", pa.string(), nullable=False), pa.field("prompt_id", pa.string(), nullable=False)]

RECORD: Final = pa.schema([*_IDS, pa.field("image", IMAGE), *_TEXTS, *_SETTINGS, *_QUALITY])
"""A kept sample. The other columns of the source follow, `input_` before a name that is taken."""

REJECT: Final = pa.schema(
    [*_IDS, pa.field("reason", pa.string()), pa.field("image", IMAGE), *_TEXTS, *_SETTINGS, *_QUALITY]
)
"""A sample that was made and not kept. `reason` is `not_selected`, `below_min`, `no_score` or a flag such as `nsfw`."""

FAILURE: Final = pa.schema(
    [
        *_IDS,
        pa.field("error_kind", pa.string()),
        pa.field("message", pa.string()),
        pa.field("attempts", pa.int32()),
        *_TEXTS,
        *_SETTINGS[:5],
    ]
)
"""A sample that could not be made, with all columns of its input row: `retry` reads this."""


def input_fields(roles: Iterable[Role]) -> list[pa.Field]:
    """What a sample was drawn from, in every kind of object of a job that has input images, and in no other's.

    `input_image` and its kin say where the bytes were read, `input_image_sha256` which they were, by role.
    """
    known = [*ROLES, *sorted(set(roles) - set(ROLES))]
    return [
        pa.field("task", pa.string()),
        pa.field("strength", pa.float64()),  # as wide as the job's: 0.3 as float32 is another number
        pa.field("input_image_sha256", pa.struct([pa.field(role, pa.string()) for role in known])),
        *(pa.field(input_column(role), pa.string()) for role in known),
    ]


ADAPTERS: Final = [
    pa.field(
        "adapters",
        pa.list_(
            pa.struct([("name", pa.string()), ("sha", pa.string()), ("weight", pa.float64()), ("trigger", pa.string())])
        ),
    )
]
"""Adapters that a sample was drawn with, in every kind of object of a job that has any."""
CONTROLS: Final = [
    pa.field(
        "controls",
        pa.list_(
            pa.struct(
                [
                    *(("name", pa.string()), ("revision", pa.string()), ("scale", pa.float64())),
                    *(("start", pa.float64()), ("end", pa.float64()), ("preprocess", pa.string())),
                ]
            )
        ),
    )
]
"""ControlNets that a sample was drawn with, in every kind of object of a job that has any."""


def input_column(role: Role) -> str:
    """The column that says where an input was read."""
    return f"input_{role}"


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
