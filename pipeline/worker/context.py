"""What a worker process holds between shards: model, scorers, readers, encoders, and its pulse."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from promptmill.pipeline.models.catalog.resolve import device_bytes, fetch_model
from promptmill.pipeline.models.catalog.versions import library_versions
from promptmill.pipeline.models.interface import Generator
from promptmill.pipeline.models.load import acting_device, load_generator, require_gpu
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.planning.rounds import places
from promptmill.pipeline.prompts.inputs import InputReader
from promptmill.pipeline.prompts.places import PlacesReader
from promptmill.pipeline.prompts.reach import Reach
from promptmill.pipeline.prompts.reader import PromptReader, prompt_reader
from promptmill.pipeline.prompts.retried import retry_reader
from promptmill.pipeline.scores.interface import Scorer
from promptmill.pipeline.scores.registry import scorers_beside, scorers_on_device
from promptmill.pipeline.storage.store import Store
from promptmill.pipeline.worker.recovery import BatchLimits, VariantGenerator
from promptmill.schemas.errors import DeviceMemoryError, ModelLoadError, SampleError
from promptmill.schemas.plan import (
    Counts,
    Segment,
    Shard,
    ShardStats,
    Variant,
)
from promptmill.schemas.resolved import ResolvedModel

ENCODER_THREADS = 2


class Clock:
    """Seconds by stage. Stages of one shard may overlap with those of the next."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.started = time.monotonic()
        self.model_loads = 0
        self.batches: list[tuple[int, float]] = []

    @contextmanager
    def batch(self, images: int) -> Iterator[None]:
        """As the stage `generate`, and kept by itself: the first batch of a worker is slower than those that follow."""
        started = time.monotonic()
        with self("generate"):
            yield
        self.batches.append((images, round(time.monotonic() - started, 4)))

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] += time.monotonic() - started


@dataclass
class Pulse:
    """Signs of life that a watcher may read from another thread; `stepped_at` in seconds of the monotonic clock.

    None while the device is idle or loading a model: only what comes after is timed.
    """

    samples: int = 0
    model_loads: int = 0
    stepped_at: float | None = None

    def step(self) -> None:
        self.stepped_at = time.monotonic()

    def advance(self, samples: int) -> None:
        self.samples += samples

    def rest(self) -> None:
        self.stepped_at = None

    def silent_s(self) -> float:
        return 0.0 if self.stepped_at is None else time.monotonic() - self.stepped_at


@dataclass
class WorkerContext:
    """Holds one model at a time; shards come sorted by model, so a switch is rare."""

    plan: Plan
    store: Store
    worker: str = "local"
    limits: BatchLimits = field(default_factory=dict)
    pulse: Pulse = field(default_factory=Pulse)
    reach: Reach | None = None
    """What input images may be read from, of a dataset that somebody else may have made; None for all."""
    on_gpu: bool = False
    """Whether the worker was given one, and must not draw on anything else."""

    def __post_init__(self) -> None:
        self.scorers_beside = scorers_beside(self.plan)
        self.encoders = ThreadPoolExecutor(ENCODER_THREADS, thread_name_prefix="encode")
        planned = [file for segment in self.plan.segments for file in segment.files]
        self.inputs = InputReader(self.store, self.plan.job.output.keep_inputs, self.reach, planned)
        self._lock = threading.Lock()
        self._readers: dict[int, PromptReader | PlacesReader] = {}
        self._loaded: tuple[ResolvedModel, Generator] | None = None
        self._adapted = False
        self._scorers: list[Scorer] | None = None
        self._retried: dict[int, tuple[str, ...]] = {}

    @contextmanager
    def device(self, clock: Clock) -> Iterator[None]:
        """One shard at a time on the device; another may encode and upload meanwhile."""
        with clock("wait"):
            self._lock.acquire()
        try:
            yield
        finally:
            self.pulse.rest()
            self._lock.release()

    def reader(self, segment: int) -> PromptReader | PlacesReader:
        if segment not in self._readers:
            opened = self.plan.segments[segment]
            self._readers[segment] = self._of_round(segment) if opened.kind == "round" else self._open_reader(opened)
        return self._readers[segment]

    def _open_reader(self, segment: Segment) -> PromptReader:
        if segment.kind == "retry":
            return retry_reader(segment.files, self.store, self.plan.job, self.plan.words)
        return prompt_reader(segment.files, self.store, self.plan.source_schema, self.plan.job.prompts, self.plan.words)

    def _of_round(self, position: int) -> PlacesReader:
        plan, segment = self.plan, self.plan.segments[position]
        own, before = plan.segments[0], plan.rounds_before(position)
        prompts = prompt_reader(own.files, self.store, plan.source_schema, plan.job.prompts, plan.words)
        rows = own.prompts // plan.texts_per_row
        return PlacesReader(
            prompts,
            lambda: prompts.labels()[:rows],
            len(plan.words.classes),
            lambda counts: places(plan.job, segment, before, counts),
        )

    def answered_later(self, shard: Shard) -> dict[str, SampleError]:
        """Samples of this shard that failed and were retried in a later one: made here too, they would be doubled.

        Of use only where a shard is made again because its object was damaged.
        """
        answer = "it failed before this shard was damaged and made again; a later shard has its retry"
        return {
            sample: SampleError("generation", answer)
            for position, segment in enumerate(self.plan.segments)
            if segment.kind == "retry" and segment.first_shard > shard.number and segment.variant == shard.variant
            for sample in self._samples_of_retry(position)
        }

    def _samples_of_retry(self, segment: int) -> tuple[str, ...]:
        if segment not in self._retried:
            prompts = self.reader(segment).read(0, self.plan.segments[segment].prompts).prompts
            self._retried[segment] = tuple(prompt.sample_id or "" for prompt in prompts)
        return self._retried[segment]

    def generator(self, variant: Variant) -> VariantGenerator:
        """Call with the device held."""
        if self._loaded is None or self._loaded[0] != variant.model:
            self._loaded = None  # frees the old weights first: two models need not fit at once
            self._loaded, self._adapted = (variant.model, self._load(variant.model)), False
            self.pulse.model_loads += 1
        model = variant.model
        added = bool(model.adapters or model.controlnets or model.ip_adapter)
        if added or self._adapted:
            self._loaded[1].use(model.adapters, model.controlnets, model.ip_adapter)
            self._adapted = added
        return VariantGenerator(self._loaded[1], variant, self.limits, self.pulse.step, self.inputs)

    def _load(self, model: ResolvedModel) -> Generator:
        threads = self.plan.job.compute.threads_per_worker
        if self.on_gpu:
            require_gpu(threads)
        fetch_model(model, self.store.on_wait)
        try:
            return load_generator(model, threads, told=self.store.on_wait)
        except DeviceMemoryError as error:
            needed = device_bytes(model, self.plan.pixels(model)) / 2**30
            less = device_bytes(replace(model, offload="model"), self.plan.pixels(model)) / 2**30
            way = f" With model.offload: model it needs about {less:.1f} GiB." if less < needed else ""
            raise ModelLoadError(
                f"{model.path} does not fit the device: it needs about {needed:.1f} GiB.{way} {error}"
            ) from None

    def scorers(self) -> list[Scorer]:
        """Call with the device held."""
        if self._scorers is None:
            self._scorers = scorers_on_device(self.plan)
        return self._scorers

    def versions(self, tried: bool) -> dict[str, str]:
        """Those that acted on a shard. `tried` is whether anything of it was: no device acts on rows that are at fault,
        whatever this worker holds by chance."""
        device = acting_device(self._loaded[1].device) if tried and self._loaded else {}
        return {**library_versions(), **device}

    def receipt(self, shard: Shard, counts: Counts, data_bytes: int, clock: Clock, attempts: int) -> ShardStats:
        seconds = {stage: round(spent, 4) for stage, spent in clock.seconds.items()}
        seconds["total"] = round(time.monotonic() - clock.started, 4)
        device = self._loaded[1].device if self._loaded else ""
        return ShardStats(
            shard.number,
            counts,
            seconds,
            self.worker,
            device,
            attempts,
            data_bytes=data_bytes,
            model_loads=clock.model_loads,
            began=round(time.time() - seconds["total"], 3),
            batches=tuple(clock.batches),
        )

    def close(self) -> None:
        self.encoders.shutdown(wait=False, cancel_futures=True)
