"""Which sample kills its worker: halve the shard on fresh workers until one is left, then make sure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

CONFIRMATIONS = 3
"""Deaths in a row, alone on a worker that has its model loaded, before a sample is blamed: a machine that loses
processes at random every second kills one 50 ms rehearsal in twenty, three in a row once in 8,000."""


def find_culprit(samples: Sequence[str], survives: Callable[[Sequence[str]], bool]) -> str | None:
    """The sample that breaks its worker every time, None where no sample does.

    `survives` makes the samples on a worker and says whether the worker lived. About log2(len(samples)) + 3 calls.
    """
    suspects = list(samples)
    while len(suspects) > 1:
        half = suspects[: len(suspects) // 2]
        suspects = suspects[len(half) :] if survives(half) else half
    if not suspects or any(survives(suspects) for _ in range(CONFIRMATIONS)):
        return None
    return suspects[0]
