"""What the driver shows while a job runs: one live display on a terminal, a line every 30 s elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Self, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from promptmill.pipeline.dataset.state import counted
from promptmill.pipeline.display import format_duration, shown
from promptmill.pipeline.planning.plan import Plan
from promptmill.schemas.events import Pulse
from promptmill.schemas.plan import Counts, Shard, ShardStats

LINE_EVERY_S = 30.0
_RATE_WINDOW_S = 60.0
_NOTICES_SHOWN = 4


class ProgressState:
    """Numbers behind every display. Rates are over the last minute, of samples made (kept, rejected or failed)."""

    def __init__(self) -> None:
        self.total = Counts()
        self._plan: Plan | None = None
        self.name = ""
        self.samples = 0
        self.shards = 0
        self.shards_done = 0
        self.workers = 0
        self.model_loads = 0
        self._before = 0
        self._made = 0
        self._committed = 0
        self._history: list[tuple[float, int]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """The run has ended, also by an error."""

    def begin(self, plan: Plan, todo: list[Shard], done: Counts) -> None:
        self._plan, self.name = plan, plan.job.name
        self.total, self.samples = done, plan.samples
        self._before, self._committed = done.samples, 0  # a job with rounds begins several times
        self.shards, self.shards_done = plan.shards, plan.shards - len(todo)

    def shard_done(self, receipt: ShardStats) -> None:
        if self._plan is not None:
            self.total = self.total + counted(self._plan, receipt.shard, receipt.counts)
        self.shards_done += 1
        if receipt.already_done:
            self._before += receipt.counts.samples
        else:
            self._committed += receipt.counts.samples

    def pulse(self, pulse: Pulse) -> None:
        self._made, self.workers, self.model_loads = pulse.samples_made, pulse.workers, pulse.model_loads
        now = time.monotonic()
        self._history.append((now, self._made))
        while len(self._history) > 2 and now - self._history[0][0] > _RATE_WINDOW_S:
            self._history.pop(0)

    @property
    def done(self) -> int:
        """Samples made so far, those of unfinished shards included."""
        return min(self.samples, max(self.total.samples, self._before + max(self._made, self._committed)))

    @property
    def rate(self) -> float:
        """Images per second; 0 until two pulses with progress."""
        if len(self._history) < 2:
            return 0.0
        (then, before), (now, made) = self._history[0], self._history[-1]
        return (made - before) / (now - then) if now > then else 0.0

    def eta(self) -> str:
        if self.rate <= 0:
            return "–"
        return format_duration((self.samples - self.done) / self.rate)

    def line(self) -> str:
        counts = self.total
        return (
            f"{self.name}: {self.done:,}/{self.samples:,} images · {self.rate:.1f}/s · ETA {self.eta()} · "
            f"kept {counts.kept:,} · rejected {counts.rejected:,} · failed {counts.failed:,} · "
            f"shards {self.shards_done:,}/{self.shards:,} · workers {self.workers}"
            + (" · loading the model" if self.workers and not self._made and self.done < self.samples else "")
        )


class PlainProgress(ProgressState):
    """A line every 30 s, and notices as they come; for logs."""

    def __init__(self, stream: TextIO | None = None, every_s: float = LINE_EVERY_S) -> None:
        super().__init__()
        self._stream = stream or sys.stderr
        self._every_s = every_s
        self._next = time.monotonic() + every_s

    def __exit__(self, *_: object) -> None:
        if self.samples:
            self._print(self.line())

    def begin(self, plan: Plan, todo: list[Shard], done: Counts) -> None:
        super().begin(plan, todo, done)
        self._print(f"{self.line()} · {len(todo):,} shards to do")

    def pulse(self, pulse: Pulse) -> None:
        super().pulse(pulse)
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self._every_s
            self._print(self.line())

    def notice(self, text: str) -> None:
        self._print(text)

    def _print(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {shown(text)}", file=self._stream, flush=True)


class LiveProgress(ProgressState):
    """A bar, the counts, and the latest notices, redrawn in place."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(None),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
        )
        self._task: TaskID | None = None
        self._notices: list[str] = []
        self._live = Live(console=console, refresh_per_second=4, get_renderable=self._draw)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def begin(self, plan: Plan, todo: list[Shard], done: Counts) -> None:
        super().begin(plan, todo, done)
        if self._task is None:
            self._task = self._bar.add_task("images", total=self.samples)
        self._bar.update(self._task, total=self.samples)

    def notice(self, text: str) -> None:
        self._notices = [*self._notices, f"{time.strftime('%H:%M:%S')} {shown(text)}"][-_NOTICES_SHOWN:]

    def _draw(self) -> Group:
        if self._task is not None:
            self._bar.update(self._task, completed=self.done)
        return Group(self._bar, Text(shown(self.line())), *(Text(notice, style="yellow") for notice in self._notices))
