"""Scores of the user's own: a class found by import path or entry point, and what it says of itself."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from promptmill.pipeline.display import cut
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.job import Job
from promptmill.schemas.plan import PythonScore

GROUP = "promptmill.scores"
EXPECTED = "`package.module:Class`, or the name of an entry point in the group `promptmill.scores`"
_HINT = "jobs/README.md has a complete example"


def python_scores(job: Job) -> tuple[PythonScore, ...]:
    """Those of the job, in its order, held against the names of its other scores. Raises JobError with all problems."""
    problems: list[Problem | str] = []
    found: list[PythonScore] = []
    names = list(job.score_names)
    for index, score in enumerate(job.score):
        if score.python is None:
            continue
        where = f"score[{index}].python"
        try:
            own = describe_score(score.python, where)
        except JobError as error:
            problems += error.problems
            continue
        twice = [name for name in own.names if name in names]
        if twice:
            problems.append(Problem(where, "scores whose names differ from the job's others", f"{twice[0]!r} twice"))
        if own.scope != "image":
            hint = "`promptmill score URL --metric python=…` takes it afterwards, for images that are there"
            problems.append(Problem(where, 'a score of scope "image"', f'"{own.scope}"', hint))
        names += own.names
        found.append(own)
    if not problems and found and job.select is not None:
        problems += _wrong_select(job, found, names)
    if problems:
        raise JobError(*problems)
    return tuple(found)


def _wrong_select(job: Job, found: Sequence[PythonScore], names: Sequence[str]) -> list[Problem]:
    select = job.select
    if select is None:
        return []
    for place, each in enumerate(select.where):
        if each.score not in names:
            where, expected = f"select.where[{place}].score", f"the name of a score ({', '.join(names)})"
            return [Problem(where, expected, repr(each.score))]
    if select.by not in names:
        return [Problem("select.by", f"the name of a score ({', '.join(names)})", repr(select.by))]
    if select.min is not None and any(select.by in own.lower_is_better for own in found):
        hint = "Of this score the lowest are kept, so a least value would reject the best"
        return [Problem("select.min", f"null with {select.by}", str(select.min), hint)]
    return []


def describe_score(path: str, where: str) -> PythonScore:
    """Imports the class and makes no instance of it. Raises JobError where it does not keep the protocol."""
    kind = find_class(path, where)
    names = _words(getattr(kind, "scores", None))
    lower = _words(getattr(kind, "lower_is_better", ()))
    version = getattr(kind, "version", None)
    on_device = getattr(kind, "on_device", False)
    scope: Any = getattr(kind, "scope", "image")
    wrong = [
        *([] if names else [("scores", 'the names of its scores, such as ("brightness",)')]),
        *([] if isinstance(version, str) and version else [("version", "a text that changes when its results do")]),
        *([] if lower is not None and set(lower) <= set(names or ()) else [("lower_is_better", "names of its scores")]),
        *([] if isinstance(on_device, bool) else [("on_device", "True or False")]),
        *([] if scope in ("image", "group") else [("scope", '"image" or "group"')]),
        *([] if callable(getattr(kind, "score", None)) else [("score", "a method `score(self, pictures)`")]),
    ]
    if wrong:
        problems = [
            Problem(where, f"{path} with `{name}`: {expected}", repr(getattr(kind, name, None))[:100], _HINT)
            for name, expected in wrong
        ]
        raise JobError(*problems)
    return PythonScore(
        path, names or (), str(version), lower or (), bool(on_device), "group" if scope == "group" else "image"
    )


def find_class(path: str, where: str) -> Any:
    """Looks in the current folder too, behind all that is installed. Raises JobError with what Python says."""
    try:
        return _loaded(path, where)
    except JobError:
        raise
    except (Exception, SystemExit) as error:  # what a module of the user's raises while it is imported
        got = f"{type(error).__name__}: {error}"
        hint = f"Looked in the installed packages and in {Path.cwd()}. {_HINT}"
        raise JobError(Problem(where, f"{EXPECTED}, that can be imported", cut(f"{path}: {got}", 300), hint)) from None


def _loaded(path: str, where: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # stays: the class may import its siblings late
    module, colon, name = path.partition(":")
    if not colon:
        found = [entry.load() for entry in entry_points(group=GROUP, name=path)]
        if len(found) != 1:
            known = ", ".join(sorted(entry_points(group=GROUP).names)) or "none"
            got = f"{path!r}, which {len(found)} packages give; there are: {known}"
            raise JobError(Problem(where, EXPECTED, got, _HINT))
        return found[0]
    kind: Any = importlib.import_module(module)
    for part in name.split("."):
        kind = getattr(kind, part)
    if not isinstance(kind, type):
        raise JobError(Problem(where, f"{EXPECTED}: a class", f"{path} is a {type(kind).__name__}", _HINT))
    return kind


def _words(value: Any) -> tuple[str, ...] | None:
    """None for anything but distinct names that a column can have."""
    if not isinstance(value, (tuple, list, frozenset, set)) or not all(isinstance(one, str) for one in value):
        return None
    words = tuple(sorted(value) if isinstance(value, (set, frozenset)) else value)
    return words if len(set(words)) == len(words) and all(word.isidentifier() for word in words) else None
