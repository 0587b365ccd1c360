"""Break everything that can break, and count what was lost: python -m tests.faults [--seed N] [--long]

Prints a table and, as its last line, one JSON object; ends with 0 only if nothing was lost or doubled.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.faults import deaths, fleet, storage
from tests.faults.bench import Bench
from tests.faults.cluster import Fleet
from tests.faults.forks import Forks
from tests.faults.rows import Row
from tests.servers.disk import CannotMount, small_disk
from tests.servers.proxy import FaultProxy
from tests.servers.s3 import start_s3

Scenario = Callable[[], Row]
SMALL_DISK_BYTES = 1 << 20


def scenarios(bench: Bench, proxy: FaultProxy, folder: Path, chance: random.Random, more: int) -> Iterator[Scenario]:
    """`more` multiplies how often each thing is broken."""
    for place in bench.places:
        first = chance.randrange(1, 5)
        points = [f"*:{n}" for n in range(first, 120, max(1, 4 // more))]
        yield lambda place=place, points=points: deaths.crash_at(bench, place, points)
        yield lambda place=place: deaths.kill_at_random(bench, place, 15 * more, chance)
        for _ in range(more):
            yield lambda place=place: deaths.two_drivers(bench, place)
            yield lambda place=place: deaths.zombie(bench, place, chance)
        retries = range(first, 40, max(1, 8 // more))
        yield lambda place=place, retries=retries: deaths.crash_in_retry(bench, place, retries)
    for kind in storage.TRANSIENT:
        yield lambda kind=kind: storage.survived(bench, proxy, kind, more)
    for kind in storage.LASTING:
        yield lambda kind=kind: storage.stopped(bench, proxy, kind)
    yield lambda: storage.killed_in_upload(bench, proxy, 2 * more, chance)
    yield lambda: on_a_small_disk(bench, folder)


def ray_scenarios(bench: Bench, nodes: Fleet, chance: random.Random, more: int) -> Iterator[Scenario]:
    for place in bench.places:
        yield lambda place=place: fleet.workers_killed(bench, nodes, place, 12 * more, chance)
        yield lambda place=place: fleet.driver_killed(bench, nodes, place, 2 * more, chance)
    yield lambda: fleet.calls_lost(bench, nodes)
    for drain in (False, True):
        for _ in range(more):
            yield lambda drain=drain: fleet.node_lost(bench, nodes, "disk", drain)
    for name in fleet.BAD_PROMPTS:
        yield lambda name=name: fleet.bad_prompt(bench, nodes, *fleet.BAD_PROMPTS[name])


def on_a_small_disk(bench: Bench, folder: Path) -> Row:
    try:
        with small_disk(folder / "small", SMALL_DISK_BYTES) as disk:
            return storage.disk_full(bench, disk)
    except CannotMount:
        return Row("disk full: not tried, since mounting is not allowed here")


def work(seed: int, long: bool, say: Callable[[Row, float], None]) -> list[Row]:
    chance, more = random.Random(seed), 4 if long else 1
    rows: list[Row] = []

    def go(all_of_them: Iterator[Scenario]) -> None:
        for scenario in all_of_them:
            began = time.monotonic()
            try:
                row = scenario()
            except Exception:  # one scenario that breaks must not hide what the others find
                row = Row("the test itself", problems=[traceback.format_exc()])
            rows.append(row)
            say(row, time.monotonic() - began)

    folder = Path(tempfile.mkdtemp(prefix="promptmill-faults-"))
    with start_s3() as server, Forks(folder) as forks, FaultProxy(server, seed) as proxy:
        bench = Bench(folder, forks, server)
        go(scenarios(bench, proxy, folder, chance, more))
        with Fleet(forks, nodes=2, cpus=1, env=server.env()) as nodes:
            go(ray_scenarios(bench, nodes, chance, more))
    return rows


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
    parser.add_argument("--long", action="store_true", help="over 1,000 faults instead of over 300")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 130)

    def say(row: Row, seconds: float) -> None:
        state = "ok" if row.good else "WRONG"
        print(f"{state}: {row.fault}, {row.times} times, {seconds:.0f} s", file=sys.stderr, flush=True)
        for problem in row.problems:
            print(problem, file=sys.stderr, flush=True)

    rows = merged(work(options.seed, options.long, say))
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
