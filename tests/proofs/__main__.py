"""`make prove`. Run again after an interruption: it goes on."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

from tests.proofs.parts import OUT, PARTS, part, shapes_settings, table


def main(asked: Sequence[str], workers: int) -> None:
    names = list(asked or PARTS)
    if set(names) - {"digits", "fashion"}:
        shapes_settings(1)  # which the others share
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        for done in as_completed([pool.submit(part, name) for name in names]):
            print(done.result(), flush=True)
    (OUT / "README.md").write_text(table())
    print(table())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; without any all of them")
    parser.add_argument("--workers", type=int, default=2, help="parts at once, one core each")
    given = parser.parse_args()
    main(given.parts, given.workers)
