"""One line of the table: what was broken, how often, and what became of the samples."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.audit import Audit
from tests.faults.bench import Bench, Output


@dataclass
class Row:
    """`recover_s` is the longest time from a fault, or from the start again after it, to the finished dataset."""

    fault: str
    times: int = 0
    asked: int = 0
    ended: int = 0
    lost: int = 0
    doubled: int = 0
    recover_s: float = 0.0
    problems: list[str] = field(default_factory=list)

    def add(self, counted: Audit, problems: list[str], recover_s: float = 0.0) -> None:
        self.asked += counted.asked
        self.ended += counted.ended
        self.lost += counted.lost
        self.doubled += counted.doubled
        self.problems += problems
        self.recover_s = max(self.recover_s, recover_s)

    def check(self, condition: bool, problem: str) -> None:
        if not condition:
            self.problems.append(problem)

    @property
    def good(self) -> bool:
        return not self.lost and not self.doubled and not self.problems and self.asked == self.ended


def finish(row: Row, bench: Bench, job: Path, output: Output, *options: str, **env: str) -> None:
    """Run the same command again without faults, and count."""
    began = time.monotonic()
    ended = bench.run(job, output, *options, **env)
    row.check(ended.code in (0, 3), f"run again ended with {ended.code}: {ended.printed[-2000:]}")
    row.add(*bench.end_state(job, output), recover_s=time.monotonic() - began)
