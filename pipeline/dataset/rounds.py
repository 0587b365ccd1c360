"""What classes lack after a round, and the round that follows from it.

A round is added as `retry` adds samples: a segment whose content follows from what was committed before, created only
if absent. So a run that is killed between two rounds, or two runs at once, come to the same one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pyarrow.parquet as pq

from promptmill.pipeline.dataset.claim import add_segments
from promptmill.pipeline.dataset.keys import SIDE_FOLDERS, is_failure
from promptmill.pipeline.dataset.open import newest_plan
from promptmill.pipeline.dataset.records import UNREADABLE
from promptmill.pipeline.dataset.state import missing_shards, read_footers
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.planning.rounds import round_segment
from promptmill.pipeline.planning.variants import variant_text
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import MissingObjectError
from promptmill.schemas.plan import CommitRecord, Segment


@dataclass(frozen=True)
class Short:
    """A class that was not filled: `asked` and `kept` images, `made` ones with those, and the commonest reason why
    others were not kept. `variant` is the setting of a sweep, as JSON."""

    name: str
    asked: int
    kept: int
    made: int
    reason: str
    variant: str = "{}"


def next_round(plan: Plan, store: Store) -> Plan | None:
    """The plan with a round for what its classes lack; None where nothing is lacking, or shards are, or no round is
    left."""
    number, lacking = _due(plan, store)
    if not lacking:
        return None
    segments: list[Segment] = []
    first = plan.shards
    for variant, classes in lacking.items():
        segments.append(round_segment(plan.job, number, classes, first, 1, variant))
        first += segments[-1].shards
    add_segments(plan, store, segments, {})
    return newest_plan(plan, store)


def awaits_round(plan: Plan, store: Store) -> bool:
    """Whether a run would add one to what is there."""
    return bool(_due(plan, store)[1])


def _due(plan: Plan, store: Store) -> tuple[int, dict[int, dict[int, int]]]:
    """The number of the next round, and what it is to fill by variant: nothing where `next_round` is None."""
    select = plan.job.select
    if select is None or select.per_class is None or missing_shards(plan, store):
        return 0, {}
    number = 1 + max(segment.round for segment in plan.segments)
    return number, lacking_by_variant(plan, read_footers(plan, store)) if number <= select.max_rounds else {}


def lacking_by_variant(plan: Plan, footers: Mapping[int, CommitRecord]) -> dict[int, dict[int, int]]:
    """How many images each class still needs, by variant and number of the class; only what is above 0."""
    kept: Counter[tuple[int, int]] = Counter()
    for footer in footers.values():
        kept.update({(footer.shard.variant, int(label)): count for label, count in footer.labels.items()})
    asked = plan.job.per_class or 0
    found = {
        variant: {c: asked - kept[variant, c] for c in range(len(plan.words.classes)) if kept[variant, c] < asked}
        for variant in range(plan.variant_count)
    }
    return {variant: classes for variant, classes in found.items() if classes}


def short_classes(plan: Plan, store: Store) -> tuple[Short, ...]:
    """Those that lack images, once no shard is missing; from the rejects and failures of the whole dataset."""
    if plan.job.per_class is None or missing_shards(plan, store):
        return ()
    lacking = lacking_by_variant(plan, read_footers(plan, store))
    if not lacking:
        return ()
    reasons: dict[tuple[str, int], Counter[str]] = {}
    made: Counter[tuple[str, int]] = Counter()
    for variant, label, reason, is_made in _outcomes(store):
        reasons.setdefault((variant, label), Counter())[reason] += 1
        made[variant, label] += is_made
    return tuple(
        _short(plan, variant_text(plan.variant(variant).values), label, number, reasons, made)
        for variant, classes in lacking.items()
        for label, number in classes.items()
    )


def _short(
    plan: Plan,
    variant: str,
    label: int,
    lacking: int,
    reasons: Mapping[tuple[str, int], Counter[str]],
    made: Mapping[tuple[str, int], int],
) -> Short:
    asked = plan.job.per_class or 0
    found = reasons.get((variant, label), Counter[str]())
    reason = min(found, key=lambda each: (-found[each], each)) if found else ""
    kept = asked - lacking
    return Short(plan.words.classes[label].name, asked, kept, kept + made[variant, label], reason, variant)


def _outcomes(store: Store) -> Iterator[tuple[str, int, str, int]]:
    """Variant, class, reason or kind of error, and whether there was an image, of what was not kept."""
    for entry in (entry for folder in SIDE_FOLDERS for entry in store.list(folder)):
        column = "error_kind" if is_failure(entry.name) else "reason"
        try:
            with store.open(entry.name) as file:
                table = pq.read_table(file, columns=["variant", "label", column])
        except (MissingObjectError, *UNREADABLE):
            continue
        for row in table.to_pylist():
            if row["label"] is not None:
                yield row["variant"], row["label"], str(row[column]), column == "reason"
