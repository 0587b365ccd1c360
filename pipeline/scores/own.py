"""A score of the user's own, held to the protocol: what its class returns is checked, what it raises is named."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from promptmill.pipeline.planning.own_scores import describe_score, find_class
from promptmill.pipeline.scores.interface import Picture, Scope, Scores
from promptmill.schemas.errors import ModelLoadError
from promptmill.schemas.plan import PythonScore


class OwnScore:
    def __init__(self, told: PythonScore) -> None:
        """Makes the one instance of this process. Raises JobError, or ModelLoadError with what the class raises."""
        self.name = told.names[0]
        self.columns = told.names
        self.version = f"{told.path} {told.version}"
        self.scope: Scope = told.scope
        self.lower_is_better = told.lower_is_better
        self._path = told.path
        self._one_at_a_time = threading.Lock()  # encoder threads score side by side; nobody asked it to stand that
        self._scorer = self._instance(told)
        self.needs = tuple(getattr(self._scorer, "needs", ()))

    @staticmethod
    def _instance(told: PythonScore) -> Any:
        where = f"score {told.path}"
        now = describe_score(told.path, where)
        if now != told:
            raise ModelLoadError(
                f"{where} is not what it was when the job was planned: version {now.version} with the scores "
                f"{', '.join(now.names)}, not {told.version} with {', '.join(told.names)}"
            )
        try:
            return find_class(told.path, where)()
        except Exception as error:
            raise ModelLoadError(f"{where} cannot be made: {type(error).__name__}: {error}") from error

    def prepare(self, captions: Sequence[str]) -> None:
        if hasattr(self._scorer, "prepare"):
            self._scorer.prepare(captions)

    def score(self, pictures: Sequence[Picture]) -> Scores:
        """Raises ValueError that names the class for whatever goes wrong in it: it costs the images, not the worker."""
        try:
            with self._one_at_a_time:
                found = self._scorer.score(pictures)
        except Exception as error:
            raise ValueError(f"{self._path}: {type(error).__name__}: {error}") from error
        if not isinstance(found, Mapping) or set(found) != set(self.columns):
            got = sorted(map(str, found)) if isinstance(found, Mapping) else type(found).__name__
            raise ValueError(f"{self._path}: expected the scores {', '.join(self.columns)}, got {got}")
        return {name: self._floats(name, found[name], len(pictures)) for name in self.columns}

    def _floats(self, name: str, values: Any, count: int) -> npt.NDArray[np.float32]:
        try:
            numbers = np.asarray(values, np.float32)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self._path}: {name}: expected {count} numbers: {error}") from None
        if numbers.shape != (count,):
            raise ValueError(f"{self._path}: {name}: expected {count} numbers, got the shape {numbers.shape}")
        return numbers
