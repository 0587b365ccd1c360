"""What probes beside a job file say, and what a run would take by them."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from promptmill.pipeline.execution.speed import settings_of, work_of_variants
from promptmill.pipeline.planning.plan import Plan
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.operations import Estimate, ProbeResult

_PROBES: Final = TypeAdapter(list[ProbeResult])
_MOST_BYTES: Final = 1 << 20


def probe_file(path: str) -> Path | None:
    """`job.probe.json` beside `job.yaml`; None for a job from standard input."""
    return None if path == "-" else Path(path).with_suffix(".probe.json")


def probes(path: str) -> list[ProbeResult]:
    """Empty where there are none, or what lies there says nothing of the kind."""
    file = probe_file(path)
    try:
        if file is None or file.stat().st_size > _MOST_BYTES:
            return []
        return _PROBES.validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return []


def speed_of(
    plan: Plan, path: str, gpu: str | None, images_per_second: float | None
) -> tuple[float, float, str] | None:
    """Of one worker over all variants images per second, seconds to load, and where that is known from.

    None where nothing is known and nothing was asked. Raises JobError for a device that nobody has probed.
    """
    if images_per_second is not None:
        if gpu is not None:
            raise JobError(Problem("--gpu", "one of --gpu and --images-per-second", "both"))
        if not math.isfinite(images_per_second) or images_per_second <= 0:
            raise JobError(Problem("--images-per-second", "a number above 0", str(images_per_second)))
        return images_per_second, 0.0, "given"
    known = [each for each in probes(path) if each.settings == settings_of(plan) and each.images_per_second > 0]
    if gpu is None:
        found = known if len(known) == 1 else []
    else:
        found = [each for each in known if _plain(gpu) and _plain(gpu) in _plain(each.device)]
        if not found:
            devices = ", ".join(sorted(each.device for each in known)) or "none with these settings"
            hint = f"`promptmill probe {path}` on such a machine measures it, or give --images-per-second"
            raise JobError(Problem(f"--gpu {gpu}", "a device that was probed", devices, hint))
    if not found:
        return None
    best = found[-1]
    return best.images_per_second / work_of_variants(plan), best.load_seconds, f"probe on {best.device}"


def estimate(plan: Plan, images: int, speed: tuple[float, float, str], workers: int, price: float | None) -> Estimate:
    """Of `images` that are still to be made."""
    rate, load_s, source = speed
    seconds = images / rate / workers + (load_s if images else 0.0)
    device_hours = seconds * workers * plan.job.compute.devices_per_worker / 3600
    cost = None if price is None else price * device_hours
    return Estimate(
        source=source,
        images_per_second=rate,
        workers=workers,
        images=images,
        hours=round(seconds / 3600, 4),
        device_hours=round(device_hours, 4),
        price_per_hour=price,
        cost=None if cost is None else round(cost, 4),
        cost_per_thousand=None if cost is None or not images else round(1000 * cost / images, 6),
    )


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
