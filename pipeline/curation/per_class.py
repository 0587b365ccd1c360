"""After everything else: so many of each class stay, so that copies which went leave no class smaller than another."""

from __future__ import annotations

from collections.abc import Container, Iterator

import numpy as np

from promptmill.pipeline.curation.percentiles import groups_of, places_of
from promptmill.pipeline.curation.settings import LABELS, Settings, Task
from promptmill.pipeline.dataset.samples import KEPT, Samples, read_samples
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.planning.variants import variant_text
from promptmill.pipeline.storage.store import Store


def surplus(task: Task, gone: Container[int]) -> list[int]:
    """Places of the images that are more than their class and variant are to have, without those that are `gone`."""
    most = task.settings.per_class
    if most is None:
        return []
    samples = read_samples(task.input)
    found: list[int] = []
    for members in _kept_groups(samples, task.settings.label).values():
        found += [place for place in places_of(samples, members) if place not in gone][most:]
    return found


def short_classes(plan: Plan, store: Store, settings: Settings) -> dict[str, int]:
    """Classes (and variants) of a curated dataset with fewer images than each is to have, and how many.

    One of which every sample failed, or that has none, has 0.
    """
    if settings.per_class is None:
        return {}
    samples = read_samples(store)
    status = samples.texts("status")
    counts = dict.fromkeys(_planned_groups(plan, settings.label), 0)
    groups = groups_of(samples, settings.label, np.arange(len(status)))
    counts |= {group: sum(status[row] == KEPT for row in members) for group, members in groups.items()}
    return {_named(group): kept for group, kept in counts.items() if kept < settings.per_class}


def _named(group: tuple[str, str]) -> str:
    label, variant = group
    return (label or "all") + (f" in {variant}" if variant not in ("", "{}") else "")


def _planned_groups(plan: Plan, label: str | None) -> Iterator[tuple[str, str]]:
    """Empty where the plan does not know the classes of the column."""
    by_name, by_number = LABELS
    names = plan.words.class_names if label in (None, by_name) else ()
    if label == by_number:
        names = tuple(map(str, range(len(plan.words.classes))))
    for index in range(plan.variant_count if names else 0):
        variant = variant_text(plan.variant(index).values)
        yield from ((name, variant) for name in names)


def _kept_groups(samples: Samples, label: str | None) -> dict[tuple[str, str], list[int]]:
    """Rows by class and variant, in the order of the dataset."""
    rows = np.flatnonzero(np.array(samples.texts("status")) == KEPT)
    return {group: [int(rows[i]) for i in members] for group, members in groups_of(samples, label, rows).items()}
