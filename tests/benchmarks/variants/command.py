"""`promptmill ARGUMENTS…` in a fresh process that says in the end how long it took and how much memory it ever held.

With `--until-dispatch` first, it ends where the first worker would be started.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

STARTED = time.monotonic()


def report() -> None:
    status = Path("/proc/self/status").read_text().splitlines()
    peak_kib = int(next(line for line in status if line.startswith("VmHWM:")).split()[1])
    print(json.dumps({"seconds": time.monotonic() - STARTED, "peak_bytes": peak_kib << 10}), flush=True)


class NoDispatcher:
    def __init__(self, *_: Any) -> None:
        pass

    def run(self, shards: Any, listener: Any, stop: Any) -> NoReturn:
        report()
        os._exit(0)


def main(arguments: list[str]) -> int:
    import promptmill.jobs.run
    from promptmill.jobs.cli import guarded
    from promptmill.jobs.commands import app

    if arguments[0] == "--until-dispatch":
        promptmill.jobs.run._dispatcher = NoDispatcher
        arguments = arguments[1:]
    code = guarded(lambda: app(arguments, standalone_mode=False), True)
    report()
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
