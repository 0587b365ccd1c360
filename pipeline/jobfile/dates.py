"""`{date}` in `output.url`: the day a command is started, so that a job on a schedule has an output for each day."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from promptmill.schemas.job import Job

_DATE = re.compile(r"\{date(?::([^{}]+))?\}")


def dated(job: Job, now: datetime | None = None) -> Job:
    """The day is that of UTC: the same on every machine. `{date:%Y/%m}` says another form than 2026-11-28."""
    if not _DATE.search(job.output.url):
        return job
    today = now or datetime.now(UTC)
    url = _DATE.sub(lambda found: today.strftime(found[1] or "%Y-%m-%d"), job.output.url)
    return job.model_copy(update={"output": job.output.model_copy(update={"url": url})})
