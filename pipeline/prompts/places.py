"""The prompts of a round: places of classes, each with the prompt that it has, out of the job's own prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, fields, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from promptmill.pipeline.prompts.prompt import Block, Prompt
from promptmill.pipeline.prompts.reader import PromptReader
from promptmill.schemas.plan import Place

_FIELDS = len(fields(Place))
Labels = Callable[[], Sequence[int | None]]


class PlacesReader:
    """`labels` gives the class of each row of the source, `find` the places of the round, once the prompts of each
    class are counted."""

    def __init__(
        self,
        prompts: PromptReader,
        labels: Labels,
        classes: int,
        find: Callable[[Sequence[int]], Iterable[Place]],
    ) -> None:
        self._prompts, self._labels, self._classes, self._find = prompts, labels, classes, find
        self.passthrough_schema = prompts.passthrough_schema

    @cached_property
    def _rows(self) -> list[npt.NDArray[np.int64]]:
        """Rows of the source by class; a row without one is of none."""
        told = np.array([-1 if label is None else label for label in self._labels()], np.int64)
        return [np.flatnonzero(told == label) for label in range(self._classes)]

    @cached_property
    def _places(self) -> npt.NDArray[np.int64]:
        """A row each: a round has millions, which as objects took 184 bytes each, for as long as the worker lives."""
        found = self._find([len(rows) * self._prompts.each for rows in self._rows])
        return np.fromiter((astuple(place) for place in found), np.dtype((np.int64, _FIELDS)))

    def read(self, start: int, stop: int) -> Block:
        asked = [Place(*map(int, row)) for row in self._places[start:stop]]
        rows = [self._row(place) for place in asked]
        prompts: list[Prompt] = []
        tables: list[pa.Table] = []
        for low, high in _runs(rows):
            block = self._prompts.read(low, high)
            prompts += block.prompts
            tables.append(block.passthrough)
        passthrough = pa.concat_tables(tables) if tables else self.passthrough_schema.empty_table()
        placed = [
            replace(prompt, first_index=place.first, images=place.images, quota=place.share)
            for prompt, place in zip(prompts, asked, strict=True)
        ]
        return Block(tuple(placed), passthrough)

    def _row(self, place: Place) -> int:
        """The number of its prompt among all of the job's."""
        row, text = divmod(place.prompt, self._prompts.each)
        return int(self._rows[place.label][row]) * self._prompts.each + text


def _runs(rows: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Neighbours are read at once."""
    start = 0
    for i in range(1, len(rows) + 1):
        if i == len(rows) or rows[i] != rows[i - 1] + 1:
            yield rows[start], rows[i - 1] + 1
            start = i
