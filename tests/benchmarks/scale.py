"""A plan over millions of prompts, and a resume that finds thousands of finished shards: seconds and memory."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from rich.table import Table

from tests.benchmarks.compare import Goal
from tests.benchmarks.measure import run_module
from tests.benchmarks.setting import Setting
from tests.benchmarks.variants.mill import job_of

FILES: Final = 100
PLAN_SECONDS: Final = 10
PLAN_BYTES: Final = 500 * 10**6


@dataclass(frozen=True)
class Command:
    """A command in a fresh process; `peak_bytes` is the most memory it ever held (VmHWM)."""

    title: str
    seconds: float
    peak_bytes: int
    printed: dict[str, Any]


def measure_plan(setting: Setting, folder: Path, prompts: int) -> list[Command]:
    """The plan alone, and all that comes before the first worker: plan, claim of the output, list of what is done."""
    source = folder / "prompts"
    source.mkdir()
    rows = prompts // FILES
    table = pa.table({"prompt": [f"a red circle left of a blue square, number {row}" for row in range(rows)]})
    pq.write_table(table, source / "000.parquet")
    for number in range(1, FILES):
        os.link(source / "000.parquet", source / f"{number:03d}.parquet")
    job = _write_job(setting, folder, source / "*.parquet", 256)
    done = [_command(f"plan of {prompts:,} prompts in {FILES} files", "plan", job)]
    done.append(_command(f"run of {prompts:,} prompts, to its first worker", "run", job))
    assert done[0].printed["prompts"] == rows * FILES
    return done


def measure_resume(setting: Setting, folder: Path, finished: int) -> list[Command]:
    """`plan` and `run` up to the first worker where `finished` shards are done and as many are to do."""
    source = folder / "prompts.parquet"
    pq.write_table(pa.table({"prompt": [f"a red circle, number {row}" for row in range(2 * finished)]}), source)
    job = _write_job(setting, folder, source, 1)
    make_shards(job, range(finished, 2 * finished))
    done = [
        _command(f"plan that finds {finished:,} finished shards", "plan", job),
        _command(f"run that finds {finished:,} finished shards, to its first worker", "run", job),
    ]
    assert done[0].printed["shards_done"] == finished
    return done


def make_shards(job_file: Path, numbers: range) -> None:
    """Claim the output of a job with one sample a shard, and put these shards there, all with the same image.

    All numbers must have equally many digits: the bytes of the first are copied and its numbers replaced.
    """
    from promptmill.pipeline.dataset.claim import claim_output
    from promptmill.pipeline.jobfile.reader import load_job
    from promptmill.pipeline.planning.plan import plan_job
    from promptmill.pipeline.storage.store import Store

    plan = plan_job(load_job(str(job_file), ()))
    store = Store(plan.job.output.url)
    plan = claim_output(plan, store)
    first = numbers[0]
    parts = _pieces(_one_shard(plan, store, first), first)
    folder = Path(plan.job.output.url) / "data"
    folder.mkdir()

    def write(number: int) -> None:
        (folder / f"part-{number:06d}.parquet").write_bytes(b"".join(_with_number(parts, number)))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, numbers))


def _one_shard(plan: Any, store: Any, number: int) -> bytes:
    """The data object of a shard, its image encoded for real."""
    import numpy as np

    from promptmill.pipeline.dataset.encode import encode_image
    from promptmill.pipeline.dataset.records import Outcome, RecordWriter, to_parquet
    from promptmill.pipeline.worker.context import WorkerContext
    from promptmill.pipeline.worker.shard import NOTHING, read_work
    from promptmill.schemas.plan import CommitRecord, Counts

    shard = plan.shard(number)
    work = read_work(shard, WorkerContext(plan, store), NOTHING)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    image = encode_image(pixels, "a red circle", plan.job.output)
    writer: RecordWriter = work.writer
    outcome = Outcome(work.ready[0], {"clip": 0.25}, (), 64, 64, image, "image.png")
    return to_parquet(writer.kept([outcome]), CommitRecord(plan.fingerprint, shard, Counts(1, 1), ()))


def _pieces(data: bytes, number: int) -> list[tuple[bytes, int]]:
    """The bytes cut before each number of the footer, with what to add to the shard's number there."""
    pattern = rb'(?<="number": )%d|(?<="start": )%d|(?<="stop": )%d' % (number, number, number + 1)
    pieces, at = [], 0
    for found in re.finditer(pattern, data):
        pieces.append((data[at : found.start()], int(found.group()) - number))
        at = found.end()
    assert len(pieces) == 3
    return [*pieces, (data[at:], 0)]


def _with_number(pieces: list[tuple[bytes, int]], number: int) -> Iterator[bytes]:
    for piece, offset in pieces[:-1]:
        yield piece
        yield str(number + offset).encode()
    yield pieces[-1][0]


def _write_job(setting: Setting, folder: Path, source: Path, images_per_shard: int) -> Path:
    content = job_of(replace(setting, folder=str(folder), source=str(source), images_per_file=images_per_shard))
    del content["prompts"]["limit"]
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def _command(title: str, name: str, job: Path) -> Command:
    arguments = ["--until-dispatch"] if name == "run" else []
    cost = run_module("tests.benchmarks.variants.command", *arguments, name, str(job), "--json")
    printed = [json.loads(line) for line in cost.printed.splitlines() if line.startswith("{")]
    return Command(title, cost.seconds, printed[-1]["peak_bytes"], printed[0])


def scale_table(commands: list[Command]) -> Table:
    table = Table(title="Plan and resume, each in a fresh process", title_justify="left")
    table.add_column("command")
    table.add_column("seconds", justify="right")
    table.add_column("peak memory, MB", justify="right")
    for command in commands:
        table.add_row(command.title, f"{command.seconds:.1f}", f"{command.peak_bytes / 1e6:,.0f}")
    return table


def scale_goals(commands: list[Command]) -> list[Goal]:
    goals = []
    for command in commands:
        if not command.title.startswith("plan of"):
            continue
        memory = command.peak_bytes
        goals.append(Goal(f"{command.title}: under 500 MB (in MB)", memory / 1e6, memory < PLAN_BYTES))
        goals.append(
            Goal(f"{command.title}: at most {PLAN_SECONDS} s", command.seconds, command.seconds <= PLAN_SECONDS)
        )
    return goals
