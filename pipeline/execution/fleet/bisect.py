"""Which sample kills its worker: halve the shard on fresh workers until one is left, then make sure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from promptmill.pipeline.worker.work import TRIES_ALONE

CONFIRMATIONS = TRIES_ALONE
"""Deaths in a row, alone on a worker that has its model loaded, each followed by a blank sample that lives: where
something else kills every second trial, one innocent in 64 is blamed. Without the blanks 60 kills, one every
0.5 to 2 s on a busy machine, had one blamed."""


def find_poison_sample(
    samples: Sequence[str], survives: Callable[[Sequence[str]], bool], blank_survives: Callable[[str], bool]
) -> str | None:
    """The sample that breaks its worker every time, None where no sample does or whatever is made dies.

    `survives` makes the samples on a worker and says whether the worker lived, `blank_survives` makes one with an
    empty prompt in place of its own. About log2(len(samples)) + 6 calls.
    """
    suspects = list(samples)
    while len(suspects) > 1:
        half = suspects[: len(suspects) // 2]
        suspects = suspects[len(half) :] if survives(half) else half
    if not suspects:
        return None
    for _ in range(CONFIRMATIONS):
        if survives(suspects) or not blank_survives(suspects[0]):
            return None
    return suspects[0]
