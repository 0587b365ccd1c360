"""Proof that a dataset holds each sample once: from footers alone, or from every image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from promptmill.pipeline.dataset.keys import SIDE_FOLDERS, data_key_of, is_reject, is_temporary, shard_number
from promptmill.pipeline.dataset.look import look_at_everything
from promptmill.pipeline.dataset.open import newest_plan
from promptmill.pipeline.dataset.state import DataObject, dataset_counts, fits, read_data_objects
from promptmill.pipeline.display import first_line
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.storage.backend import TEMPORARY
from promptmill.pipeline.storage.entry import Entry
from promptmill.pipeline.storage.footers import parquet_metadata
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import MissingObjectError
from promptmill.schemas.plan import CommitRecord, Counts, Shard, Sidecar


@dataclass(frozen=True)
class Suspect:
    """A data object that is wrong and ours to remove. `gone` says that side objects are missing, and nothing else."""

    item: DataObject
    gone: bool = False


@dataclass
class Verification:
    """`problems` make the dataset wrong; `missing` shards only make it unfinished; `orphans` harm nothing.

    `plan` is the one that holds for what was listed. `damaged` are data objects that a repair may remove; their side
    objects count as orphans. `strangers` are not Promptmill's, and no tool that reads Parquet takes them for data.
    """

    plan: Plan
    counts: Counts = field(default_factory=Counts)
    shards_done: int = 0
    missing: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    damaged: list[Suspect] = field(default_factory=list)
    orphans: list[Entry] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    images_checked: int = 0

    @property
    def complete(self) -> bool:
        return not self.problems and not self.missing

    def blame(self, item: DataObject, problems: Sequence[str], gone: bool = False) -> None:
        self.problems += problems
        if may_remove(self.plan, item):
            self.damaged.append(Suspect(item, gone))


def verify_dataset(plan: Plan, store: Store, deep: bool = False) -> Verification:
    """Reads the footer of each object once; `deep` also reads all side objects, decodes every image, checks every hash,
    and looks for ids that come twice.

    From the footers: every shard of the plan there, of this job, over the rows the plan gives it, and samples asked
    for = kept + rejected + failed, each of them as many rows as there are. Shards cover disjoint rows and prompt ids
    are unique (checked when planned), so no sample can be in two shards.
    """
    entries = store.list("data")
    plan = newest_plan(plan, store)  # after the listing: the segment of a shard is there before the shard
    result = Verification(plan)
    objects = read_data_objects(store, entries)
    sides = {entry.name: entry for folder in SIDE_FOLDERS for entry in store.list(folder)}
    good: dict[int, DataObject] = {}
    for item, found in zip(objects, store.map(lambda item: _look(plan, store, item, sides), objects), strict=True):
        if item.footer is not None and found is None:
            good[item.footer.shard.number] = item
        elif found is not None and item.entry.name.endswith(".parquet"):
            result.blame(item, [f"{item.entry.name}: {found.text}"], found.gone)
        else:
            result.strangers.append(item.entry.name)
    result.missing = [shard.number for shard in plan.all_shards() if shard.number not in good]
    result.shards_done = len(good)
    result.counts = dataset_counts(plan, {number: item.footer.counts for number, item in good.items() if item.footer})
    if not result.missing and result.counts.samples != plan.samples:
        result.problems.append(f"the plan asks for {plan.samples} samples, the shards hold {result.counts.samples}")
    if deep:
        look_at_everything(store, good, result)
    _tell_orphans(store, objects, sides, result)
    return result


def _tell_orphans(
    store: Store, objects: Sequence[DataObject], sides: Mapping[str, Entry], result: Verification
) -> None:
    """What no whole proof names, of whatever job: the side objects of another job are its own."""
    damaged = {suspect.item.entry.name for suspect in result.damaged}
    whole = [item.footer for item in objects if item.footer and item.entry.name not in damaged]
    named = {name for footer in whole for name in footer.side_objects}
    for name, entry in sides.items():
        if data_key_of(name) is None:
            result.strangers.append(name)
        elif name not in named:
            result.orphans.append(entry)
    result.orphans += [entry for entry in store.list(TEMPORARY) if is_temporary(entry.name)]


def may_remove(plan: Plan, item: DataObject) -> bool:
    """Only what carries our footer and this fingerprint, or is beyond reading under a name that we alone give.

    An object of a shard that no segment has is left: somebody may bring the segment back.
    """
    if item.footer is None:
        return item.damaged and _is_own_name(plan, item.entry.name)
    beyond = item.footer.shard.number >= plan.shards and item.footer.shard.data_key == item.entry.name
    return item.footer.fingerprint == plan.fingerprint and not beyond


def _is_own_name(plan: Plan, key: str) -> bool:
    number = shard_number(key)
    if number is None:
        return False
    return key == (plan.shard(number) if number < plan.shards else Shard(number, 0, 0, 0, 0)).data_key


@dataclass(frozen=True)
class _Fault:
    text: str
    gone: bool = False


def _look(plan: Plan, store: Store, item: DataObject, sides: Mapping[str, Entry]) -> _Fault | None:
    problem = _problem(plan, item)
    if problem is not None or item.footer is None:
        return _Fault(problem or "")
    record = item.footer
    for sidecar in record.sidecars:
        entry = sides.get(sidecar.name) or store.entry(sidecar.name)  # a repair may just have put it back
        if entry is None:
            return _Fault(f"names {sidecar.name}, which is not there", gone=True)
        problem = _side_problem(store, record, sidecar, entry)
        if problem is not None:
            return _Fault(f"names {sidecar.name}, {problem}")
    return None


def _side_problem(store: Store, record: CommitRecord, sidecar: Sidecar, entry: Entry) -> str | None:
    if not fits(sidecar, entry):
        return f"which has {entry.size_bytes} bytes, not {sidecar.size_bytes}"
    try:
        rows = parquet_metadata(store, entry).num_rows
    except MissingObjectError:
        return "which is not there"
    except (pa.ArrowException, ValueError) as error:
        return f"which is no whole Parquet file: {first_line(error)}"
    expected = rows_of_side(record, sidecar.name)
    return None if rows == expected else f"which has {rows} rows, not {expected}"


def rows_of_side(record: CommitRecord, name: str) -> int:
    return record.counts.rejected if is_reject(name) else record.counts.failed


def _problem(plan: Plan, item: DataObject) -> str | None:
    footer = item.footer
    if footer is None:
        return item.problem
    if item.entry.name != footer.shard.data_key:
        return f"holds shard {footer.shard.number}"
    if footer.fingerprint != plan.fingerprint:
        return f"belongs to job {footer.fingerprint[:12]}, not {plan.fingerprint[:12]}"
    try:
        shard = plan.shard(footer.shard.number)
    except IndexError:
        return f"the plan has {plan.shards} shards only. Is an object below segments/ gone?"
    if shard != footer.shard:
        return f"covers rows {footer.shard.start}–{footer.shard.stop}, the plan says {shard.start}–{shard.stop}"
    counts = footer.counts
    asked = plan.samples_in(shard)
    if not counts.conserved or counts.samples != asked:
        return f"{asked} samples asked for, {counts.kept} kept + {counts.rejected} rejected + {counts.failed} failed"
    if item.rows != counts.kept:
        return f"has {item.rows} rows, its footer says {counts.kept}"
    if footer.labels and sum(footer.labels.values()) != counts.kept:
        return f"says {sum(footer.labels.values())} images of all classes, of {counts.kept} that are kept"
    return _wrong_names(footer)


def _wrong_names(footer: CommitRecord) -> str | None:
    """One side object in each folder that has rows, under the shard's own name."""
    counts = {"rejects": footer.counts.rejected, "failures": footer.counts.failed}
    folders = sorted(name.partition("/")[0] for name in footer.side_objects)
    if folders != sorted(folder for folder, count in counts.items() if count):
        return f"{counts['rejects']} rejected and {counts['failures']} failed, but it names {footer.side_objects}"
    other = [name for name in footer.side_objects if data_key_of(name) != footer.shard.data_key]
    return f"names {other[0]}, which is not of this shard" if other else None
