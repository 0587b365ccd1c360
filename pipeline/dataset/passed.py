"""What the records of a job have beside the columns of every job, and under which names they have the source's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import pyarrow as pa

from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.prompts.reader import prompt_reader
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.columns import Only, columns_only, with_modes
from promptmill.schemas.records import input_fields, passthrough_names

_MORE: Final[tuple[Only, ...]] = (
    "edits",
    "steering",
    "adapters",
    "controls",
    "syntax",
    "labels",
    "references",
    "origins",
    "mask settings",
)
"""In the order of the objects, behind those of inputs."""
MOST_VALUES: Final = 100
"""Of an attribute: a page with a row for each of 10,000 says nothing."""


def more_fields(plan: Plan) -> list[pa.Field]:
    """What the records of this job have beside those of every job."""
    own = {only: columns_only(only) for only in _MORE if only in plan.more_columns}
    if plan.control_modes and "controls" in own:
        own["controls"] = [with_modes(field) for field in own["controls"]]
    roles = plan.job.task.roles
    return [*(input_fields(roles) if roles else ()), *(field for fields in own.values() for field in fields)]


def attribute_columns(plan: Plan, store: Store) -> dict[str, str]:
    """The column of the record that says which value a prompt has, by the attribute of the templates.

    That of `model` is `input_model`: the record has a `model` of its own.
    """
    reader = prompt_reader((), store, plan.source_schema, plan.job.prompts, plan.words)
    passed = reader.passthrough_schema.names
    written = dict(zip(passed, passthrough_names(passed, [field.name for field in more_fields(plan)]), strict=True))
    choices = reader.choices
    return {each.name: written[choices[each.name]] for each in plan.words.attributes if each.name in choices}


def values_told(images: Mapping[str, int]) -> tuple[list[str], int]:
    """Of an attribute's values those with most images, in the order of their names, and how many others there are."""
    most = sorted(images, key=lambda value: -images[value])[:MOST_VALUES]
    return sorted(most), len(images) - len(most)
