"""A few batches on one worker, thrown away: how fast a job is on this device, and which batch still fits."""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import psutil

from promptmill.pipeline.dataset.claim import claim_output
from promptmill.pipeline.dataset.encode import encode_image
from promptmill.pipeline.execution.speed import settings_of
from promptmill.pipeline.models.diffusion.device import device_facts, forget_peak, peak_memory
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.storage.store import Store
from promptmill.pipeline.worker.context import Clock, WorkerContext
from promptmill.pipeline.worker.recovery import VariantGenerator, score_batch
from promptmill.pipeline.worker.work import read_work
from promptmill.schemas.errors import DeviceMemoryError, JobError, Problem
from promptmill.schemas.operations import ProbedBatch, ProbeResult
from promptmill.schemas.plan import Sample

MOST_BATCH: Final = 512
_ROUNDS: Final = 2
_FASTER: Final = 1.03
"""A batch twice as large that gains less than 3 % is not worth its memory."""


@dataclass
class _Bench:
    """One worker with its model and scorers loaded."""

    context: WorkerContext
    generator: VariantGenerator
    samples: Sequence[Sample]
    fields: Callable[[Sample], dict[str, object]]

    def batch(self, size: int) -> list[Sample]:
        some = itertools.islice(itertools.cycle(self.samples), size)
        return [replace(sample, sample_id=f"{sample.sample_id}-{place}") for place, sample in enumerate(some)]

    def make(self, size: int) -> int:
        """Generate and score once; bytes of the first image. Raises DeviceMemoryError where it does not fit."""
        batch = self.generator.with_inputs(self.batch(size))
        self.generator.prepare(batch)
        made = self.generator.generator.generate(batch, self.generator.variant.generation, lambda: None)
        for scorer in self.context.scorers():
            scorer.prepare([sample.caption for sample in batch])
        score_batch(self.context.scorers(), batch, made, self.fields)
        pixels = next((each.pixels for each in made if each.pixels is not None), None)
        output = self.context.plan.job.output
        return 0 if pixels is None else len(encode_image(pixels, None, output).data)


def probe(plan: Plan, seconds: float, clock: Callable[[], float] = time.monotonic) -> ProbeResult:
    """Nothing is written but in memory. Raises JobError where no prompt can be drawn, or the batch does not fit."""
    store = Store(f"memory://probe-{uuid.uuid4().hex}")
    claimed = claim_output(plan, store)
    context = WorkerContext(claimed, store)
    try:
        work = read_work(claimed.shard(0), context, {})
        samples = [sample for sample in work.ready if sample is not None]
        if not samples:
            raise JobError(Problem("prompts.source", "a prompt that can be drawn", "none in its first shard"))
        with context.device(Clock()):
            began = clock()
            generator = context.generator(work.variant)
            context.scorers()
            load_s = clock() - began
            bench = _Bench(context, generator, samples, lambda sample: work.fields(sample.row))
            return _measured(claimed, bench, load_s, seconds, clock)
    finally:
        context.close()


def _measured(plan: Plan, bench: _Bench, load_s: float, seconds: float, clock: Callable[[], float]) -> ProbeResult:
    size, until = bench.generator.variant.generation.batch_size, clock() + seconds
    try:
        bytes_per_image = bench.make(size)  # and warms the device
        first = _timed(bench, size, clock)
    except DeviceMemoryError as error:
        expected, hint = "a batch that fits the device", "Choose a smaller generation.batch_size, or model.offload"
        raise JobError(Problem("generation.batch_size", expected, f"{size}: {error}", hint)) from None
    batches, ended_by = _larger(bench, first, until, clock)
    device = bench.generator.generator.device
    return ProbeResult(
        name=plan.job.name,
        device=device_facts(device)["device"],
        settings=settings_of(plan),
        load_seconds=round(load_s, 2),
        images_per_second=first.images_per_second,
        memory_bytes=first.memory_bytes,
        largest_batch=batches[-1].batch_size,
        ended_by=ended_by,
        batches=batches,
        bytes_per_image=bytes_per_image,
    )


def _larger(
    bench: _Bench, first: ProbedBatch, until: float, clock: Callable[[], float]
) -> tuple[list[ProbedBatch], str]:
    """Twice as large as long as it fits, and gains."""
    batches = [first]
    while (size := 2 * batches[-1].batch_size) <= MOST_BATCH:
        expected_s = (_ROUNDS + 1) * size / max(batches[-1].images_per_second, 1e-9)
        if clock() + expected_s > until:
            return batches, "time"
        if not _has_room(bench, batches):
            return batches, "memory"
        try:
            bench.make(size)
            batches.append(_timed(bench, size, clock))
        except DeviceMemoryError:
            return batches, "memory"
        if batches[-1].images_per_second < _FASTER * batches[-2].images_per_second:
            return batches, "no_faster"
    return batches, "most"


def _has_room(bench: _Bench, batches: Sequence[ProbedBatch]) -> bool:
    """On a CPU: a machine that runs out of memory ends this process, and says nothing. A GPU does."""
    if bench.generator.generator.device.startswith("cuda"):
        return True
    grown = batches[-1].memory_bytes - batches[-2].memory_bytes if len(batches) > 1 else batches[-1].memory_bytes // 2
    return 2 * grown < psutil.virtual_memory().available


def _timed(bench: _Bench, size: int, clock: Callable[[], float]) -> ProbedBatch:
    device = bench.generator.generator.device
    forget_peak(device)
    began = clock()
    for _ in range(_ROUNDS):
        bench.make(size)
    spent = max(clock() - began, 1e-9)
    return ProbedBatch(size, round(_ROUNDS * size / spent, 4), peak_memory(device))
