"""Places where a test ends the process, as a machine that loses power would. Idle unless PROMPTMILL_TEST_CRASH is set."""

from __future__ import annotations

import os

_EXIT_CODE = 86
_at = os.environ.get("PROMPTMILL_TEST_CRASH", "")  # "name:n": the n-th time that this process passes it, from 1
_passed = 0


def reached(name: str) -> None:
    global _passed
    if not _at:
        return
    wanted, _, count = _at.partition(":")
    if name == wanted or wanted == "*":
        _passed += 1
        if _passed == int(count or 1):
            os._exit(_EXIT_CODE)
