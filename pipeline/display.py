"""The door that all text for people passes: nothing a stranger wrote acts there, and nothing secret is shown."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterable
from datetime import datetime

from promptmill.schemas.errors import JobError
from promptmill.schemas.urls import HIDDEN, hide_in, secrets_in

_SECRET_NAME = re.compile(r"(?i)(secret|token|password|passwd|passphrase|credential|api_?key|access_?key|account_?key)")
_SHORTEST_SECRET = 8  # of the environment: shorter values would blank out ordinary words
_SHORTEST_IN_URL = 3

_known: set[str] = set()
_lock = threading.Lock()


def keep_secrets(texts: Iterable[str]) -> None:
    """From now on no message repeats what these URLs and paths hold of passwords, queries and tokens.

    Called before anything is done with them: libraries write a URL again in forms that no pattern finds.
    """
    found = {secret for text in texts for secret in secrets_in(text) if len(secret) >= _SHORTEST_IN_URL}
    with _lock:
        _known.update(found)


def redact(text: str) -> str:
    """Blank what `keep_secrets` was told, what is secret in any URL, and every secret of the environment."""
    return hide_in(_without(text, [*_known, *_environment()]))


def _without(text: str, secrets: Iterable[str]) -> str:
    for secret in sorted((secret for secret in secrets if secret in text), key=len, reverse=True):
        # A short one hides whole words alone: the password `pass` is no reason to blank `password`.
        pattern = re.escape(secret)
        text = re.sub(pattern if len(secret) >= _SHORTEST_SECRET else rf"(?<!\w){pattern}(?!\w)", HIDDEN, text)
    return text


def _environment() -> Iterable[str]:
    for name, value in os.environ.items():
        # A path (AWS_WEB_IDENTITY_TOKEN_FILE, a folder of credentials) is no secret and may stand in messages.
        if len(value) >= _SHORTEST_SECRET and _SECRET_NAME.search(name) and not value.startswith("/"):
            yield value
        elif name.upper().endswith("CONNECTION_STRING"):
            yield from re.findall(r"(?i)(?:AccountKey|SharedAccessSignature|Password)=([^;]{8,})", value)


def printable(text: str) -> str:
    """One line: control, format and bidi characters, line ends and lone surrogates are visible escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shown(text: object) -> str:
    """One line of text as a terminal, a log or an error letter gets it."""
    return printable(redact(str(text)))


def letters(error: BaseException) -> list[str]:
    """An error as lines, one for each problem."""
    return [shown(each) for each in (error.problems if isinstance(error, JobError) else [error])] or [""]


def format_duration(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {whole % 60:02} s" if minutes else f"{whole} s"


def local_time(seconds: float) -> str | None:
    """In local time, with its distance from UTC; None for what no calendar has."""
    try:
        return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return None


def cut(text: object, limit: int) -> str:
    """At most `limit` characters, without secrets: of one that is cut first, nothing would find the rest."""
    return redact(str(text))[:limit]


def first_line(error: BaseException) -> str:
    """What it says, on one line of at most 200 characters; its kind where it says nothing."""
    return cut(next(iter(str(error).splitlines()), ""), 200) or type(error).__name__
