"""Text of anybody's as Markdown shows it as it is."""

from __future__ import annotations

import re


def markdown(text: str) -> str:
    """Text that Markdown and the HTML inside it show as it is, on one line."""
    line = " ".join(text.split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"([\\`*_\[\]|~$!])", r"\\\1", line)
    line = re.sub(r"^(\d+)([.)])", r"\1\\\2", line)
    return re.sub(r"^([-+#=])", r"\\\1", line)


def code(text: str) -> str:
    """Text as inline code, also inside a table."""
    line = " ".join(text.split()).replace("|", "¦")
    fence = "`" * (1 + max((len(run) for run in re.findall(r"`+", line)), default=0))
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"
