"""Rows of the source as prompts: any block of rows, without reading what lies before it where that can be helped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import pyarrow as pa

from promptmill.pipeline.prompts.a1111 import a1111_prompt
from promptmill.pipeline.prompts.classes import CLASS
from promptmill.pipeline.prompts.expansion import Expanded, Expansion
from promptmill.pipeline.prompts.image_files import is_image
from promptmill.pipeline.prompts.inputs import locator
from promptmill.pipeline.prompts.kinds import is_text
from promptmill.pipeline.prompts.prompt import (
    INVALID_TEXT,
    Block,
    Prompt,
    chosen_adapters,
    labelled_as,
    parse_prompt,
    readable,
    weights_chosen,
    with_inputs,
)
from promptmill.pipeline.prompts.source_rows import SourceRows, cells_of
from promptmill.pipeline.prompts.unicode import mend
from promptmill.pipeline.prompts.vocabulary import TEMPLATE
from promptmill.pipeline.storage.store import Store
from promptmill.schemas.errors import InputError, Problem, SampleError
from promptmill.schemas.identity import derived_prompt_id
from promptmill.schemas.inputs import STEERING, Role
from promptmill.schemas.plan import SourceFile
from promptmill.schemas.prompts import Columns, Prompts
from promptmill.schemas.row_values import values_of
from promptmill.schemas.words import NO_WORDS, ClassNumbers, Words


class PromptReader:
    """Safe to use from several threads. Staged files are read from `output`, others with ambient credentials."""

    def __init__(
        self,
        files: tuple[SourceFile, ...],
        output: Store,
        schema: pa.Schema,
        columns: Columns,
        helpers: Mapping[str, str] = MappingProxyType({}),
        expansion: Expansion | None = None,
        parse: Callable[[Prompt, object, object, object, object], Prompt] = parse_prompt,
        words: Words = NO_WORDS,
    ) -> None:
        """`helpers` are fields of `Prompt` by the columns that fill them."""
        self._parse_row = parse
        self._columns = columns
        self._helpers = helpers
        self._expansion = expansion if expansion is not None and expansion.acts else None
        self._each = 1 if self._expansion is None else self._expansion.each
        templates = self._expansion is not None and self._expansion.templates
        self._words, self._numbers = words, ClassNumbers(words.classes)
        self._named = {role: name for role, name in columns.named.items() if not (templates and role == "prompt")}
        mapped = {*self._named.values(), *helpers}
        self._carried = pa.schema([field for field in schema if field.name not in mapped])
        choices = () if self._expansion is None else self._expansion.columns
        self._choices = [name if name not in self._carried.names else f"prompt_{name}" for name in choices]
        self.passthrough_schema = pa.schema([*self._carried, *(pa.field(name, pa.string()) for name in self._choices)])
        if missing := [name for name in mapped if name is not None and name not in schema.names]:
            got = f"{len(missing)} that are not there, such as {missing[0]!r}"
            raise InputError(Problem("prompts.columns", "columns of the source, as the plan has it", got))
        self._roles = columns.images
        embedded = {name for name in self._roles.values() if not is_text(schema.field(name).type)}
        # Images that lie in the source are read where they are needed, a few at a time, and never with the rows.
        self._rows = SourceRows(files, output, pa.schema([each for each in schema if each.name not in embedded]))

    def read(self, start: int, stop: int) -> Block:
        """Prompts `start` to `stop` over all files in order; a row of the source may be several."""
        each = self._each
        low, high = start // each, -(-stop // each)
        pieces = list(self._rows.pieces(low, high))
        tables = [self._rows.read(file, first, rows) for file, first, rows in pieces]
        found: list[tuple[Prompt, Expanded | None]] = []
        begins = low * each
        for (file, first, rows), table in zip(pieces, tables, strict=True):
            ends = begins + rows * each
            asked = [divmod(place - begins, each) for place in range(max(start, begins), min(stop, ends))]
            found.extend(self._parse(table, file, first, asked))
            begins = ends
        table = pa.concat_tables(tables) if tables else self._rows.schema.empty_table()
        passthrough, broken = mend(table.select(self._carried.names))
        places = [place // each - low for place in range(start, start + len(found))]
        prompts = [
            replace(prompt, error=prompt.error or INVALID_TEXT) if row in broken else prompt
            for (prompt, _), row in zip(found, places, strict=True)
        ]
        if self._expansion is None:
            return Block(tuple(prompts), passthrough)
        return Block(tuple(prompts), self._with_choices(passthrough.take(pa.array(places, pa.int64())), found))

    def _with_choices(self, rows: pa.Table, found: Sequence[tuple[Prompt, Expanded | None]]) -> pa.Table:
        assert self._expansion is not None
        columns = dict(zip(rows.column_names, rows.columns, strict=True))  # a table without columns has no rows
        for own, name in zip(self._expansion.columns, self._choices, strict=True):
            texts = ((None if own == TEMPLATE else made.choices.get(own)) if made else None for _, made in found)
            written = ((made.written if made else None) for _, made in found)
            columns[name] = pa.chunked_array([pa.array(list(written if own == TEMPLATE else texts), pa.string())])
        return pa.table(columns, schema=self.passthrough_schema)

    @property
    def choices(self) -> dict[str, str]:
        """Columns of `passthrough_schema` that say what the templates chose, by the attribute."""
        return {} if self._expansion is None else dict(zip(self._expansion.columns, self._choices, strict=True))

    @property
    def each(self) -> int:
        """Prompts that a row of the source is."""
        return self._each

    def labels(self) -> list[int | None]:
        """The class of every row of the source."""
        name = self._columns.label
        if name is None:
            return [None] * self._rows.count
        return [self._numbers.get(cell) for cell in self._rows.column(name)]

    def _parse(
        self, table: pa.Table, file: SourceFile, first: int, asked: Sequence[tuple[int, int]]
    ) -> Iterator[tuple[Prompt, Expanded | None]]:
        """`asked` are rows of the table, each with the number of one of its texts."""
        dumped = self._named.items()
        columns = {role: cells_of(table, name) for role, name in dumped if name is None or name in table.column_names}
        extra = {field: values_of(table.column(name)) for name, field in self._helpers.items()}
        words = self._word_columns(table)
        for i, index in asked:
            given = columns["id"][i]
            prompt_id = derived_prompt_id(file.name, file.first + first + i) if given is None else readable(given)[0]
            text = columns["prompt"][i] if "prompt" in columns else None
            made, error = self._expanded(prompt_id, index, {name: cells[i] for name, cells in words.items()}, text)
            which = "" if self._expansion is None else self._expansion.which(index)
            text = text if made is None else made.text
            helped = Prompt(prompt_id + which, "", **{name: values[i] for name, values in extra.items()})
            chosen = columns["adapter"][i]
            helped = replace(helped, adapters=chosen_adapters(chosen), error=error)
            helped = replace(helped, adapter_weights=weights_chosen(chosen))
            if self._labelled:
                helped = labelled_as(helped, columns["label"][i], self._numbers)
            parsed = self._parse_row(
                with_inputs(helped, self._locators(columns, file, first, i), _numbers(columns, i)),
                text,
                columns["negative_prompt"][i],
                columns["caption"][i],
                columns["seed"][i],
            )
            yield parsed, made

    def _word_columns(self, table: pa.Table) -> dict[str, list[object]]:
        """What templates ask of rows, by name."""
        names = [] if self._expansion is None else self._expansion.names
        columns = {name: cells_of(table, name) for name in names if not (self._labelled and name == CLASS)}
        if self._labelled and CLASS in names:
            columns[CLASS] = [self._wording(cell) for cell in cells_of(table, self._columns.label)]
        return columns

    def _expanded(
        self, key: str, index: int, cells: Mapping[str, object], prompt: object
    ) -> tuple[Expanded | None, SampleError | None]:
        """What the expansion makes of a row, None where the row's own prompt stays."""
        expansion = self._expansion
        own, broken = readable(prompt)
        if expansion is None or (not expansion.templates and (broken or not own.strip())):
            return None, None
        texts = {name: None if cell is None else readable(cell) for name, cell in cells.items()}
        made = expansion.at(key, index, {name: None if each is None else each[0] for name, each in texts.items()}, own)
        if any(each is not None and each[1] for each in texts.values()):
            return made, INVALID_TEXT
        if made.missing is not None:
            return made, SampleError("empty_prompt", f"{made.missing}: null, in {made.written[:200]!r}")
        return made, made.error

    @property
    def _labelled(self) -> bool:
        return self._columns.label is not None and bool(self._words.classes)

    def _wording(self, cell: object) -> str | None:
        number = self._numbers.get(cell)
        return None if number is None else self._words.classes[number].wording

    def _locators(
        self, columns: Mapping[str, list[object]], file: SourceFile, first: int, i: int
    ) -> dict[Role, str | None]:
        """Where the images of row `i` are; None where the row names none."""
        if is_image(file.name):
            return dict.fromkeys(self._roles, file.path)
        found: dict[Role, str | None] = {}
        for role, name in self._roles.items():
            cell = columns[role][i] if role in columns else b""
            value = cell.decode("utf-8", "replace") if isinstance(cell, bytes) and role in columns else cell
            found[role] = locator(value, file, name, first + i)
        return found


def prompt_reader(
    files: tuple[SourceFile, ...], output: Store, schema: pa.Schema, prompts: Prompts, words: Words
) -> PromptReader:
    """For the files of a job's own prompts."""
    parse = a1111_prompt if prompts.syntax == "a1111" else parse_prompt
    expansion = Expansion(prompts, words)
    return PromptReader(files, output, schema, prompts.mapped, expansion=expansion, parse=parse, words=words)


def _numbers(columns: Mapping[str, Sequence[object]], row: int) -> dict[str, object]:
    return {name: columns[name][row] for name in ("strength", *STEERING)}
