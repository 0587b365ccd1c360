"""What a dataset cost: seconds of each stage, images per second and hour, the price, seconds per image by variant."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from promptmill.pipeline.dataset.spent import seconds_in_hand
from promptmill.pipeline.dataset.state import distinct_versions
from promptmill.pipeline.planning import variants
from promptmill.pipeline.planning.plan import Plan
from promptmill.schemas.plan import ShardStats
from promptmill.schemas.reports import DeviceFacts, RunFacts

_DEVICE_STAGES = ("load", "prepare", "generate", "score")


@dataclass(frozen=True)
class Speed:
    """Device seconds of denoising and decoding for one image, and their deviation from batch to batch.

    `batches` were measured, without the first of a worker in that variant where there are others: it warms the device.
    """

    mean: float
    deviation: float | None
    batches: int


def seconds_per_image(plan: Plan, stats: Iterable[ShardStats]) -> dict[str, Speed]:
    """By the text of the variant."""
    found: dict[str, list[ShardStats]] = defaultdict(list)
    for one in stats:
        if one.shard < plan.shards and one.counts.samples and "generate" in one.seconds:
            variant = plan.variant(plan.shard(one.shard).variant)
            found[variants.variant_text(variant.values)].append(one)
    return {text: _speed(shards) for text, shards in found.items()}


def _speed(shards: Sequence[ShardStats]) -> Speed:
    warm: list[tuple[int, float]] = []
    cold: list[tuple[int, float]] = []
    seen: set[str] = set()
    for one in sorted(shards, key=lambda one: one.began):
        # Stats of an older version have no batches: then the shard is one.
        batches = one.batches or ((one.counts.samples, one.seconds["generate"]),)
        first = one.worker not in seen or one.model_loads > 0
        seen.add(one.worker)
        (cold if first else warm).append(batches[0])
        warm += batches[1:]
    measured = [(images, seconds) for images, seconds in warm or cold if images > 0]
    images = np.array([images for images, _ in measured], np.float64)
    seconds = np.array([seconds for _, seconds in measured], np.float64)
    if not len(images):
        return Speed(0.0, None, 0)
    mean = float(seconds.sum() / images.sum())
    spread = float(np.sqrt(np.average((seconds / images - mean) ** 2, weights=images)))
    return Speed(mean, spread if len(images) > 1 else None, len(images))


def run_facts(
    stats: Iterable[ShardStats],
    seconds: float | None,
    price_per_hour: float | None = None,
    devices_per_worker: float = 1.0,
) -> RunFacts:
    """Seconds are sums over all workers. Stages of neighbouring shards overlap, so they exceed the wall time.

    `images_per_second` is of all workers together while they held their devices. `worker_seconds` is the time during
    which workers had shards in hand, and `device_busy_share` the share of it that went into making and scoring images.
    """
    made = [one for one in stats if not one.already_done]
    images = sum(one.counts.samples for one in made)
    stages = _stage_seconds(made)
    total = stages.pop("total", 0.0)
    working = sum(spent for stage, spent in stages.items() if stage != "wait")
    held = _seconds_held(made)
    busy = sum(held.values())
    in_hand = seconds_in_hand(made)
    at_work = sum(one.seconds.get(stage, 0.0) for one in made for stage in ("generate", "score"))
    paid = in_hand or busy
    worker_price = None if price_per_hour is None else price_per_hour * devices_per_worker
    shares = {s: spent / working for s, spent in stages.items() if s != "wait"} if working else {}
    return RunFacts(
        wall_seconds=seconds,
        price_per_hour=price_per_hour,
        receipts=len(made),
        images=images,
        attempts_repeated=sum(one.attempts - 1 for one in made),
        model_loads=sum(one.model_loads for one in made),
        devices=sorted({one.device for one in made} - {""}),
        stage_seconds=stages,
        shard_seconds=total,
        stage_shares=shares,
        versions=[dict(each) for each in distinct_versions(one.versions for one in made)],
        workers=len(held),
        images_per_second=images / max(held.values()) if busy else None,
        worker_seconds=in_hand,
        device_busy_share=at_work / in_hand if in_hand else None,
        images_per_device_hour=3600 * images / paid if paid else None,
        **_costs(made, None if worker_price is None else worker_price * paid / 3600, shares),
        by_device=_by_device(made, worker_price),
    )


def _costs(made: Sequence[ShardStats], cost: float | None, shares: Mapping[str, float]) -> dict[str, Any]:
    """Fields of `RunFacts`; `shares` are those of the stages."""
    images, kept = (sum(getattr(one.counts, name) for one in made) for name in ("samples", "kept"))
    return {
        "cost": cost,
        "cost_per_thousand": 1000 * cost / images if cost and images else None,
        "cost_per_thousand_kept": 1000 * cost / kept if cost and kept else None,
        "stage_costs": {} if cost is None else {stage: cost * share for stage, share in shares.items()},
    }


def _by_device(made: Sequence[ShardStats], worker_price: float | None) -> list[DeviceFacts]:
    """Devices by their names where the proofs say them; receipts of older versions know `cuda:0` alone."""
    groups: dict[str, list[ShardStats]] = defaultdict(list)
    for one in made:
        groups[one.versions.get("device") or one.device].append(one)
    return [_device_facts(name, stats, worker_price) for name, stats in sorted(groups.items())]


def _device_facts(name: str, stats: Sequence[ShardStats], worker_price: float | None) -> DeviceFacts:
    held, kept = _seconds_held(stats), sum(one.counts.kept for one in stats)
    paid = seconds_in_hand(stats) or sum(held.values())
    cost = None if worker_price is None else worker_price * paid / 3600
    images = sum(one.counts.samples for one in stats)
    return DeviceFacts(
        name=name,
        workers=len(held),
        images=images,
        kept=kept,
        worker_seconds=paid,
        images_per_worker_second=images / paid if paid else None,
        cost=cost,
        cost_per_thousand_kept=1000 * cost / kept if cost and kept else None,
    )


def _stage_seconds(made: Iterable[ShardStats]) -> dict[str, float]:
    stages: dict[str, float] = defaultdict(float)
    for one in made:
        for stage, spent in one.seconds.items():
            stages[stage] += spent
    return dict(stages)


def _seconds_held(made: Iterable[ShardStats]) -> dict[str, float]:
    """By worker how long it held its device."""
    held: dict[str, float] = defaultdict(float)
    for one in made:
        held[one.worker] += sum(one.seconds.get(stage, 0.0) for stage in _DEVICE_STAGES)
    return held
