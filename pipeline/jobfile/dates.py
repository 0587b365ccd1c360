"""`{date}` in `output.url`, `curate.to` and `prompts.source`: the command's day, so that a nightly job has its own."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

from promptmill.schemas.job import Job

_DATE = re.compile(r"\{date(?::([^{}]+))?\}")


def dated(job: Job, now: datetime | None = None) -> Job:
    """The day is that of UTC: the same on every machine. `{date:%Y/%m}` says another form than 2026-11-28."""
    today = now or datetime.now(UTC)
    places = {"output": ("url", job.output.url), "prompts": ("source", job.prompts.source)}
    if job.curate is not None:
        places["curate"] = ("to", job.curate.to)
    changed = {}
    for section, (name, text) in places.items():
        if text is not None and _DATE.search(text):
            changed[section] = getattr(job, section).model_copy(update={name: _said(text, today)})
    return job.model_copy(update=changed) if changed else job


def dated_place(url: str) -> str:
    """The place of a dataset as a command is given it: `{date}` is today's, unless a folder has that very name."""
    return _said(url, datetime.now(UTC)) if _DATE.search(url) and not Path(url).exists() else url


def _said(text: str, day: datetime) -> str:
    return _DATE.sub(lambda found: day.strftime(found[1] or "%Y-%m-%d"), text)
