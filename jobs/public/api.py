"""The functions of `import promptmill`. The command line calls the same ones below."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from promptmill.opened import Dataset
from promptmill.pipeline.display import shown
from promptmill.pipeline.execution.progress import ProgressState
from promptmill.pipeline.jobfile.dates import dated_place
from promptmill.schemas.events import Pulse
from promptmill.schemas.job import Job
from promptmill.schemas.plan import Counts, Shard, ShardStats
from promptmill.schemas.reports import CompareResult, ReportResult, ScoreResult
from promptmill.schemas.results import (
    IfRunning,
    PlanResult,
    RunResult,
    SelectResult,
    StatusResult,
    VerifyResult,
)

log = logging.getLogger("promptmill")

JobLike = Job | Mapping[str, Any] | str | PathLike[str]
"""A checked job, its fields as in the job file, or the path of one."""


def load_job(job: JobLike, overrides: Sequence[str] = ()) -> Job:
    """Read and check a job. `overrides` are as for `--set`: `["generation.guidance_scale=2.5"]`.

    Raises JobError with every problem found.

    >>> load_job({"name": "small", "output": {"url": "out"}, "prompts": {"source": "a.txt"}}).name
    'small'
    """
    from promptmill.pipeline.jobfile import reader

    if isinstance(job, Job):
        return reader.parse_job(_as_text(job.model_dump(mode="json", exclude_unset=True)), "job", overrides)
    if isinstance(job, Mapping):
        return reader.parse_job(_as_text(job), "job", overrides)
    return reader.load_job(Path(job), overrides)


def plan(job: JobLike, *, extend: bool = False, allow_large_sweep: bool = False) -> PlanResult:
    """What a run would make, and what is there already; with `extend` also of prompts that are new in the source.

    Starts and writes nothing.

    Raises JobError where the job or what it names is wrong, OutputMismatchError where the output is another job's.
    """
    from promptmill.jobs import plan as command

    return command.plan(load_job(job), allow_large_sweep, extend)[1]


@dataclass(frozen=True)
class Progress:
    """How far a run is; `samples` counts those of the whole dataset. `eta_s` is None until a rate is known."""

    samples: int
    done: int
    kept: int
    rejected: int
    failed: int
    shards: int
    shards_done: int
    workers: int
    images_per_second: float
    eta_s: float | None


def run(
    job: JobLike,
    *,
    in_process: bool = False,
    address: str | None = None,
    extend: bool = False,
    allow_large_sweep: bool = False,
    if_running: IfRunning = "join",
    on_progress: Callable[[Progress], object] | None = None,
) -> RunResult:
    """Make the dataset, or continue where it stopped.

    On Ray: the cluster at `address` or `RAY_ADDRESS`, else one that is started on this machine; `in_process` does
    without. Ctrl-C once finishes the shards in hand and returns with `interrupted` set, twice raises
    KeyboardInterrupt; the same call goes on. Where another run makes this dataset already, `if_running` says whether to
    begin at the other end, to wait for it, or to return with `running_elsewhere`. Notices go to the logger
    `promptmill`. `on_progress` is called on this thread, at most five times a second.

    Raises JobError before anything is started or written, StorageError and ClusterError later.
    """
    from promptmill.jobs import run as command
    from promptmill.jobs.outcome import result

    progress = _CallbackProgress(on_progress)
    planned, summary = command.run(
        load_job(job),
        address=address,
        in_process=in_process,
        extend=extend,
        allow_large_sweep=allow_large_sweep,
        display=progress,
        if_running=if_running,
    )
    return result(planned, summary)


def status(url: str | PathLike[str]) -> StatusResult:
    """How far a dataset is; from anywhere, while it runs or not. Raises JobError where there is none."""
    from promptmill.jobs import status as command

    return command.status(_place(url))


def verify(url: str | PathLike[str], *, deep: bool = False, repair: bool = False) -> VerifyResult:
    """Whether every sample asked for is there exactly once. `deep` decodes every image, `repair` tidies up."""
    from promptmill.jobs import verify as command

    return command.verify(_place(url), deep, repair)


def retry(
    url: str | PathLike[str],
    *,
    in_process: bool = False,
    address: str | None = None,
    trust_dataset: bool = False,
    job: str | None = None,
) -> RunResult:
    """Make failed samples again, into new shards. `job` is the path of your own job file, or `trust_dataset` says that
    the models which the dataset names may be loaded.

    Raises as `run` does.
    """
    from promptmill.jobs.outcome import result
    from promptmill.jobs.retry import retry as again

    made = again(_place(url), address=address, in_process=in_process, trust_dataset=trust_dataset, job=job)
    return result(*made)


def report(
    url: str | PathLike[str],
    *,
    price_per_hour: float | None = None,
    single_file: bool = False,
    selection: str | None = None,
) -> ReportResult:
    """Build `report/` again from what is there, and return its numbers. Raises JobError where there is no dataset."""
    from promptmill.jobs import report as command

    return command.report(_place(url), price_per_hour, single_file, selection)


def score(
    url: str | PathLike[str],
    metric: Sequence[str] = (),
    *,
    again: bool = False,
    reference: str | None = None,
    features: str | None = None,
    from_file: str | None = None,
    selection: str | None = None,
    threads: int = 1,
) -> ScoreResult:
    """Add scores to a dataset, beside it: metrics as `--metric` names them, distances to a `reference` set by the
    open_clip model `features`, or those that others gave in a file.

    Raises JobError for what cannot be scored so.
    """
    from promptmill.jobs import score as command

    return command.score(_place(url), metric, None, again, threads, reference, features, from_file, selection=selection)


def select(
    url: str | PathLike[str],
    *,
    keep: int | None = None,
    by: Sequence[str] = (),
    least: Mapping[str, float] | None = None,
    name: str | None = None,
) -> SelectResult:
    """Select again among the images that are there, as a view; `least` are scores below which an image is left out.

    Raises JobError for a score that the dataset does not have.
    """
    from promptmill.jobs import select as command

    return command.select(_place(url), keep, by, [f"{score}={value!r}" for score, value in (least or {}).items()], name)


def compare(
    url_a: str | PathLike[str],
    url_b: str | PathLike[str],
    out: str | PathLike[str] = "compare",
    *,
    selection: str | None = None,
    selection_b: str | None = None,
) -> CompareResult:
    """Two datasets on the prompts that both have: writes a page to `out` and returns its numbers.

    Raises JobError where one of them is no dataset, or no prompt is in both.
    """
    from promptmill.jobs import compare as command

    return command.compare(_place(url_a), _place(url_b), str(out), selection, selection_b)


def open_dataset(url: str | PathLike[str], *, selection: str | None = None) -> Dataset:
    """The dataset at a folder or URL as it is now, finished or not. Raises JobError where there is none."""
    return Dataset(_place(url), selection)


def _place(url: str | PathLike[str]) -> str:
    return dated_place(str(url))


class _CallbackProgress(ProgressState):
    def __init__(self, callback: Callable[[Progress], object] | None) -> None:
        super().__init__()
        self._callback = callback

    def begin(self, plan: Any, todo: list[Shard], done: Counts) -> None:
        super().begin(plan, todo, done)
        self._tell()

    def shard_done(self, receipt: ShardStats) -> None:
        super().shard_done(receipt)
        self._tell()

    def pulse(self, pulse: Pulse) -> None:
        super().pulse(pulse)
        self._tell()

    def notice(self, text: str) -> None:
        log.warning("%s", shown(text))

    def _tell(self) -> None:
        if self._callback is None:
            return
        total, rate = self.total, self.rate
        eta_s = (self.samples - self.done) / rate if rate > 0 else None
        shards = (self.shards, self.shards_done)
        counts = (total.kept, total.rejected, total.failed)
        self._callback(Progress(self.samples, self.done, *counts, *shards, self.workers, rate, eta_s))


def _as_text(fields: Mapping[str, Any]) -> str:
    import json

    return json.dumps(fields, default=str)
