"""How commands speak: people get text on a terminal, machines one JSON object."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from promptmill.pipeline.display import printable, redact
from promptmill.schemas.errors import JobError, Problem, PromptmillError

out = Console(soft_wrap=True, highlight=False, markup=False)
err = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)


def say(text: str) -> None:
    """Untrusted text may be part of it: control characters are shown, markup is not interpreted."""
    out.print(Text(printable(redact(text))))


def say_json(content: Mapping[str, Any]) -> None:
    print(json.dumps(content, ensure_ascii=True, allow_nan=False, default=str), flush=True)


def table(rows: Mapping[str, object]) -> None:
    grid = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        grid.add_row(Text(name, style="bold"), Text(printable(redact(_shown(name, value)))))
    out.print(grid)


def _shown(name: str, value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and name != "seed":  # a seed is copied
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "–"
    return str(value)


def report_error(error: PromptmillError, as_json: bool) -> int:
    """Prints to stderr, and to stdout as an object where JSON was asked for; the exit code."""
    if as_json:
        say_error(error, str(error), error.exit_code, error.problems if isinstance(error, JobError) else ())
    text = redact(printable(str(error)))
    err.print(Text("error: ", style="bold red").append(Text(text, style="not bold default")))
    return error.exit_code


def say_error(error: BaseException, message: str, exit_code: int, problems: Sequence[Problem | str] = ()) -> None:
    """The one object of `--json` where a command fails."""
    shown = [_as_dict(problem) for problem in problems]
    say_json({"error": type(error).__name__, "message": redact(message), "problems": shown, "exit_code": exit_code})


def _as_dict(problem: Problem | str) -> dict[str, str]:
    if isinstance(problem, str):
        return {"hint": redact(problem)}
    return {name: redact(value) for name, value in vars(problem).items()}


def is_terminal() -> bool:
    return sys.stderr.isatty()
