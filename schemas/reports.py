"""What `score`, `report` and `compare` answer; `summary.json` is that of the last two. Fields are only added."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from promptmill.schemas.coverage import (
    ClassSummary,
    GroupCoverage,
    NearestPair,
    ReferenceTable,
    ReferenceVariant,
    ValueSummary,
)
from promptmill.schemas.proof import Proof
from promptmill.schemas.result import Result, without_nones

Interval = list[float | int | None]
"""Mean, the ends of its 95 % interval (null from one prompt), and the number of prompts."""

Difference = list[float | int | None]
"""As `Interval`, paired by prompt, and the p of no difference."""


@dataclass(frozen=True)
class VariantSummary:
    """One variant. `scores` are means over all its images, `kept_scores` over those that were kept."""

    index: int
    name: str
    values: dict[str, Any]
    kept: int
    rejected: int
    failed: int
    scores: dict[str, float | None]
    kept_scores: dict[str, float | None]
    seconds_per_image: float | None
    seconds_deviation: float | None


@dataclass(frozen=True)
class DeviceFacts:
    """What one kind of device made, and what that cost; `name` is empty where no device acted."""

    name: str
    workers: int
    images: int
    kept: int
    worker_seconds: float
    images_per_worker_second: float | None
    cost: float | None
    cost_per_thousand_kept: float | None


@dataclass(frozen=True)
class RunFacts:
    """Seconds are sums over all workers; stages of neighbouring shards overlap, so they exceed the wall time."""

    wall_seconds: float | None
    price_per_hour: float | None
    receipts: int
    images: int
    attempts_repeated: int
    model_loads: int
    devices: list[str]
    stage_seconds: dict[str, float]
    shard_seconds: float
    stage_shares: dict[str, float]
    versions: list[dict[str, str]]
    workers: int
    images_per_second: float | None
    worker_seconds: float | None
    device_busy_share: float | None
    images_per_device_hour: float | None
    cost: float | None
    cost_per_thousand: float | None
    cost_per_thousand_kept: float | None = None
    stage_costs: dict[str, float] = field(default_factory=dict)
    by_device: list[DeviceFacts] = field(default_factory=list)


@dataclass(frozen=True)
class MainEffect:
    """By value of an axis the mean over all other variants; `differences` to the first value, by its place "0".

    `range` is the distance of the best to the worst value.
    """

    means: list[Interval]
    differences: dict[str, list[Difference]]
    range: float | None


@dataclass(frozen=True)
class MetricSummary:
    """`means` of all variants; `differences[i][j]` is variant j − variant i. `main_effects` are by axis."""

    means: list[Interval]
    differences: list[list[Difference]]
    main_effects: dict[str, MainEffect]


@dataclass(frozen=True)
class Correlation:
    """Spearman's, over images."""

    a: str
    b: str
    spearman: Interval


@dataclass(frozen=True)
class ScoreResult(Result):
    """`images` to `mean` are of what was scored now, None where nothing was asked for; `done_before` counts objects of
    scores that were there already. `mean` is over finite values, None where there are none. `unknown` are rows of
    `--from` that name no image of the dataset.

    From `reference` on: None without one. `features` is the open_clip model that looked at both, `dimensions` how many
    numbers it gives an image. `left_out` images of the dataset, and `reference_left_out` of the other, do not decode.
    """

    url: str
    images: int | None = None
    left_out: int | None = None
    objects: int | None = None
    done_before: int | None = None
    mean: dict[str, float | None] | None = None
    unknown: int | None = None
    reference: str | None = None
    reference_images: int | None = None
    reference_left_out: int | None = None
    selection: str | None = None
    features: str | None = None
    features_revision: str | None = None
    dimensions: int | None = None
    cells: list[ReferenceVariant] | None = None
    groups: list[GroupCoverage] | None = None
    groups_left_out: dict[str, int] | None = None
    closest: list[NearestPair] | None = None

    def as_json(self) -> dict[str, Any]:
        """Without what was not asked for."""
        return without_nones(list(asdict(self).items()))


@dataclass(frozen=True)
class SelectionFacts:
    """A view: of what it `keep`s the best, `by` which scores, above which (`least`), and how many images it has."""

    name: str
    kept: int
    keep: int | None = None
    by: list[str] = field(default_factory=list)
    least: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Overview(Result):
    """`made` counts samples that ended, `samples` those asked for. `best` and `worst` are by the first score."""

    name: str
    url: str
    fingerprint: str
    promptmill: str
    finished: bool
    samples: int
    kept: int
    rejected: int
    failed: int
    made: int
    prompts: int
    shards: int
    shards_done: int
    failures: dict[str, int]
    rejects: dict[str, int]
    run: RunFacts
    best: list[dict[str, Any]]
    worst: list[dict[str, Any]]
    problems: list[str]


@dataclass(frozen=True)
class Summary(Overview):
    """`selection` is the view through which the dataset is seen, null for what the run kept."""

    metrics: dict[str, MetricSummary]
    selection: SelectionFacts | None


@dataclass(frozen=True)
class ReportResult(Summary):
    cells: list[VariantSummary]
    correlations: list[Correlation]
    references: list[ReferenceTable]
    classes: list[ClassSummary] = field(default_factory=list)
    attributes: list[ValueSummary] = field(default_factory=list)
    attributes_left_out: dict[str, int] = field(default_factory=dict)
    proofs: list[Proof] = field(default_factory=list)


@dataclass(frozen=True)
class ComparedVariant:
    """A variant of one run, on the prompts that both have; `settings` are those that ran."""

    name: str
    values: dict[str, Any]
    settings: dict[str, Any]
    kept: int
    rejected: int
    failed: int
    seconds: float | None
    seconds_deviation: float | None
    url: str


@dataclass(frozen=True)
class VariantAnswer:
    """One variant that both runs have: its mean in each, by run, and B − A; `holm` is p raised for all variants."""

    name: str
    runs: dict[str, Interval]
    difference: Difference
    holm: float | None


@dataclass(frozen=True)
class MetricAnswer:
    """Over the variants that both runs have (`settings` of them) together; where there are none, over the runs."""

    runs: dict[str, Interval]
    difference: Difference
    settings: int
    cells: list[VariantAnswer]


@dataclass(frozen=True)
class CompareResult(Summary):
    """Of two runs on the prompts that both have. `runs` are their URLs by name; counts are of both together.

    `differences` are fields of the jobs: `field`, and under the name of each run what that has.
    """

    cells: list[ComparedVariant]
    runs: dict[str, str]
    shared_prompts: int
    same_seeds: bool
    answers: dict[str, MetricAnswer]
    differences: list[dict[str, str]]

    def as_json(self) -> dict[str, Any]:
        """With the mean of each run also under the run's own name, where it stood first."""
        shown = asdict(self)
        for answer in shown["answers"].values():
            for one in (answer, *answer["cells"]):
                one |= {run: mean for run, mean in one["runs"].items() if run not in one}
        return shown


REPORTS = {"score": ScoreResult, "report": ReportResult, "compare": CompareResult}
"""By command."""
