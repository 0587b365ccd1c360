"""What commands answer: the objects that `--json` prints and that `import promptmill` returns.

Their JSON Schemas are published in `results.schema.json`. Fields are added, never changed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from promptmill.schemas.operations import (
    DeleteResult,
    DoctorResult,
    Estimate,
    JobsResult,
    ProbeResult,
    RunsResult,
    SubmitResult,
    WatchResult,
)
from promptmill.schemas.result import Result, without_nones

IfRunning = Literal["join", "wait", "exit"]
"""What a run does where another one makes the same dataset already."""


@dataclass(frozen=True)
class ToldProblem:
    """One of several that a command found; all but `hint` are null where a library says it in its own words."""

    where: str | None = None
    expected: str | None = None
    got: str | None = None
    hint: str | None = None


@dataclass(frozen=True)
class ErrorResult(Result):
    """What any command prints where it fails. `error` is the kind, `exit_code` the process's own."""

    error: str
    message: str
    problems: list[ToldProblem]
    exit_code: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self, dict_factory=without_nones)


@dataclass(frozen=True)
class InitResult(Result):
    """`written` are paths of files."""

    written: list[str]


@dataclass(frozen=True)
class MadeCounts:
    samples: int
    kept: int
    rejected: int
    failed: int


@dataclass(frozen=True)
class ValidateResult(Result):
    ok: bool
    name: str
    fingerprint: str
    suite: dict[str, Any] | None
    notices: list[str]


@dataclass(frozen=True)
class PlanResult(Result):
    """`task` is text-to-image, image-to-image or inpainting, `bytes_estimated` of all data objects.

    `axes` are the numbers of values of each sweep axis.
    """

    name: str
    output: str
    fingerprint: str
    task: str
    prompts: int
    suite: dict[str, Any] | None
    variants: int
    samples: int
    shards: int
    shards_done: int
    bytes_estimated: int
    models: list[dict[str, Any]]
    axes: dict[str, int]
    variants_excluded: int
    notices: list[str]
    estimate: Estimate | None = None


@dataclass(frozen=True)
class DatasetResult(Result):
    """`samples` to `failed` count all that is there."""

    name: str
    output: str
    fingerprint: str
    samples: int
    kept: int
    rejected: int
    failed: int
    shards: int
    shards_done: int


@dataclass(frozen=True)
class RunResult(DatasetResult):
    """`made`, `seconds` and what follows are of this run alone.

    `left_out` are nodes and devices that failed while others worked: `name`, `address`, `cause`. `running_elsewhere` is
    the host of the run, and since when, for whose sake this one made nothing (`--if-running exit`). `spent` is
    what the dataset cost by now, null without `compute.price_per_hour`; `over_budget` says that `compute.max_cost`
    ended the run, which ends with 2. `short` are classes that lack images: `name`, `asked`, `kept`, `made`, the
    commonest `reason`, `variant`. `curated` is what the job's `curate` made, null without it and where the run was
    stopped.
    """

    suite: dict[str, Any] | None
    made: MadeCounts
    seconds: float
    images_per_second: float
    model_loads: int
    interrupted: bool
    left_out: list[dict[str, str]]
    running_elsewhere: str | None = None
    spent: float | None = None
    over_budget: str | None = None
    short: list[dict[str, Any]] = field(default_factory=list)
    curated: CurateResult | None = None


@dataclass(frozen=True)
class RunState:
    """What the last run said of itself. `state` is running, stopped, failed, or dead where it fell silent, `since` the
    local time at which it began or ended, `silent_s` the age of its last word. Null is what it did not say."""

    since: str | None
    state: str
    error: str | None
    host: str | None
    process: int | None
    images_per_second: float | None
    eta_s: float | None
    workers: int | None
    silent_s: float


@dataclass(frozen=True)
class StatusResult(DatasetResult):
    """`samples_asked_for` is what the plan asks for, `failures` counts failed samples by kind. `run` is null where none
    has said anything."""

    samples_asked_for: int
    complete: bool
    run: RunState | None
    last_shard: str | None
    last_shard_at: str | None
    failures: dict[str, int]


@dataclass(frozen=True)
class VerifyResult(DatasetResult):
    """`ok` says that nothing is wrong and nothing is missing; after a repair, as it is then.

    `spared` are orphans that a repair left since they are young, `strangers` what is not Promptmill's and was left too.
    """

    ok: bool
    samples_asked_for: int
    missing_shards: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    spared: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    images_checked: int = 0


@dataclass(frozen=True)
class VersionChange:
    then: str
    now: str


@dataclass(frozen=True)
class ReproduceResult(Result):
    """`identical` is None where the dataset stores no image of the sample; `max_difference` is of 255.

    `with_mates` says that it was made in the batch it was made in then.
    """

    sample_id: str
    prompt: str
    seed: int
    file: str
    verdict: str
    identical: bool | None
    max_difference: int | None
    psnr_db: float | None
    with_mates: bool
    versions: dict[str, str]
    versions_then: dict[str, str]
    other_versions: dict[str, VersionChange]


@dataclass(frozen=True)
class SelectResult(Result):
    """`object` is the view that was written. `without_image` are samples that a run rejected and of which it kept no
    image: they cannot be chosen."""

    name: str
    object: str
    candidates: int
    kept: int
    rejected: int
    without_image: int


@dataclass(frozen=True)
class Calibration:
    """What images known not to be copies said: `images`, each held against `against` others.

    `most_alike` is their largest cosine, `least_different` their least difference of looks; `rate` the share of images
    like them that may be taken for a copy.
    """

    images: int
    against: int
    most_alike: float
    least_different: float
    rate: float


@dataclass(frozen=True)
class CurateResult(DatasetResult):
    """`input_fingerprint` is that of the dataset that was curated. `reasons` count what was rejected now, by kind.

    Copies have a cosine above `cosine`, null where none decides, or looks less different than `difference`. `short` are
    classes with fewer images than `per_class`, and how many.
    """

    input_fingerprint: str
    reasons: dict[str, int]
    cosine: float | None
    difference: float | None
    calibration: Calibration | None
    seconds: float
    short: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ExportResult(Result):
    """`folders` are those of the sweep's variants, the root alone without one. `without_image` are rejected samples
    whose image the dataset does not store. `splits` counts the images of each, empty for a suite's layout; `pushed` is
    where the files were sent, `signed` how many images got a C2PA manifest."""

    out: str
    images: int
    prompts: int
    folders: list[str]
    without_image: int
    splits: dict[str, int] = field(default_factory=dict)
    files: int | None = None
    pushed: str | None = None
    signed: int | None = None


RESULTS = {
    "error": ErrorResult,
    "init": InitResult,
    "validate": ValidateResult,
    "plan": PlanResult,
    "probe": ProbeResult,
    "run": RunResult,
    "retry": RunResult,
    "status": StatusResult,
    "watch": WatchResult,
    "verify": VerifyResult,
    "submit": SubmitResult,
    "jobs": JobsResult,
    "runs": RunsResult,
    "delete": DeleteResult,
    "reproduce": ReproduceResult,
    "select": SelectResult,
    "curate": CurateResult,
    "export": ExportResult,
    "doctor": DoctorResult,
}
"""By command; `error` for all of them."""
