"""The columns of the record, in one table: whoever names, types or describes a column takes it from here."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal

import pyarrow as pa

from promptmill.schemas.inputs import ROLES, STEERING, Role

Kind = Literal["identity", "variant", "text", "setting", "input", "image", "score", "check", "outcome"]
"""What a column is for: which sample, which variant, its words, how and from what it was drawn, what came of it."""

Only = Literal[
    "inputs", "edits", "steering", "adapters", "controls", "references", "syntax", "labels", "origins", "mask settings"
]
Folder = Literal["data", "rejects", "failures"]
EVERYWHERE: Final[frozenset[Folder]] = frozenset({"data", "rejects", "failures"})
MADE: Final[frozenset[Folder]] = frozenset({"data", "rejects"})


@dataclass(frozen=True)
class Column:
    """`folders` are those whose objects have it; `only` names the jobs that have it, empty for all."""

    name: str
    type: pa.DataType
    kind: Kind
    meaning: str
    folders: frozenset[Folder] = MADE
    only: Only | Literal[""] = ""
    nullable: bool = True

    @property
    def field(self) -> pa.Field:
        return pa.field(self.name, self.type, self.nullable)


# Hugging Face `datasets` decodes the column only in this form: nullable, bytes before path.
IMAGE: Final = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
HASHES: Final = "input_image_sha256"
ORIGIN: Final = "origin"
_TEXT, _WHOLE, _REAL = pa.string(), pa.int32(), pa.float32()
_WIDE: Final = pa.float64()  # as wide as the job's: 0.3 as float32 is another number
_ADAPTER: Final = pa.struct([("name", _TEXT), ("sha", _TEXT), ("weight", _WIDE), ("trigger", _TEXT)])
_NET: Final = pa.struct(
    [
        *(("name", _TEXT), ("revision", _TEXT), ("scale", _WIDE)),
        *(("start", _WIDE), ("end", _WIDE), ("preprocess", _TEXT)),
    ]
)
_NET_OF_KINDS: Final = pa.struct([*_NET, ("mode", _WHOLE)])
_LOOKS: Final = pa.struct([("path", _TEXT), ("weights", _TEXT), ("revision", _TEXT), ("scale", _WIDE)])


def input_column(role: Role) -> str:
    """The column that says where an input was read."""
    return f"input_{role}"


def hashes_by_role(roles: tuple[Role, ...]) -> pa.DataType:
    return pa.struct([pa.field(role, _TEXT) for role in roles])


_REJECTED: Final[frozenset[Folder]] = frozenset({"rejects"})
_FAILED: Final[frozenset[Folder]] = frozenset({"failures"})

COLUMNS: Final[tuple[Column, ...]] = (
    Column("sample_id", _TEXT, "identity", "names this image: prompt, setting and sample index", EVERYWHERE, "", False),
    Column("prompt_id", _TEXT, "identity", "names the prompt", EVERYWHERE, nullable=False),
    Column("reason", _TEXT, "outcome", "`not_selected`, `below_min`, `no_score` or a flag such as `nsfw`", _REJECTED),
    Column("error_kind", _TEXT, "outcome", "what kind of error it was", _FAILED),
    Column("message", _TEXT, "outcome", "what the error said", _FAILED),
    Column("attempts", _WHOLE, "outcome", "how often it was tried", _FAILED),
    Column("image", IMAGE, "image", "encoded bytes and file name"),
    Column("caption", _TEXT, "text", "text the image is scored against", EVERYWHERE),
    Column("prompt", _TEXT, "text", "text the image was made from", EVERYWHERE),
    Column("negative_prompt", _TEXT, "text", "what the image should not show", EVERYWHERE),
    Column("sample_index", _WHOLE, "identity", "number of the image among those of its prompt and setting", EVERYWHERE),
    Column("variant", _TEXT, "variant", "swept settings as JSON", EVERYWHERE),
    Column("seed", pa.int64(), "identity", "start of the noise", EVERYWHERE),
    Column("model", _TEXT, "setting", "model path or hub id", EVERYWHERE),
    Column("model_revision", _TEXT, "setting", "commit, or hash of the weights", EVERYWHERE),
    Column("pipeline_class", _TEXT, "setting", "diffusers pipeline"),
    Column("scheduler", _TEXT, "setting", "diffusers scheduler"),
    Column("dtype", _TEXT, "setting", "precision of the weights"),
    Column("num_inference_steps", _WHOLE, "setting", "denoising steps"),
    Column("guidance_scale", _REAL, "setting", "classifier-free guidance"),
    Column("width", _WHOLE, "setting", "pixels"),
    Column("height", _WHOLE, "setting", "pixels"),
    Column("clip_score", _REAL, "score", "cosine similarity of image and caption by the first score"),
    Column("scores", pa.struct([("clip", _REAL)]), "score", "all scores by name"),
    Column("image_sha256", _TEXT, "check", "of the encoded bytes"),
    Column("image_phash", _TEXT, "check", "64-bit perceptual hash in hex"),
    Column("flags", pa.list_(_TEXT), "check", "such as `prompt_truncated`"),
    Column("task", _TEXT, "input", "text-to-image, image-to-image, inpainting or edit", EVERYWHERE, "inputs"),
    Column("strength", _WIDE, "input", "how much of the image is drawn anew, 0 to 1", EVERYWHERE, "inputs"),
    Column(
        HASHES, hashes_by_role(ROLES), "input", "SHA-256 of each input image's bytes, by role", EVERYWHERE, "inputs"
    ),
    *(Column(input_column(role), _TEXT, "input", "where it was read", EVERYWHERE, "inputs") for role in ROLES),
    Column("image_guidance_scale", _WIDE, "setting", "how closely an edit keeps to its image", EVERYWHERE, "edits"),
    *(Column(name, _WIDE, "setting", f"`{name}`, where its row says it", EVERYWHERE, "steering") for name in STEERING),
    Column("adapters", pa.list_(_ADAPTER), "setting", "adapters that it was drawn with", EVERYWHERE, "adapters"),
    Column("controls", pa.list_(_NET), "setting", "ControlNets that it was drawn with", EVERYWHERE, "controls"),
    Column("ip_adapter", _LOOKS, "setting", "IP-Adapter that it was drawn with", EVERYWHERE, "references"),
    Column("prompt_written", _TEXT, "input", "the prompt as its file has it", EVERYWHERE, "syntax"),
    Column("label", pa.int64(), "input", "number of the class that was asked for", EVERYWHERE, "labels"),
    Column("label_name", _TEXT, "input", "name of the class that was asked for", EVERYWHERE, "labels"),
    Column("row_settings", _TEXT, "input", "settings that the prompt's own line says, as JSON", EVERYWHERE, "syntax"),
    Column(ORIGIN, _TEXT, "input", "`edited_from_real` or `edited_from_synthetic`", EVERYWHERE, "origins"),
    Column("mask_blur", _WIDE, "setting", "pixels by which the mask's edge was blurred", EVERYWHERE, "mask settings"),
    Column(
        "mask_crop", _WHOLE, "setting", "pixels beside the mask that were drawn with it", EVERYWHERE, "mask settings"
    ),
)
"""Version 1, in the order of the objects: columns are added, never changed. The source's own columns follow."""

_BY_NAME: Final = {column.name: column for column in COLUMNS}


def columns_in(folder: Folder) -> list[pa.Field]:
    """The fields that every object below the folder has."""
    return [column.field for column in COLUMNS if folder in column.folders and not column.only]


def columns_only(jobs: Only) -> list[pa.Field]:
    """The fields that jobs of this sort have besides, in every kind of object."""
    return [column.field for column in COLUMNS if column.only == jobs]


def with_modes(field: pa.Field) -> pa.Field:
    """`controls` of a dataset with a union ControlNet: each with the number of the kind of maps that it was given."""
    return field.with_type(pa.list_(_NET_OF_KINDS))


def named(*names: str) -> tuple[str, ...]:
    """The names as they are. Raises KeyError for one that no column has, so that no list of columns goes stale."""
    return tuple(_BY_NAME[name].name for name in names)


def of_kind(*kinds: Kind) -> tuple[str, ...]:
    """Names of the columns of these kinds that every job has."""
    return tuple(column.name for column in COLUMNS if column.kind in kinds and not column.only)


def own_columns(schema: pa.Schema, more: Collection[Only] | None = None) -> dict[str, Column]:
    """Of the columns of a written object those that are ours, by name; the others are the source's.

    `more` says which sorts of job it is of; without it a number `control_scale` of the source's own looks like ours.
    """
    read_so = all(name in schema.names for name in named("prompt_written", "row_settings"))
    with_labels = all(name in schema.names for name in named("label", "label_name"))
    with_inputs = HASHES in schema.names and pa.types.is_struct(schema.field(HASHES).type)
    found = {}
    for field in schema:
        column = _BY_NAME.get(field.name)
        if column is None or (column.only in ("inputs", "origins") and not with_inputs):
            continue
        if column.only and more is not None and column.only not in more:
            continue
        if (column.only == "syntax" and not read_so) or (column.only == "labels" and not with_labels):
            continue
        # A source may have a column `controls` of its own; `scores`, `seed` and the hashes by role vary with the job.
        types = (column.type, with_modes(field).type)
        if not column.only or field.type in types or field.name == HASHES:
            found[column.name] = column
    return found
