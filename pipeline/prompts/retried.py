"""The file that `retry` stages, in which a row is one sample and not one prompt."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow.parquet as pq

from promptmill.pipeline.prompts.held import HeldFiles
from promptmill.pipeline.prompts.reader import PromptReader
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.columns import input_column, named
from promptmill.schemas.inputs import CONTROL, ROLES, control_role
from promptmill.schemas.job import Job
from promptmill.schemas.plan import SourceFile
from promptmill.schemas.prompts import Columns
from promptmill.schemas.words import NO_WORDS, Words

RETRY_COLUMNS = Columns(
    prompt="prompt", id="prompt_id", negative_prompt="negative_prompt", caption="caption", seed="seed"
)
RETRY_HELPERS = {"sample_id": "sample_id", "sample_index": "sample_index"}
"""Columns of the file that `retry` stages, which datasets hold, and the fields of `Prompt` that they fill.

The quota is the last column: `room`, or what `quota_column` says where the source has a column of that name.
"""


def quota_column(names: Sequence[str]) -> str:
    name = "room"
    while name in names:
        name += "_"
    return name


def retry_reader(files: tuple[SourceFile, ...], output: Store, job: Job, words: Words = NO_WORDS) -> PromptReader:
    """For the file that `retry` stages: a row is one sample, not one prompt."""
    columns = job.prompts.mapped
    with HeldFiles(output).open(files[0]) as stream:
        schema = pq.read_schema(stream).remove_metadata()
    given: dict[str, object] = {role: input_column(role) for role in columns.images if role in ROLES}
    if isinstance(columns.control_image, dict):
        given[CONTROL] = {net: input_column(control_role(net)) for net in columns.control_image}
    if "image" in given:
        given["strength"] = "strength"
    given |= {name: name for name in columns.steering}
    if job.adapters_by_row:
        given["adapter"] = "adapters"
    syntax = dict(zip(named("prompt_written", "row_settings"), ("written", "settings"), strict=True))
    given |= {"label": "label"} if job.prompts.labelled else {}
    helpers = {**RETRY_HELPERS, schema.names[-1]: "quota", **(syntax if job.prompts.syntax else {})}
    return PromptReader(files, output, schema, RETRY_COLUMNS.model_copy(update=given), helpers, words=words)
