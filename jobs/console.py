"""How commands speak: people get text on a terminal, machines one JSON object."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

from promptmill.pipeline.display import letters, redact, shown
from promptmill.schemas.errors import JobError, Problem, PromptmillError
from promptmill.schemas.results import ErrorResult, ToldProblem

_SHOWN: Final = 20
out = Console(soft_wrap=True, highlight=False, markup=False)
err = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)


def say(text: str) -> None:
    """Untrusted text may be part of it: control characters are shown, markup is not interpreted."""
    out.print(Text(shown(text)))


def say_on_stderr(*texts: str) -> None:
    for text in texts:
        err.print(Text(shown(text)))


def first_of(entries: Sequence[str], namer: str = "--json") -> list[str]:
    """The first twenty, and how many more `namer` names."""
    more = len(entries) - _SHOWN
    return [*entries[:_SHOWN], *([f"{more:,} more, which {namer} names"] if more > 0 else [])]


def say_json(content: Mapping[str, Any]) -> None:
    print(json.dumps(_redacted(content), ensure_ascii=True, allow_nan=False, default=str), flush=True)


def _redacted(content: Any) -> Any:
    if isinstance(content, str):
        return redact(content)
    if isinstance(content, Mapping):
        return {key: _redacted(value) for key, value in content.items()}
    return [_redacted(value) for value in content] if isinstance(content, (list, tuple)) else content


def table(rows: Mapping[str, object]) -> None:
    grid = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        grid.add_row(Text(name, style="bold"), Text(shown(_value(name, value))))
    out.print(grid)


def columns(names: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """One line a row, however narrow the terminal: it is copied and searched."""
    lines = [tuple(names), *(tuple(shown(cell) for cell in row) for row in rows)]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (set_cell_size(cell, width) for cell, width in zip(line, widths, strict=True))
        out.print(Text("  ".join(cells).rstrip(), style="bold" if line is lines[0] else ""))


def show(content: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        say_json(content)
    else:
        table(content)


def _value(name: str, value: object) -> str:
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
    first, *others = letters(error)
    err.print(Text("error: ", style="bold red").append(Text(first, style="not bold default")))
    for letter in others:
        err.print(Text(letter))
    return error.exit_code


def say_error(error: BaseException, message: str, exit_code: int, problems: Sequence[Problem | str] = ()) -> None:
    """The one object of `--json` where a command fails."""
    told = [ToldProblem(hint=each) if isinstance(each, str) else ToldProblem(**vars(each)) for each in problems]
    say_json(ErrorResult(type(error).__name__, message, told, exit_code).as_json())


def is_terminal() -> bool:
    return sys.stderr.isatty()
