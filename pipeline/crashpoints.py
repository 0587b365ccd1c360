"""Places where a test ends the process, as a loss of power would. Idle unless PROMPTMILL_TEST_CRASH is set."""

from __future__ import annotations

import itertools
import os

EXIT_CODE = 86
_VARIABLE = "PROMPTMILL_TEST_CRASH"  # "name:n": the n-th time that this process passes it, from 1; "*:n" counts all
_passes = itertools.count(1)


def reached(name: str) -> None:
    if (at := os.environ.get(_VARIABLE)) is None:
        return
    wanted, _, count = at.partition(":")
    if wanted in (name, "*") and next(_passes) == int(count or 1):
        os._exit(EXIT_CODE)
