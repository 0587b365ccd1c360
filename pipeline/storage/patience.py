"""A call of a store, tried again while its fault may pass."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from promptmill.pipeline.display import redact, shown
from promptmill.pipeline.storage.faults import advice, describe, is_silence, is_storage_fault, is_transient
from promptmill.schemas.errors import JobError, MissingObjectError, NoAnswerError, Problem, StorageError

T = TypeVar("T")

DEFAULT_PATIENCE_S = 300.0
_LONGEST_WAIT_S = 20.0
_VARIABLE = "PROMPTMILL_STORAGE_PATIENCE_S"


def default_patience_s() -> float:
    """Raises JobError where the environment says something else than seconds."""
    text = os.environ.get(_VARIABLE, "").strip() or str(DEFAULT_PATIENCE_S)
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise JobError(Problem(f"the variable {_VARIABLE}", "seconds from 0", shown(text), "Correct it, or unset it"))
    return seconds


@dataclass(frozen=True)
class Patience:
    """For `seconds`. `on_fault` is told of each fault before the next try, and of the seconds until then.

    `where` is how messages call the store.

    With `has_query` nothing behind a `?` is told: it may be a secret.
    """

    seconds: float
    where: str
    on_fault: Callable[[str, float], None]
    has_query: bool

    def call(self, what: str, attempt: Callable[[], T]) -> T:
        """`what` is for messages: "read job.json".

        Raises StorageError for a fault that lasts, of it MissingObjectError where nothing is there and NoAnswerError
        where nobody answered; other errors as they come.
        """
        retrying = Retrying(
            retry=retry_if_exception(is_transient),
            wait=wait_random_exponential(multiplier=0.5, max=min(_LONGEST_WAIT_S, self.seconds / 10)),
            stop=stop_after_delay(self.seconds),
            before_sleep=lambda state: self._announce(what, state),
            reraise=True,
        )
        try:
            return retrying(attempt)
        except Exception as error:
            if not is_storage_fault(error):
                raise
            kind = NoAnswerError if is_silence(error) else StorageError
            kind = MissingObjectError if isinstance(error, FileNotFoundError) else kind
            text = f"cannot {what} in {self.where}: {describe(error)}. {advice(error)}"
            raise kind(self._without_secrets(text)) from None

    def _announce(self, what: str, state: RetryCallState) -> None:
        wait_s = state.next_action.sleep if state.next_action else 0.0
        error = describe(state.outcome.exception() if state.outcome else None)
        text = f"storage: cannot {what} yet ({error}); try {state.attempt_number + 1} in {wait_s:.1f} s"
        self.on_fault(self._without_secrets(text), wait_s)

    def _without_secrets(self, text: str) -> str:
        text = redact(text)
        return re.sub(r"\?[^\s'\"]+", "?***", text) if self.has_query else text
