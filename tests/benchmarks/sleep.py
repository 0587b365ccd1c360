"""How much of the time Promptmill keeps a device at work whose seconds cost the processor nothing."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from tests.benchmarks.compare import Goal
from tests.benchmarks.measure import run_module
from tests.benchmarks.setting import Answer, Setting


@dataclass(frozen=True)
class Asleep:
    """`share` of the time from the first sleep to the last commit; `processor_share` is what one core did meanwhile."""

    images: int
    seconds: float
    share: float
    processor_share: float


def measure_sleep(setting: Setting) -> Asleep:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        replace(setting, folder=folder).write()
        run_module("tests.benchmarks.variants.sleeping", folder)
        answer = Answer.read(Path(folder))
    seconds = answer.last_at - answer.first_at
    return Asleep(setting.images, seconds, answer.more["slept_s"] / seconds, answer.more["processor_s"] / seconds)


def sleep_goal(asleep: Asleep) -> Goal:
    return Goal("share of the time that a sleeping generator sleeps: at least 0.98", asleep.share, asleep.share >= 0.98)
