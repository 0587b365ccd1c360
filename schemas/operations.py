"""What commands answer that look after datasets, jobs and nodes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from promptmill.schemas.result import Result, without_nones

DatasetState = Literal["complete", "running", "stopped", "failed", "dead", "unfinished", "deleting", "unreadable"]


@dataclass(frozen=True)
class DatasetRow:
    """One dataset below a prefix. Null is what cannot be said; `problem` says why it is unreadable.

    `state` is complete where every shard is there and no run is at work, else what the last run said, unfinished where
    none said anything. `bytes` and `objects` are all that lies there. `device_hours` are hours during which workers
    had shards in hand, `cost` these by the price.
    """

    url: str
    name: str | None
    state: DatasetState
    samples_asked_for: int | None = None
    samples: int | None = None
    kept: int | None = None
    rejected: int | None = None
    failed: int | None = None
    shards: int | None = None
    shards_done: int | None = None
    bytes: int | None = None
    objects: int | None = None
    device_hours: float | None = None
    cost: float | None = None
    changed_at: str | None = None
    problem: str | None = None


@dataclass(frozen=True)
class RunsResult(Result):
    """`unread` is what could not be looked into."""

    prefix: str
    datasets: list[DatasetRow]
    unread: list[str]


@dataclass(frozen=True)
class DeleteResult(Result):
    """`objects` were deleted, of so many `bytes`; `left` are strangers that lay beside them, and stay."""

    name: str
    output: str
    objects: int
    bytes: int
    left: list[str]


@dataclass(frozen=True)
class JobRow:
    """A job on a cluster. `state` is Ray's word: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED. Times are local."""

    id: str
    name: str
    state: str
    output: str | None = None
    began_at: str | None = None
    ended_at: str | None = None
    exit_code: int | None = None
    message: str | None = None


@dataclass(frozen=True)
class SubmitResult(Result):
    """`exit_code` is that of `promptmill run` on the cluster, `run` what it printed with `--json`; both null for
    `--detach`. `uploaded_bytes` went there, of which `prompt_files` are prompts."""

    job: JobRow
    address: str
    uploaded_bytes: int
    prompt_files: int
    exit_code: int | None = None
    run: dict[str, Any] | None = None


@dataclass(frozen=True)
class JobsResult(Result):
    address: str
    jobs: list[JobRow]


@dataclass(frozen=True)
class WatchResult(Result):
    """`address` is that of the page, with its token where it has one."""

    output: str
    address: str


@dataclass(frozen=True)
class Gpu:
    name: str
    memory_bytes: int


@dataclass(frozen=True)
class Device:
    """`kind` is cuda, cpu, or none where torch cannot be imported, with the `error`; what does not apply is absent."""

    kind: str
    error: str | None = None
    threads: int | None = None
    gpus: list[Gpu] | None = None
    bfloat16: bool | None = None


@dataclass(frozen=True)
class NodeReport:
    """A node of the cluster, fit where `problems` is empty. `clock_s` is how far its clock is ahead of this machine's.

    What a node did not say is absent.
    """

    name: str
    address: str
    fit: bool
    problems: list[str]
    gpus: list[Gpu]
    packages: dict[str, str] | None = None
    python: str | None = None
    cpus: int | None = None
    memory_free_bytes: int | None = None
    disk_free_bytes: int | None = None
    clock_s: float | None = None
    storage: str | None = None


@dataclass(frozen=True)
class DoctorResult(Result):
    """`problems` is empty on a machine that is ready, `storage` absent where none was to be tried.
    `nodes` are those of a cluster, of which all else is not said: then this machine is whoever asks.

    `packages` are versions, `credentials` names of variables.
    """

    python: str
    packages: dict[str, str]
    cpus: int | None
    memory_free_bytes: int
    disk_free_bytes: int
    device: Device
    credentials: list[str]
    storage: str | None = None
    problems: list[str] = field(default_factory=list)
    nodes: list[NodeReport] | None = None

    def as_json(self) -> dict[str, Any]:
        whole = asdict(self, dict_factory=without_nones)
        return {**whole, "cpus": self.cpus}


@dataclass(frozen=True)
class Estimate:
    """What is still to be made would take, with so many workers; `source` says whose speed that is.

    `cost` is by the price of a device. All are null where the price is.
    """

    source: str
    images_per_second: float
    workers: int
    images: int
    hours: float
    device_hours: float
    price_per_hour: float | None
    cost: float | None
    cost_per_thousand: float | None


@dataclass(frozen=True)
class ProbedBatch:
    """`memory_bytes` is the peak of the device's memory, on a CPU that of the process."""

    batch_size: int
    images_per_second: float
    memory_bytes: int


@dataclass(frozen=True)
class ProbeResult(Result):
    """What one worker does on `device`; the first of `batches` has the job's own size. `ended_by` is what ended the
    search for the largest batch: memory, time, no_faster or most. `settings` is a hash of all that the speed hangs on.
    """

    name: str
    device: str
    settings: str
    load_seconds: float
    images_per_second: float
    memory_bytes: int
    largest_batch: int
    ended_by: str
    batches: list[ProbedBatch]
    bytes_per_image: int
    file: str | None = None
