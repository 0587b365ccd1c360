"""What flows: a sample is asked for, a shard is a block of samples, a plan is all shards by arithmetic."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict

from promptmill.schemas.errors import SampleError
from promptmill.schemas.generation import Generation
from promptmill.schemas.inputs import Input, Role
from promptmill.schemas.origin import Lineage
from promptmill.schemas.resolved import ResolvedModel

STAGED = "staged:"
SELECTION = ".selection"
"""How the name of a file of prompts ends that is the view of a dataset."""
DESCRIPTION = ".description"
"""And that of a `metadata.parquet` whose columns are named as Hugging Face names them."""
LEAST_DIGITS = 6
MOST_SHARDS = 10_000_000
"""A listing of so many objects takes hours; larger datasets want larger shards."""


@dataclass(frozen=True)
class SourceFile:
    """A file of prompts. `name` is its path relative to the source and enters the prompt ids.

    `path` is where it is read; it begins with `STAGED` where that is a Parquet copy below the output. `folder` is then
    where the original lies, if rows name other files relative to it. `etag` is a hash of what was read to plan: a text
    whole, of Parquet the footer. `digest` is over every byte at `path`, None for a remote object, of which `version` is
    what its store says. Plans of older versions have neither. Of a file that grew, a part has the `rows` from `first`
    on; `whole` is how many there are where that part is still to be taken out of it, or lies among others at `path`.
    """

    name: str
    path: str
    size_bytes: int
    rows: int
    etag: str | None = None
    folder: str | None = None
    digest: str | None = None
    version: str | None = field(default=None, compare=False)
    first: int = 0
    whole: int | None = field(default=None, compare=False)


@dataclass(frozen=True)
class PythonScore:
    """A score of the user's own, as its class describes it. `path` is what the job file says.

    `version` is the class's own word for how it computes: another one is another dataset. `on_device` says that it is
    computed in batches while the device is held, and not beside it.
    """

    path: str
    names: tuple[str, ...]
    version: str
    lower_is_better: tuple[str, ...] = ()
    on_device: bool = False
    scope: Literal["image", "group"] = "image"


@dataclass(frozen=True)
class Variant:
    """One variant of the sweep. `values` holds the swept fields only, as written to the record's `variant`."""

    index: int
    values: dict[str, Any]
    model: ResolvedModel
    generation: Generation


@dataclass(frozen=True)
class Segment:
    """Prompts that came to the job together: first the source, later what `run --extend` and `retry` added.

    A row of a `retry` segment is one sample of the fixed `variant`; otherwise a row is a prompt, for all variants.
    A `round` has places instead of files (`planning/rounds.py`): `lacking` says how many images each class still needs,
    by its number. `ends` are the rows at which the shards of a retry end: between two prompts, since of each prompt's
    samples the best are kept. `lineage` is that of its own files, None where it is that of the source.
    """

    kind: Literal["source", "extend", "retry", "round"]
    files: tuple[SourceFile, ...]
    prompts: int
    first_shard: int
    shards: int
    variant: int | None = None
    ends: tuple[int, ...] = ()
    round: int = 0
    lacking: tuple[tuple[int, int], ...] = ()
    lineage: Lineage | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Place:
    """Prompt `prompt` of class `label`, counted from 0, images `first` to `first + images` of it, of which `share` may
    be kept."""

    label: int
    prompt: int
    first: int
    images: int
    share: int


@dataclass(frozen=True)
class Shard:
    """Rows `start` to `stop` of a segment, for one variant: the content of `data/part-{number}.parquet`.

    `digits` is how many the number has in names: as many for all shards of a segment, so that names sort as numbers do.
    """

    number: int
    segment: int
    variant: int
    start: int
    stop: int
    digits: int = LEAST_DIGITS

    @property
    def part(self) -> str:
        return f"part-{self.number:0{self.digits}d}"

    @property
    def data_key(self) -> str:
        return f"data/{self.part}.parquet"

    @property
    def receipt_key(self) -> str:
        return f"receipts/{self.part}.json"


@dataclass(frozen=True)
class Sample:
    """One image that is asked for. `row` is the position of its prompt in the shard, from 0.

    `inputs` are the images it is drawn from, by role; none for a job that draws from text alone. `adapters` names those
    of the model that its row chooses, None for all. `error` says why the row cannot be used. `adapter_weights` and
    `settings`, an object of JSON, are what its row sets itself, `steering` those of STEERING; `written` is the prompt
    as its file has it, where texts have weights in them (`schemas/emphasis.py`).
    """

    sample_id: str
    prompt_id: str
    row: int
    sample_index: int
    seed: int
    prompt: str
    negative_prompt: str
    caption: str
    inputs: Mapping[Role, Input] = field(default_factory=dict)
    strength: float | None = None
    adapters: tuple[str, ...] | None = None
    adapter_weights: tuple[tuple[str, float], ...] = ()
    settings: str | None = None
    written: str | None = None
    steering: Mapping[str, float] = field(default_factory=dict)
    label: int | None = None
    error: SampleError | None = None

    def drawn_with(self, generation: Generation) -> Generation:
        """The settings of its variant, with those of its row."""
        return generation if self.settings is None else _with(generation, self.settings)


@lru_cache(1024)
def _with(generation: Generation, settings: str) -> Generation:
    return generation.model_copy(update=json.loads(settings))


@dataclass(frozen=True)
class Counts:
    samples: int = 0
    kept: int = 0
    rejected: int = 0
    failed: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.samples + other.samples,
            self.kept + other.kept,
            self.rejected + other.rejected,
            self.failed + other.failed,
        )

    @property
    def conserved(self) -> bool:
        return self.samples == self.kept + self.rejected + self.failed


@dataclass(frozen=True)
class Sidecar:
    """A side object as its shard's proof describes it; in the proofs of older versions by its name alone."""

    name: str
    rows: int | None = None
    size_bytes: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class CommitRecord:
    """Stored under the key `promptmill` in the metadata of each data object: proof that the shard is done.

    `sidecars` are the `side_objects`, described. `versions` are those that acted, by name; empty in older objects.
    `labels` is how many were kept of each class, by its number; empty where rows have no label.
    """

    fingerprint: str
    shard: Shard
    counts: Counts
    side_objects: tuple[str, ...]
    sidecars: tuple[Sidecar, ...] = field(default=(), compare=False)
    versions: Mapping[str, str] = field(default_factory=dict, compare=False)
    labels: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ShardStats:
    """What a shard cost; for reports and never for correctness. Stages in seconds, `began` in seconds since 1970.

    `batches` are images and seconds of generating them, in order; `rejected` and `failed` how many by reason and kind.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    shard: int
    counts: Counts
    seconds: dict[str, float] = field(default_factory=dict)
    worker: str = ""
    device: str = ""
    attempts: int = 1
    data_bytes: int = 0
    already_done: bool = False
    model_loads: int = 0
    began: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)
    batches: tuple[tuple[int, float], ...] = ()
    rejected: Mapping[str, int] = field(default_factory=dict)
    failed: Mapping[str, int] = field(default_factory=dict)
