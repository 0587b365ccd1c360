"""Text for a terminal: nothing that a stranger wrote acts there, and nothing secret is shown."""

from __future__ import annotations

import os
import re


def printable(text: str) -> str:
    """Control characters as visible escapes: prompts and ids may carry terminal codes."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def format_duration(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {whole % 60:02} s" if minutes else f"{whole} s"


_USER_INFO = re.compile(r"(?<=://)[^/@\s'\"]+@")


_QUERY_SECRET = re.compile(r"(?i)((?:signature|credential|token|secret|password|passwd|key|sig)=)[^&\s'\"]+")


_SECRET_NAME = re.compile(r"(?i)(secret|token|password|passwd|credential|api_?key|access_?key)")


_SHORTEST_SECRET = 8  # shorter values would blank out ordinary words


def redact(text: str) -> str:
    """Blank user info and secret query parameters of URLs, and every value of a secret-looking environment variable."""
    text = _USER_INFO.sub("***@", text)
    text = _QUERY_SECRET.sub(r"\1***", text)
    for name, value in os.environ.items():
        # A path (AWS_WEB_IDENTITY_TOKEN_FILE, a folder of credentials) is no secret and may stand in messages.
        if len(value) >= _SHORTEST_SECRET and _SECRET_NAME.search(name) and not value.startswith("/"):
            text = text.replace(value, "***")
    return text


def has_user_info(url: str) -> bool:
    return bool(_USER_INFO.search(url))
