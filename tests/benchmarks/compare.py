"""Variants of one task, side by side and in turns, and the table of what each of them cost."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from tests.benchmarks.measure import run_module
from tests.benchmarks.setting import Answer, Setting

VARIANTS: Final = {
    "bare": ("(a) bare diffusers loop, nothing scored or written", "bare"),
    "script": ("(b) serial script: diffusers + open_clip + pyarrow", "script"),
    "in-process": ("(d) promptmill, in process", "in_process"),
    "ray-data": ("(c) Ray Data, one actor", "ray_data"),
    "ray": ("(e) promptmill on Ray, one worker", "on_ray"),
}
"""Name → title and module. In the order of running: rivals that are close stand side by side."""
OVER: Final = {"bare-over": ("the pipeline alone over images, nothing written", "bare_over")}


@dataclass(frozen=True)
class Round:
    """One run of one variant."""

    warm_rate: float
    cold_s: float
    peak_bytes: int
    private_bytes: int
    more: dict[str, Any]


@dataclass
class Comparison:
    """By variant and number of the round; a run that failed is absent."""

    rounds: dict[str, dict[int, Round]] = field(default_factory=dict)

    def median(self, variant: str, name: str) -> float:
        return statistics.median(float(getattr(each, name)) for each in self.rounds[variant].values())

    def ratio(self, variant: str, name: str, base: str = "script") -> float | None:
        """Median of the ratios within each round: what disturbs the machine for minutes disturbs both."""
        ours, theirs = self.rounds.get(variant, {}), self.rounds.get(base, {})
        both = ours.keys() & theirs.keys()
        if not both:
            return None
        return statistics.median(getattr(ours[number], name) / getattr(theirs[number], name) for number in both)

    def as_json(self) -> dict[str, Any]:
        return {
            variant: {number: vars(each) for number, each in rounds.items()} for variant, rounds in self.rounds.items()
        }


def compare(setting: Setting, variants: Sequence[str], rounds: int, say: Callable[[str], None]) -> Comparison:
    """Every second round runs backwards, so that no variant always has the same neighbour."""
    comparison = Comparison()
    for number in range(rounds):
        for variant in variants if number % 2 == 0 else reversed(variants):
            title = f"round {number + 1} of {rounds}: {_named(variant)[0]}"
            try:
                done = run_variant(setting, variant)
            except RuntimeError as error:
                say(f"{title}: FAILED: {error}")
                continue
            comparison.rounds.setdefault(variant, {})[number] = done
            memory = done.peak_bytes / 1e6
            say(f"{title}: {done.warm_rate:.2f} images/s warm, {done.cold_s:.1f} s cold, {memory:,.0f} MB")
    return comparison


def run_variant(setting: Setting, variant: str) -> Round:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        replace(setting, folder=folder).write()
        cost = run_module(f"tests.benchmarks.variants.{_named(variant)[1]}", folder)
        answer = Answer.read(Path(folder))
        if not variant.startswith("bare"):
            _check_output(Path(folder) / "out", setting.images)
    return Round(answer.warm_rate, cost.seconds, cost.peak_bytes, cost.private_bytes, answer.more)


def _named(variant: str) -> tuple[str, str]:
    return {**VARIANTS, **OVER}[variant]


def _check_output(out: Path, images: int) -> None:
    import pyarrow.parquet as pq

    files = [path for path in out.rglob("*.parquet") if path.parent.name not in ("failures", "rejects")]
    rows = sum(pq.read_metadata(path).num_rows for path in files)
    assert rows == images, f"{rows} rows in {out} instead of {images}"


def comparison_table(comparison: Comparison, caption: str) -> Table:
    table = Table(title="The same images, scored and written", caption=caption, title_justify="left")
    table.add_column("variant")
    for name in ("images/s, warm", "seconds, cold", "peak memory, MB"):
        table.add_column(name, justify="right")
        table.add_column("× (b)", justify="right")
    for variant in sorted(comparison.rounds, key=lambda name: VARIANTS[name][0]):
        cells = [f"{comparison.median(variant, 'warm_rate'):.2f}", _shown(comparison.ratio(variant, "warm_rate"))]
        cells += [f"{comparison.median(variant, 'cold_s'):.1f}", _shown(comparison.ratio(variant, "cold_s"))]
        cells += [
            f"{comparison.median(variant, 'peak_bytes') / 1e6:,.0f}",
            _shown(comparison.ratio(variant, "peak_bytes")),
        ]
        table.add_row(VARIANTS[variant][0], *cells)
    return table


def _shown(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.2f}"


@dataclass(frozen=True)
class Goal:
    """`measured` is None where the runs that it compares were not made."""

    text: str
    measured: float | None
    met: bool

    @property
    def state(self) -> str:
        return "not measured" if self.measured is None else "met" if self.met else "MISSED"


def comparison_goals(comparison: Comparison) -> list[Goal]:
    rate = comparison.ratio("in-process", "warm_rate")
    goals = [Goal("(d) ÷ (b), images/s warm: at least 0.97", rate, (rate or 0) >= 0.97)]
    for variant, letter in (("in-process", "d"), ("ray", "e")):
        for name, title, larger in (
            ("warm_rate", "images/s warm", True),
            ("cold_s", "seconds cold", False),
            ("peak_bytes", "peak memory", False),
        ):
            ratio = comparison.ratio(variant, name, "ray-data")
            text = f"({letter}) ÷ (c), {title}: {'above' if larger else 'below'} 1"
            goals.append(Goal(text, ratio, ratio is not None and (ratio > 1 if larger else ratio < 1)))
    return goals


def goals_table(goals: Sequence[Goal]) -> Table:
    table = Table(title="Goals", title_justify="left")
    for name in ("goal", "measured", ""):
        table.add_column(name)
    for goal in goals:
        table.add_row(goal.text, "–" if goal.measured is None else f"{goal.measured:.3f}", goal.state)
    return table
