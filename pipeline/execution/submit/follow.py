"""A job on the cluster until it has ended: its log as it comes, and the exit code of `promptmill run` there."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from promptmill.pipeline.execution.submit.dashboard import Dashboard, UnknownJobError
from promptmill.schemas.errors import ClusterError

ENDED: Final = frozenset({"STOPPED", "SUCCEEDED", "FAILED"})
INTERRUPTED: Final = 130
_LOOK_EVERY_S: Final = 1.0
_LONGEST_S: Final = 15.0
_BYTES_A_SECOND: Final = 200_000
"""Each look brings the whole log: of a long one there are fewer."""
PATIENCE_S: Final = 300.0


@dataclass(frozen=True)
class Ended:
    """`exit_code` is the command's own where Ray knows it. A job that was stopped has none: it is 130, as a run that is
    interrupted. `log` is all of it."""

    job: str
    status: str
    exit_code: int
    message: str
    log: str


def follow(
    dashboard: Dashboard,
    job: str,
    say: Callable[[str], object],
    tell: Callable[[str], object],
    patience_s: float = PATIENCE_S,
    sleep: Callable[[float], object] = time.sleep,
) -> Ended:
    """`say` gets each line of the log, `tell` what is to be said of the connection.

    Raises ClusterError where the dashboard does not answer for `patience_s`, when the job may go on all the same, and
    where it has forgotten a job that it knew; UnknownJobError where it never did.
    """
    shown, silent_since, known = "", None, False
    while True:
        try:
            details = dashboard.job(job)
            log, known = dashboard.log(job), True
        except UnknownJobError:
            if not known:
                raise
            raise ClusterError(
                f"{dashboard.url} does not know job {job} any more: the head was started anew. Submit the job again, "
                "and it continues"
            ) from None
        except ClusterError as error:
            now = time.monotonic()
            if silent_since is None:
                silent_since = now
                tell(f"{error}; looking again")
            if now - silent_since > patience_s:
                raise ClusterError(
                    f"{dashboard.url} has not answered for {patience_s:.0f} s; job {job} may go on. `promptmill jobs "
                    f"logs {job}` follows it again"
                ) from None
            sleep(_LOOK_EVERY_S)
            continue
        silent_since = None
        ended = str(details.get("status")) in ENDED
        shown = _say_new(shown, log, say, whole=ended)
        if ended:
            return _ended(job, details, log)
        sleep(min(_LONGEST_S, _LOOK_EVERY_S + len(log) / _BYTES_A_SECOND))


def _say_new(shown: str, log: str, say: Callable[[str], object], whole: bool) -> str:
    """What has been said by now: whole lines, until the job has ended."""
    new = log[len(shown) :] if log.startswith(shown) else log
    end = len(new) if whole else new.rfind("\n") + 1
    for line in new[:end].splitlines():
        say(line)
    return log[: len(log) - len(new) + end]


def _ended(job: str, details: dict[str, Any], log: str) -> Ended:
    status, code = str(details["status"]), details.get("driver_exit_code")
    if status == "STOPPED":
        return Ended(job, status, INTERRUPTED, "", log)
    if isinstance(code, int):
        return Ended(job, status, code if code >= 0 else 128 - code, "", log)
    lines = [line.strip() for line in str(details.get("message") or "").splitlines() if line.strip()]
    message = f"{details.get('error_type') or status}: {lines[-1] if lines else 'Ray says no more'}"[:1000]
    return Ended(job, status, 0 if status == "SUCCEEDED" else ClusterError.exit_code, message, log)
