"""Select again among what was made: other scores, other bounds, another number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from promptmill.pipeline.dataset.samples import FAILED, REJECTED, Samples, read_dataset
from promptmill.pipeline.dataset.selections import write_selection
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.columns import named
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.results import SelectResult
from promptmill.schemas.scores import BELOW_MIN, NO_SCORE, NOT_SELECTED, UNSAFE_FLAGS

NO_IMAGE = "no_image"


@dataclass(frozen=True)
class Wanted:
    """The best `keep` images of each prompt and variant, None for all. Of several scores in `by` the ranks are added.

    `least` are the scores below which an image is not kept, above which where lower is better.
    """

    keep: int | None
    by: tuple[str, ...]
    least: Mapping[str, float]


def select_again(plan: Plan, store: Store, wanted: Wanted, name: str) -> SelectResult:
    """Writes the view. Raises JobError for a score that the dataset does not have."""
    plan, samples = read_dataset(plan, store)
    _refuse_unknown(samples, wanted)
    lowest = plan.lowest_is_best | samples.lowest_is_best
    signs = {name: -1 if name in lowest else 1 for name in (*wanted.by, *wanted.least)}
    reasons = _reasons(samples, wanted, signs, plan.job.output.keep_rejected_images)
    columns = {
        each: samples.table.column(each).to_pylist() for each in (*named("sample_id", "prompt_id", "variant"), "row")
    }
    objects = samples.texts("object")
    rows = [
        {**{each: values[row] for each, values in columns.items()}, "object": objects[row], "reason": reason}
        | {"weight": 1.0 if reason is None else 0.0}
        for row, reason in reasons.items()
    ]
    key = write_selection(store, name, rows, asdict(wanted))
    kept = sum(reason is None for reason in reasons.values())
    without = sum(reason == NO_IMAGE for reason in reasons.values())
    return SelectResult(name, key, len(reasons) - without, kept, len(reasons) - without - kept, without)


def _refuse_unknown(samples: Samples, wanted: Wanted) -> None:
    known = samples.score_names
    for score in (*wanted.by, *wanted.least):
        if score not in known:
            expected = f"a score of the dataset ({', '.join(known) or 'it has none'})"
            hint = "`promptmill score` adds scores to it"
            raise JobError(Problem("--by" if score in wanted.by else "--min", expected, repr(score), hint))


def _reasons(
    samples: Samples, wanted: Wanted, signs: Mapping[str, int], rejected_have_images: bool
) -> dict[int, str | None]:
    """By row of the table, without failures: why it is not kept. `signs` are −1 for scores where lower is better."""
    status, prompts, variants = (samples.texts(name) for name in ("status", "prompt_id", "variant"))
    scores = {name: samples.score(name) for name in {*wanted.by, *wanted.least}}
    flags = samples.table.column("flags").to_pylist()
    reasons: dict[int, str | None] = {}
    groups: dict[tuple[str, str], list[int]] = {}
    for row, ended in enumerate(status):
        if ended == FAILED:
            continue
        values = {name: float(column[row]) for name, column in scores.items()}
        unsafe = next((flag for flag in flags[row] or () if flag in UNSAFE_FLAGS), None)
        lost = NO_IMAGE if ended == REJECTED and not rejected_have_images else None
        reasons[row] = lost or unsafe or _below(values, wanted, signs)
        if reasons[row] is None:
            groups.setdefault((prompts[row], variants[row]), []).append(row)
    indices = samples.table.column("sample_index").to_pylist()
    for group in groups.values():
        signed = {name: [signs[name] * float(scores[name][row]) for row in group] for name in wanted.by}
        best = _ranked(group, signed, indices)
        for row in best[wanted.keep :] if wanted.keep is not None else ():
            reasons[row] = NOT_SELECTED
    return reasons


def _below(values: Mapping[str, float], wanted: Wanted, signs: Mapping[str, int]) -> str | None:
    if any(math.isnan(values[name]) for name in (*wanted.by, *wanted.least)):
        return NO_SCORE
    below = any(signs[name] * values[name] < signs[name] * least for name, least in wanted.least.items())
    return BELOW_MIN if below else None


def _ranked(group: Sequence[int], scores: Mapping[str, Sequence[float]], indices: Sequence[Any]) -> list[int]:
    """Rows of one prompt and variant, the best first; equal ones by the first score, then by sample index.

    Of `scores` higher is better.
    """
    ranks = [0.0] * len(group)
    for signed in scores.values():
        for place, value in enumerate(signed):  # equal scores share a rank
            ranks[place] += sum(other > value for other in signed) + sum(other == value for other in signed) / 2
    first = next(iter(scores.values()), None)
    own = [0.0] * len(group) if first is None else [-value for value in first]
    order = sorted(range(len(group)), key=lambda place: (ranks[place], own[place], indices[group[place]] or 0))
    return [group[place] for place in order]
