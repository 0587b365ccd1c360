"""Break everything that can break, and count what was lost: python -m tests.faults [--seed N] [--long] [--more N]

Prints a table and, as its last line, one JSON object; ends with 0 only if nothing was lost or doubled.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.faults import deaths, fleet, pairs, storage
from tests.faults.bench import Bench
from tests.faults.cluster import Fleet
from tests.faults.forks import Forks
from tests.faults.rows import Row
from tests.servers.disk import CannotMount, small_disk
from tests.servers.proxy import FaultProxy
from tests.servers.s3 import start_s3

Scenario = Callable[[], Row]
SMALL_DISK_BYTES = 1 << 20
LONG_STORMS = 34
"""So often storage stumbles with `--long`, the faults that cost the least time each: 10,000 faults with all others."""
ONLY = ("all", "local", "ray", "storage")


def on_storage(bench: Bench, seed: int, more: int, storms: int) -> Iterator[Scenario]:
    def by_proxy(kind: str, part: int) -> Row:
        with FaultProxy(bench.server, seed + part) as broken:
            if kind in storage.TRANSIENT:
                return storage.survived(bench, broken, kind)
            if kind in storage.LASTING:
                return storage.stopped(bench, broken, kind)
            return storage.killed_in_upload(bench, broken, 2 * more, random.Random(f"{seed} {kind}"))

    for part in range(storms):
        for kind in storage.TRANSIENT:
            yield lambda kind=kind, part=part: by_proxy(kind, part)
    for kind in (*storage.LASTING, "killed in mid-upload"):
        yield lambda kind=kind: by_proxy(kind, 0)


def scenarios(bench: Bench, folder: Path, seed: int, more: int, storms: int) -> Iterator[Scenario]:
    """`more` multiplies how often each thing is broken, `storms` how often storage stumbles."""

    def chance(name: str) -> random.Random:
        return random.Random(f"{seed} {name}")

    for place in bench.places:
        first = chance(place).randrange(1, 6)
        for start in range(first, 120, 20):
            points = [f"*:{n}" for n in range(start, start + 20, max(1, 3 // more))]
            yield lambda place=place, points=points: deaths.crash_at(bench, place, points)
        points = [f"*:{n}" for n in range(first, 60, max(1, 12 // more))]
        yield lambda place=place, points=points: deaths.crash_at(bench, place, points, kind="from images")
        yield lambda place=place, points=points: deaths.crash_at(bench, place, points, kind="with conditions")
        for part in range(2):
            yield lambda place=place, part=part: deaths.kill_at_random(bench, place, 9 * more, chance(f"{place}{part}"))
        for part in range(more):
            yield lambda place=place: deaths.two_drivers(bench, place)
            yield lambda place=place, part=part: deaths.zombie(bench, place, chance(f"{place}{part}"))
        retries = range(first, 40, max(1, 12 // more))
        yield lambda place=place, retries=retries: deaths.crash_in_retry(bench, place, retries)
        steps = range(first, 80, max(1, 9 // more))
        yield lambda place=place, steps=steps: deaths.crash_in_curate(bench, place, steps)
    yield from on_storage(bench, seed, more, storms)
    scene = cache(lambda: pairs.Scene(bench))
    for place in bench.places:
        for part in range(more):
            for first in pairs.COMMANDS:
                some = [pair for pair in pairs.PAIRS if pair[0] == first]
                yield lambda place=place, some=some, part=part, first=first: pairs.at_once(
                    scene(), place, some, chance(f"{place}{part}{first}"), kill=part % 2 == 1
                )
    yield lambda: on_a_small_disk(bench, folder)


def on_ray(bench: Bench, nodes: Fleet, seed: int, more: int) -> Iterator[Scenario]:
    chance = random.Random(seed)
    for place in bench.places:
        yield lambda place=place: fleet.workers_killed(bench, nodes, place, 12 * more, chance)
        yield lambda place=place: fleet.driver_killed(bench, nodes, place, 2 * more, chance)
    yield lambda: fleet.calls_lost(bench, nodes)
    for drain in (False, True):
        for _ in range(more):
            yield lambda drain=drain: fleet.node_lost(bench, nodes, "disk", drain)
    for name in fleet.BAD_PROMPTS:
        yield lambda name=name: fleet.bad_prompt(bench, nodes, *fleet.BAD_PROMPTS[name])


def on_two_gpus(bench: Bench) -> Row:
    with Fleet(bench.forks, nodes=1, cpus=2, gpus=2) as nodes:
        return fleet.device_left_out(bench, nodes)


def on_a_small_disk(bench: Bench, folder: Path) -> Row:
    try:
        with small_disk(folder / "small", SMALL_DISK_BYTES) as disk:
            return storage.disk_full(bench, disk)
    except CannotMount:
        return Row("disk full: not tried, since mounting is not allowed here")


def work(rows: list[Row], seed: int, more: int, storms: int, at_once: int, only: str) -> None:
    """Scenarios without Ray run `at_once` beside each other, those with Ray one after the other beside them.

    What each finds is added to `rows` at once, so that an interrupted run has its table too.
    """
    folder = Path(tempfile.mkdtemp(prefix="promptmill-faults-"))
    with ExitStack() as stack:
        server = stack.enter_context(start_s3())
        forks = stack.enter_context(Forks(folder))
        bench = Bench(folder, forks, server)
        # On this thread, since Ray's nodes want to handle signals, and first, since they give up after 30 s.
        fleet_stack = stack.enter_context(ExitStack())
        with_ray = only in ("all", "ray")
        nodes = fleet_stack.enter_context(Fleet(forks, nodes=2, cpus=1, env=server.env())) if with_ray else None
        pool = stack.enter_context(ThreadPoolExecutor(at_once))
        stack.callback(pool.shutdown, cancel_futures=True)
        plain: Iterable[Scenario] = on_storage(bench, seed, more, storms) if only == "storage" else ()
        if only in ("all", "local"):
            plain = scenarios(bench, folder, seed, more, storms)
        pending = [pool.submit(attempt, scenario, rows) for scenario in plain]
        if nodes is not None:
            for scenario in on_ray(bench, nodes, seed, more):
                attempt(scenario, rows)
            fleet_stack.close()
            attempt(lambda: on_two_gpus(bench), rows)
        for one in pending:
            one.result()


def attempt(scenario: Scenario, rows: list[Row]) -> None:
    began = time.monotonic()
    try:
        row = scenario()
    except Exception:  # one scenario that breaks must not hide what the others find
        row = Row("the test itself", problems=[traceback.format_exc()])
    state = "ok" if row.good else "WRONG"
    lines = [
        f"{state}: {row.fault}, {row.times} times, {time.monotonic() - began:.0f} s",
        *(problem[-1500:] for problem in row.problems),
    ]
    print("\n".join(lines), file=sys.stderr, flush=True)
    rows.append(row)


def merged(rows: list[Row]) -> list[Row]:
    """One row for each fault."""
    found: dict[str, Row] = {}
    for row in rows:
        whole = found.setdefault(row.fault, Row(row.fault))
        for name in ("times", "asked", "ended", "lost", "doubled"):
            setattr(whole, name, getattr(whole, name) + getattr(row, name))
        whole.recover_s = max(whole.recover_s, row.recover_s)
        whole.problems += row.problems
    return list(found.values())


def as_table(rows: list[Row]) -> Table:
    table = Table(title="Faults injected into real runs")
    for heading in (
        "fault",
        "times",
        "samples asked for",
        "kept + rejected + failed",
        "lost",
        "doubled",
        "s to recover",
    ):
        table.add_column(heading, justify="left" if heading == "fault" else "right")
    for row in rows:
        numbers = (row.times, row.asked, row.ended, row.lost, row.doubled)
        style = None if row.good else "red"
        table.add_row(row.fault, *(f"{number:,}" for number in numbers), f"{row.recover_s:.1f}", style=style)
    return table


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="another sequence of faults")
    parser.add_argument("--long", action="store_true", help="10,000 faults, by storage that stumbles; takes hours")
    parser.add_argument("--more", type=int, default=1, help="so often as many of all others")
    parser.add_argument("--at-once", type=int, default=os.cpu_count(), help="scenarios beside each other")
    parser.add_argument("--only", choices=ONLY, default="all", help="without Ray, or nothing but")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 130)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    found: list[Row] = []
    try:
        storms = LONG_STORMS if options.long else 1
        work(found, options.seed, options.more, storms, options.at_once, options.only)
    except KeyboardInterrupt:
        print("interrupted: this is what was found so far", file=sys.stderr)
        found.append(Row("interrupted", problems=["not all scenarios were tried"]))
    rows = merged(found)
    console.print(as_table(rows))
    total = {name: sum(getattr(row, name) for row in rows) for name in ("times", "asked", "lost", "doubled")}
    good = all(row.good for row in rows)
    summary = {
        "faults": total["times"],
        "kinds": len(rows),
        "samples": total["asked"],
        "lost": total["lost"],
        "doubled": total["doubled"],
        "ok": good,
    }
    print(json.dumps(summary))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
