"""Images that the rows of a dataset lead to, where somebody else may have written the rows: none is read elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from promptmill.pipeline.dataset.state import missing_shards
from promptmill.pipeline.dataset.whole import whole_object
from promptmill.pipeline.display import redact, shown
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.prompts.formats import is_parquet
from promptmill.pipeline.prompts.image_files import is_image
from promptmill.pipeline.prompts.inputs import beside, locator
from promptmill.pipeline.prompts.reach import EMBEDDED, HINT, Reach
from promptmill.pipeline.prompts.reader import prompt_reader
from promptmill.pipeline.prompts.staging import read_whole
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.columns import input_column
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.plan import STAGED, Segment, SourceFile

_ROWS_AT_ONCE = 16


def refuse_far_rows(rows: pa.Table, plan: Plan, store: Store, reach: Reach | None) -> None:
    """Raises JobError for failed samples with images that the dataset's user has not named."""
    far = [] if reach is None else _far(_in_failures(rows, plan), store, reach, plan)
    if far:
        raise JobError(_problem(f"failures of {redact(store.url)}", far, HINT))


def refuse_far_copies(plan: Plan, store: Store, reach: Reach, own: Plan) -> None:
    """Of the copies that shards are still to be made of. Raises JobError for images that neither lie within `reach`
    nor are those of our `own` prompts.
    """
    if not plan.job.task.roles:
        return
    todo = sorted({shard.segment for shard in missing_shards(plan, store)})
    copies = [(plan.segments[i], file) for i in todo for file in plan.segments[i].files if file.path.startswith(STAGED)]
    named = (place for segment, file in copies for place in _in_copy(segment, file, plan, store))
    far = _far(named, store, reach, plan)
    far = sorted({*far}.difference(_in_source(own, store))) if far else []
    if far:
        hint = "Somebody else may have made this dataset. Choose another output.url, or bring the file of prompts back"
        raise JobError(_problem(f"copies of prompts in {redact(store.url)}", far, hint))


def _problem(where: str, far: list[str], hint: str) -> Problem:
    got = f"{len(far)} elsewhere, such as {shown(redact(far[0]))[:200]}"
    expected = "images in the dataset, or where a job that was run here has its prompts"
    return Problem(where, expected, got, hint)


def _far(places: Iterable[str], store: Store, reach: Reach, plan: Plan) -> list[str]:
    folders = {file.path: file.folder for segment in plan.segments for file in segment.files if file.folder}
    led = (end for place in {*places} for end in _ends(place, store, folders))
    return sorted({place for place in led if not reach.holds_locator(place)})


def _ends(place: str, store: Store, folders: Mapping[str, str]) -> Iterator[str]:
    """Where the bytes are: a cell of a copy may name a file in turn."""
    yield place
    if not place.startswith(f"{EMBEDDED}{STAGED}"):
        return
    path, _, cell = place.removeprefix(EMBEDDED + STAGED).rpartition("#")
    column = cell.rpartition(":")[0]
    with whole_object(store, path) as stream:
        parquet = pq.ParquetFile(stream)
        for batch in parquet.iter_batches(_ROWS_AT_ONCE, columns=[column]):
            cells = (value for value in batch.column(0).to_pylist() if isinstance(value, dict))
            named = (str(value["path"]) for value in cells if value.get("bytes") is None and value.get("path"))
            folder = folders.get(STAGED + path)
            yield from (beside(each, folder or "") for each in named if folder or "/" in each)


def _in_failures(rows: pa.Table, plan: Plan) -> Iterator[str]:
    names = [name for name in map(input_column, plan.job.task.roles) if name in rows.column_names]
    yield from (str(place) for name in names for place in rows.column(name).unique().to_pylist() if place)


def _in_copy(segment: Segment, file: SourceFile, plan: Plan, store: Store) -> Iterator[str]:
    if segment.kind == "retry":
        with whole_object(store, file.path.removeprefix(STAGED)) as stream:
            yield from _in_failures(pq.read_table(stream), plan)
    else:
        yield from _in_prompts(file, file.rows, plan, store)


def _in_source(own: Plan, store: Store) -> Iterator[str]:
    for file in own.segments[0].files:
        if is_image(file.name):
            yield file.path
        elif is_parquet(file.name):
            yield from _in_prompts(file, file.rows, own, store)
        else:
            table, columns = read_whole(file, own.job.prompts), own.job.prompts.mapped.images.values()
            for name in columns:
                cells = enumerate(table.column(name).to_pylist())
                yield from filter(None, (locator(value, file, name, row) for row, value in cells))


def _in_prompts(file: SourceFile, rows: int, plan: Plan, store: Store) -> Iterator[str]:
    block = prompt_reader((file,), store, plan.source_schema, plan.job.prompts, plan.words).read(0, rows)
    yield from (given.locator for prompt in block.prompts for given in prompt.inputs.values() if given.locator)
