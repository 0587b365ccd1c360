"""What `promptmill watch` tells its page while a run goes on. Fields are added, never changed."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class LiveNode:
    """A machine that has made shards: how many, by how many processes, and the age of its newest in seconds."""

    node: str
    workers: int
    shards: int
    images: int
    seconds_per_image: float | None
    silent_s: float | None


@dataclass(frozen=True)
class LiveFailure:
    shard: int
    kind: str
    message: str
    prompt: str


@dataclass(frozen=True)
class LiveView:
    """`state` is that of the run: running, stopped, failed, dead, or none where it has said nothing. Counts are of the
    whole dataset, `samples_done` with those of unfinished shards. `cost` is null without a price. `report` names the
    version of the report that is there, empty where none is. `problem` is why this look saw nothing new."""

    name: str
    output: str
    state: str
    since: str | None
    host: str | None
    error: str | None
    samples: int
    samples_done: int
    kept: int
    rejected: int
    failed: int
    shards: int
    shards_done: int
    complete: bool
    images_per_second: float | None
    eta_s: float | None
    workers: int | None
    cost: float | None
    cost_per_thousand: float | None
    report: str
    problem: str = ""
    nodes: list[LiveNode] = field(default_factory=list)
    rejected_by_reason: dict[str, int] = field(default_factory=dict)
    failed_by_kind: dict[str, int] = field(default_factory=dict)
    failures: list[LiveFailure] = field(default_factory=list)


@dataclass(frozen=True)
class LivePicture:
    """A sample of the newest shards. `image` is a small WebP as a data URI, null where the dataset keeps none."""

    sample_id: str
    prompt: str
    note: str
    image: str | None


@dataclass(frozen=True)
class LivePictures:
    """The newest first."""

    kept: list[LivePicture] = field(default_factory=list)
    rejected: list[LivePicture] = field(default_factory=list)
