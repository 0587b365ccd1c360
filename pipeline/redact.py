"""Keeps secrets out of whatever is printed or written."""

from __future__ import annotations

import os
import re

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
