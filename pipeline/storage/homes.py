"""`~` and `~user` at the beginning of a path."""

from __future__ import annotations

from pathlib import Path

from promptmill.pipeline.display import redact
from promptmill.schemas.errors import JobError, Problem


def at_home(path: str | Path) -> Path:
    """With the home in place of `~`; a file that is really called so (`~$prompts.xlsx`) is that file.

    Raises JobError for a user whom nobody here knows: pathlib raises RuntimeError, others make a folder of that
    name.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        if Path(path).exists():
            return Path(path)
        who = Path(path).parts[0]
        expected, got = "a path whose `~` is the home of somebody here", f"no home of {redact(who)}"
        raise JobError(Problem(redact(str(path)), expected, got, "Write the path out")) from None
