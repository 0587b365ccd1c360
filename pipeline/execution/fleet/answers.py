"""What a task of Ray came to."""

from __future__ import annotations

from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from promptmill.pipeline.display import first_line
from promptmill.schemas.errors import ClusterError, PromptmillError


def answer_of(call: Any, what: str) -> Any:
    """Waits for it. What is ours is raised as the task raised it, ClusterError where Ray gave the task up; `what` says
    in the message what it made."""
    try:
        return ray.get(call)
    except RayTaskError as error:
        if isinstance(error.cause, PromptmillError):
            raise error.cause from None
        raise
    except RayError as error:
        raise ClusterError(f"{what} was not made: {first_line(error)}") from error
