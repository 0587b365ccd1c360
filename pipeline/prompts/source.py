"""Where prompts come from: checks that the files fit together, stages text formats as Parquet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa

from promptmill.pipeline.prompts.bombs import check_no_bomb, whole_parquet
from promptmill.pipeline.prompts.classes import Classes, class_file, find_classes, labelled
from promptmill.pipeline.prompts.columns import OpenedFile, check_columns, unify
from promptmill.pipeline.prompts.expansion import Expansion
from promptmill.pipeline.prompts.files import find_files, find_prompt_files, refuse_strange_names
from promptmill.pipeline.prompts.first_look import FirstLook, first_look
from promptmill.pipeline.prompts.folders import with_folder_columns
from promptmill.pipeline.prompts.formats import (
    LFS_BYTES,
    is_parquet,
    read_unpacked,
    refuse_lfs,
)
from promptmill.pipeline.prompts.held import unchanged
from promptmill.pipeline.prompts.ids import check_unique_ids
from promptmill.pipeline.prompts.image_columns import described_name
from promptmill.pipeline.prompts.image_files import check_images, image_schema, is_image, open_image_file
from promptmill.pipeline.prompts.judged import judge, looked_at
from promptmill.pipeline.prompts.kinds import carried, has_map
from promptmill.pipeline.prompts.media import without_media
from promptmill.pipeline.prompts.suites import Suite, SuiteFile, read_suite, shapes_suite, takes
from promptmill.pipeline.prompts.texts import read_text
from promptmill.pipeline.prompts.undrawn import undrawn
from promptmill.pipeline.prompts.unfolded import (
    class_rows,
    expansion_rows,
    names_in_texts,
    pools_in_rows,
    pools_in_texts,
    pools_in_wordings,
    refuse_taken,
    repeated,
)
from promptmill.pipeline.prompts.views import is_view, shown_name
from promptmill.pipeline.prompts.vocabulary import read_attributes, read_pools
from promptmill.pipeline.storage.digests import file_digest
from promptmill.pipeline.storage.entry import Entry
from promptmill.pipeline.storage.footers import parquet_tail
from promptmill.pipeline.storage.store import Store
from promptmill.pipeline.storage.urls import absolute_url
from promptmill.schemas.errors import InputError, Problem
from promptmill.schemas.plan import SourceFile
from promptmill.schemas.prompts import Prompts
from promptmill.schemas.urls import split_query
from promptmill.schemas.words import NO_WORDS, Words


@dataclass(frozen=True)
class Source:
    """All prompt files of a job. `schema` is what every row is read as; `sha256` is given for suites.

    `wrong` are values of mapped columns that make no image, `largest` and `least` the bounds of the others, by role,
    `adapters` those that rows ask for, each with the place that does first; `emphasised` is the first row whose words
    have weights, `labels` how many rows each class has.
    """

    files: tuple[SourceFile, ...]
    schema: pa.Schema
    notices: tuple[str, ...] = ()
    sha256: str | None = None
    wrong: tuple[Problem, ...] = ()
    largest: Mapping[str, int | float] = field(default_factory=dict)
    least: Mapping[str, int | float] = field(default_factory=dict)
    adapters: Mapping[str, str] = field(default_factory=dict)
    emphasised: str | None = None
    words: Words = NO_WORDS
    labels: Mapping[str, int] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)


def open_source(prompts: Prompts, output: str | None = None) -> Source:
    """Reads the footers of Parquet files, and text files whole; writes nothing.

    What the job wrote itself is no prompt, where the folder or URL `output` lies inside the source.
    Raises InputError with every problem found.
    """
    if prompts.suite is not None:
        return _open_suite(prompts, output)
    classes = find_classes(prompts, output)
    if prompts.source is None:
        return _open_classes(prompts, classes, output)
    store, entries, notices, beside = find_prompt_files(prompts.source, output)
    opened = _open_each(store, entries, prompts)
    schema = with_folder_columns(unify(opened, prompts.columns), [each.file for each in opened])
    attributes = read_attributes(prompts)
    named = names_in_texts(prompts, attributes)
    check_columns(schema, prompts.columns, split_query(prompts.source)[0], named)
    refuse_taken(attributes, schema)
    files = tuple(o.file for o in opened)
    judged = judge(store, opened, prompts)
    notices = [*notices, *(undrawn(store, opened, beside, prompts) if beside else ())]
    schema, left_out = without_media(store, files, schema, prompts)
    labels = labelled(store, files, prompts, classes)
    asked = {**pools_in_texts(prompts, attributes), **pools_in_rows(store, files, prompts)}
    words = Words(labels.classes, attributes, read_pools(prompts, asked, output))
    again = repeated(expansion_rows(store, files, prompts, words, schema), Expansion(prompts, words))
    source = Source(
        files,
        schema,
        (*notices, *(n for o in opened for n in o.notices), *left_out, *judged.notices, *labels.notices, *again),
        wrong=(*judged.problems, *labels.wrong),
        words=words,
        labels=labels.counts,
        largest=judged.largest,
        least=judged.least,
        adapters=judged.adapters,
        emphasised=judged.emphasised,
    )
    _check_rows(store, source, prompts)
    return source


def _check_rows(store: Store, source: Source, prompts: Prompts) -> None:
    if source.rows == 0:
        where, got = (
            f"prompts.source: {split_query(prompts.source or '')[0]}",
            f"{len(source.files)} file(s) with no rows",
        )
        raise InputError(Problem(where, "at least one prompt", got, "Check what wrote them"))
    if prompts.columns.id is not None:
        check_unique_ids(store, source.files, prompts)


def _open_each(store: Store, entries: Sequence[Entry], prompts: Prompts) -> list[OpenedFile]:
    """Raises InputError with the problems of all files."""
    opened: list[OpenedFile] = []
    problems: list[Problem | str] = []
    images = [entry.name for entry in entries if is_image(entry.name)]
    if images:
        check_images(prompts, images)
    rows = image_schema(images, prompts)
    with first_look(at_once=any(is_parquet(entry.name) for entry in entries)) as look:
        for result in store.map(lambda entry: _try_open(store, entry, prompts, look, rows), entries):
            if isinstance(result, InputError):
                problems.extend(result.problems)
            else:
                opened.append(result)
    if problems:
        raise InputError(*problems)
    return opened


def _open_suite(prompts: Prompts, output: str | None) -> Source:
    suite = find_suite(prompts, output)
    schema = unify([OpenedFile(source_file(file), file.table.schema) for file in suite.files], prompts.columns)
    return Source(tuple(source_file(file) for file in suite.files), schema, suite.notices, suite.sha256)


def _open_classes(prompts: Prompts, classes: Classes, output: str | None) -> Source:
    """A job of classes alone, each of which is a row."""
    file, attributes = class_file(classes.classes, prompts), read_attributes(prompts)
    named = names_in_texts(prompts, attributes)
    check_columns(file.table.schema, prompts.mapped, "prompts.classes", named)
    asked = {**pools_in_texts(prompts, attributes), **pools_in_wordings(prompts, classes.classes)}
    words = Words(classes.classes, attributes, read_pools(prompts, asked, output))
    again = repeated(class_rows(classes.classes), Expansion(prompts, words))
    return Source((source_file(file),), file.table.schema, (*classes.notices, *again), words=words)


def made_files(prompts: Prompts, output: str | None) -> tuple[SuiteFile, ...]:
    """Those that are no files of the user's: of a suite, and of a job of classes alone."""
    if prompts.suite is None:
        return (class_file(find_classes(prompts, output).classes, prompts),)
    return find_suite(prompts, output).files


def find_suite(prompts: Prompts, output: str | None) -> Suite:
    assert prompts.suite is not None
    if prompts.source is None:
        return shapes_suite(prompts.shapes)
    store, found = find_files(prompts.source, output)
    entries = [entry for entry in found if takes(prompts.suite, entry.name)]
    if not entries:
        where = f"prompts.source: {found[0].name}"
        raise InputError(Problem(where, f"a .txt file, as {prompts.suite} has them", "another ending"))
    refuse_strange_names(entries)
    contents = store.map(lambda entry: read_unpacked(store, entry.name), entries)
    return read_suite(prompts.suite, {entry.name: data for entry, data in zip(entries, contents, strict=True)})


def source_file(file: SuiteFile) -> SourceFile:
    return SourceFile(file.name, file.name, file.size_bytes, file.table.num_rows, file.sha256[:32])


def _try_open(
    store: Store, entry: Entry, prompts: Prompts, look: FirstLook, rows: pa.Schema
) -> OpenedFile | InputError:
    """`rows` is the schema of images that are source files themselves."""
    try:
        if is_image(entry.name):
            return open_image_file(store, entry, rows)
        if is_parquet(entry.name):
            if entry.size_bytes < LFS_BYTES:
                refuse_lfs(store.read(entry.name), entry.name)
            return _open_parquet(store, entry, look, prompts)
        return _open_text(store, entry, prompts, entry.name)
    except InputError as error:
        return error


def _open_parquet(store: Store, entry: Entry, look: FirstLook, prompts: Prompts) -> OpenedFile:
    where = f"prompts.source: {entry.name}"
    version, path = store.content_version(entry), store.local_path(entry.name)
    with whole_parquet(entry.name), unchanged(entry.name):
        digest = None if path is None else file_digest(path)
        footer = look.footer(parquet_tail(store, entry, version))
        names = footer.schema.names
    if len(set(names)) < len(names):
        raise InputError(Problem(where, "each column name once", f"columns {names}"))
    with whole_parquet(entry.name):
        check_no_bomb(store, entry, footer, look)
    if is_view(footer.schema):
        return _open_text(store, entry, prompts, shown_name(entry.name))
    if (described := described_name(entry.name, footer.schema.names, prompts)) is not None:
        return _open_text(store, entry, prompts, described)
    file = SourceFile(entry.name, _url(store, entry), entry.size_bytes, footer.rows, footer.etag)
    file = replace(file, digest=digest, version=version)
    maps = [field.name for field in footer.schema if has_map(field.type)]
    notices = [f"{where}: column {name!r} is a map; it is carried as a list of key and value" for name in maps]
    plain = pa.schema([field.with_type(carried(field.type)) for field in footer.schema])
    return OpenedFile(file, plain, tuple(notices))


def _open_text(store: Store, entry: Entry, prompts: Prompts, name: str) -> OpenedFile:
    text = read_text(store, name, prompts, entry=entry)
    table = text.table
    file = SourceFile(name, _url(store, entry), entry.size_bytes, table.num_rows, text.etag)
    return OpenedFile(file, table.schema, text.notices, table.select(looked_at(prompts, table.schema)))


def _url(store: Store, entry: Entry) -> str:
    return absolute_url(f"{store.url.rstrip('/')}/{entry.name}")
