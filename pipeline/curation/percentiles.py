"""Before anything else: the worst of each class by a score go, as so many of a hundred.

A percentile needs all images of a class, and a shard has some of them. So it is taken of a dataset that is finished,
where neither the number of workers nor a stop on the way changes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from promptmill.pipeline.crashpoints import reached
from promptmill.pipeline.curation.settings import FOLDER, LABELS, Settings, Task
from promptmill.pipeline.dataset.keys import shard_number
from promptmill.pipeline.dataset.records import to_parquet
from promptmill.pipeline.dataset.samples import KEPT, SOURCE_PREFIX, Samples, read_samples
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.scores import NO_SCORE

KEY = f"{FOLDER}/below.parquet"
LEAST_IMAGES = 10
"""Of a class: of three images there is no worst 30 %."""

_SCHEMA = pa.schema([("place", pa.int64()), ("reason", pa.string())])


def find_worst(plan: Plan, task: Task) -> None:
    """Writes which images go, if that is not there. Raises as `refuse_percentiles`."""
    wanted = task.settings.percentiles
    if not wanted or task.output.entry(KEY) is not None:
        return
    samples = read_samples(task.input)  # `plan` is that of the output, and no object of the input is of it
    rows, groups = _kept(samples, task.settings)
    lowest_is_best = plan.lowest_is_best | samples.lowest_is_best
    reasons: dict[int, str] = {}
    for name, share in wanted.items():
        values = samples.score(name)[rows] * (-1 if name in lowest_is_best else 1)
        for members in groups.values():
            for place, reason in worst_of(values[members], name, share).items():
                reasons.setdefault(int(rows[members[place]]), reason)
    places = places_of(samples, sorted(reasons))
    table = pa.table([places, [reasons[row] for row in sorted(reasons)]], schema=_SCHEMA)
    task.output.create(KEY, to_parquet(table.sort_by("place")))
    reached("curate-after-percentiles")


def refuse_percentiles(source: Store, settings: Settings) -> None:
    """Raises JobError for an unknown score, and a class of too few."""
    if settings.percentiles:
        _kept(read_samples(source), settings)


def _kept(
    samples: Samples, settings: Settings
) -> tuple[npt.NDArray[np.intp], dict[tuple[str, str], npt.NDArray[np.intp]]]:
    """Rows of the images that were kept, and the places among those by class and variant."""
    _refuse_unknown(samples, list(settings.percentiles))
    rows = np.flatnonzero(np.array(samples.texts("status")) == KEPT)
    groups = groups_of(samples, settings.label, rows)
    for name in settings.percentiles:
        values = samples.score(name)[rows]
        for group, members in groups.items():
            _refuse_small(name, group, values[members])
    return rows, groups


def worst_of(values: npt.NDArray[np.float64], name: str, share: float) -> dict[int, str]:
    """By place among the images of a class why they go; of `values` higher is better.

    Of n images that have the score ⌊n · share / 100⌋ go, so that classes of one size stay so; of equal ones the last.
    """
    there = np.flatnonzero(np.isfinite(values))
    order = there[np.lexsort((-there, values[there]))]
    going = order[: int(len(order) * share // 100)]
    reason = f"{name} among the worst {share:.9g} % of its class"
    return {int(i): NO_SCORE for i in np.flatnonzero(~np.isfinite(values))} | {int(i): reason for i in going}


def worst_places(store: Store, shard: int | None = None) -> Mapping[int, str]:
    """Why images go, by shard · 2^32 + row, or by the row of one shard."""
    if store.entry(KEY) is None:
        return {}
    with store.open(KEY) as file:
        table = pq.read_table(file)
    if shard is not None:
        table = table.filter(pc.equal(pc.shift_right(table.column("place"), 32), shard))
    places = [place if shard is None else place & 0xFFFFFFFF for place in table.column("place").to_pylist()]
    return dict(zip(places, table.column("reason").to_pylist(), strict=True))


def groups_of(
    samples: Samples, label: str | None, rows: npt.NDArray[np.intp]
) -> dict[tuple[str, str], npt.NDArray[np.intp]]:
    """Places in `rows` by class and variant, in the order of the dataset."""
    names = samples.table.column_names
    columns = (own for each in ((label,) if label else LABELS) for own in (each, f"{SOURCE_PREFIX}{each}"))
    column = next((name for name in columns if name in names), None)
    if label is not None and column is None:
        raise JobError(Problem("--label", "a column of the dataset", repr(label)))
    labels = samples.texts(column) if column else [""] * samples.table.num_rows
    found: dict[tuple[str, str], list[int]] = {}
    variants = samples.texts("variant")
    for place, row in enumerate(rows):
        found.setdefault((labels[row], variants[row]), []).append(place)
    return {group: np.array(members, np.intp) for group, members in found.items()}


def places_of(samples: Samples, rows: Sequence[int]) -> list[int]:
    objects = samples.table.column("object").cast(pa.string()).to_pylist()
    numbers = samples.table.column("row").to_pylist()
    return [((shard_number(objects[row]) or 0) << 32) + numbers[row] for row in rows]


def _refuse_unknown(samples: Samples, names: Sequence[str]) -> None:
    for name in names:
        if name not in samples.score_names:
            expected = f"a score of the dataset ({', '.join(samples.score_names) or 'it has none'})"
            raise JobError(Problem("--percentile", expected, repr(name), "`promptmill score` adds scores to it"))


def _refuse_small(name: str, group: tuple[str, str], values: npt.NDArray[np.float64]) -> None:
    count = int(np.isfinite(values).sum())
    if count < LEAST_IMAGES:
        label, variant = group
        got = f"{count} of {label or 'all'!r}" + (f" in {variant}" if variant not in ("", "{}") else "")
        hint = "A number does for few: `select.where`, or `promptmill select --min`"
        raise JobError(Problem("--percentile", f"{LEAST_IMAGES} images with {name} in each class", got, hint))
