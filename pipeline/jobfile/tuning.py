"""Reading the file of `promptmill finetune`: every problem at once, each with its line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from promptmill.pipeline.display import keep_secrets
from promptmill.pipeline.jobfile.document import Document, printable
from promptmill.pipeline.jobfile.text import read_text
from promptmill.pipeline.jobfile.yaml_reader import read_document, read_value
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.tuning import Tuning
from promptmill.schemas.urls import holds_password


def load_tuning(path: str | Path, overrides: Sequence[str] = ()) -> Tuning:
    """Raises JobError with all problems. `overrides` are `key.path=value`."""
    keep_secrets([str(path), *overrides])
    name = "standard input" if str(path) == "-" else printable(str(path), 200)
    return parse_tuning(read_text(path, name), name, overrides)


def parse_tuning(text: str, name: str, overrides: Sequence[str] = ()) -> Tuning:
    """As `load_tuning`; `name` stands in messages."""
    document = read_document(text, name)
    if document.findings:
        raise JobError(*(finding.problem() for finding in document.findings[:50]))
    if not isinstance(document.data, dict):
        hint = "It begins like this: `name: my-adapter`."
        raise JobError(Problem(name, "a mapping of fields", document.shown(()), hint))
    if any(holds_password(text) for text in map(str, _values(document.data))):
        raise JobError(Problem(name, "URLs without user and password", "one with them", "Use the environment."))
    for order, override in enumerate(overrides, 1):
        _override(document.data, override, order)
    try:
        return Tuning.model_validate(document.data)
    except ValidationError as error:
        raise JobError(*_problems(error, document)) from None


def _override(data: dict[str, Any], override: str, order: int) -> None:
    key, equals, text = override.partition("=")
    *sections, last = key.split(".")
    value = read_value(text, f"--set {override}", order)
    if not equals or not last or value.findings:
        raise JobError(
            Problem(f"--set {printable(override)}", "FIELD=VALUE such as finetune.steps=300", "another form")
        )
    for section in sections:
        inner = data.get(section) or {}
        data[section] = inner
        if not isinstance(inner, dict):
            raise JobError(Problem(f"--set {printable(override)}", f"a section `{section}`", "a value"))
        data = inner
    data[last] = value.data


def _problems(error: ValidationError, document: Document) -> list[Problem]:
    found = []
    for each in error.errors(include_url=False)[:50]:
        path = tuple(part for part in each["loc"] if isinstance(part, int) or not _is_type(part))
        where = document.place(path).where(path)
        context = each.get("ctx", {})
        if each["type"] == "rule":
            found.append(Problem(where, context["expected"], context["got"], context["hint"]))
        elif each["type"] == "extra_forbidden":
            hint = "`promptmill schema finetune` lists the fields."
            found.append(Problem(where, "a field of the tuning", f"the unknown key `{printable(str(path[-1]))}`", hint))
        else:
            got = "nothing" if each["type"] == "missing" else document.shown(path)
            found.append(Problem(where, each["msg"][:1].lower() + each["msg"][1:], got))
    return found


def _is_type(part: str) -> bool:
    """Pydantic puts the member of a union into the place: `literal[…]`, `tuple[…]`."""
    return "[" in part or part in ("str", "int", "float")


def _values(data: Any) -> list[Any]:
    if isinstance(data, dict):
        return [leaf for value in data.values() for leaf in _values(value)]
    return [leaf for value in data for leaf in _values(value)] if isinstance(data, list) else [data]
