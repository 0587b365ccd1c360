"""`make prove`. Run again after an interruption: it goes on."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context

from tests.proofs.parts import AFTER, ALL, MORE, OF_SHAPES, OUT, PARTS, part, shapes_settings, table


def main(asked: Sequence[str], workers: int) -> None:
    waiting = list(asked or PARTS)
    running: dict[Future[str], str] = {}
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:

        def start(name: str) -> None:
            waiting.remove(name)
            running[pool.submit(part, name)] = name

        if "digits" in waiting:
            start("digits")  # the sets of shapes are made meanwhile
        if OF_SHAPES.intersection(waiting):
            shapes_settings(1)
        while waiting or running:
            for name in [name for name in waiting if AFTER.get(name) not in (*waiting, *running.values())]:
                start(name)
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                print(f"{running.pop(done)} is done\n{done.result()}", flush=True)
    (OUT / "README.md").write_text(table())
    print(table())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parts = f"{', '.join(PARTS)}; without any all of these; {', '.join(MORE)}"
    parser.add_argument("parts", nargs="*", metavar="PART", help=parts)
    parser.add_argument("--workers", type=int, default=2, help="parts at once, one core each")
    given = parser.parse_args()
    if unknown := [name for name in given.parts if name not in ALL]:
        parser.error(f"no part is called {', '.join(unknown)}")
    main(given.parts, given.workers)
