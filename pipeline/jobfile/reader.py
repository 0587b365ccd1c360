"""Reading a job file: every problem at once, each with its line, what was expected, what came and what to do.

Imports neither torch nor Ray nor Arrow: `promptmill validate` answers at once.
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from promptmill.pipeline.display import keep_secrets, shown
from promptmill.pipeline.jobfile import fields as job_fields
from promptmill.pipeline.jobfile.dates import dated
from promptmill.pipeline.jobfile.document import Document, FieldPath, Finding, printable
from promptmill.pipeline.jobfile.overrides import apply_override
from promptmill.pipeline.jobfile.text import read_text
from promptmill.pipeline.jobfile.yaml_reader import read_document
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.job import Job
from promptmill.schemas.urls import holds_password

MAX_PROBLEMS: Final = 50
"""Shown at once; the rest is counted."""
_FREE_TEXT: Final = frozenset({"name", "negative_prompt", "distractors"})
"""Fields whose text is never opened."""
MAX_ERRORS: Final = 1000
"""Looked at: a megabyte of nonsense must not take half a minute to refuse."""


def load_job(path: str | Path, overrides: Sequence[str] = ()) -> Job:
    """Read and check a job file; "-" is standard input. `overrides` are `key.path=value`, the last one wins.

    Raises JobError with all problems, in the order of the file.
    """
    return read_job(path, overrides)[0]


def read_job(path: str | Path, overrides: Sequence[str] = ()) -> tuple[Job, Document]:
    """As `load_job`, with the document, which `located` needs."""
    keep_secrets([str(path)])
    name = "standard input" if str(path) == "-" else printable(str(path), 200)
    return _parse(read_text(path, name), name, overrides)


def parse_job(text: str, name: str, overrides: Sequence[str] = ()) -> Job:
    """Like `load_job` for text in hand; `name` stands before the line numbers. Raises JobError."""
    return _parse(text, name, overrides)[0]


def parse_with_document(text: str, name: str, overrides: Sequence[str] = ()) -> tuple[Job, Document]:
    """As `read_job` for text in hand."""
    return _parse(text, name, overrides)


def located(error: JobError, document: Document) -> JobError:
    """The same error, with file and line before the fields that its problems name."""
    return type(error)(*(_located(problem, document) for problem in error.problems))


def _located(problem: Problem | str, document: Document) -> Problem | str:
    if isinstance(problem, str):
        return problem
    field, _, rest = problem.where.partition(": ")
    path = tuple(int(part) if part.isdecimal() else part for part in re.split(r"[.\[\]]+", field.rstrip("]")))
    place = document.place(path)
    if path[0] not in Job.model_fields or not place.origin:
        return problem
    return replace(problem, where=": ".join(filter(None, (place.where(path), rest))))


def _parse(text: str, name: str, overrides: Sequence[str]) -> tuple[Job, Document]:
    keep_secrets(overrides)
    document = read_document(text, name)
    keep_secrets(text for _, text in _texts(document.data))
    if not document.readable or () in document.broken:
        raise _error(document.findings)
    if document.data is None:
        hint = "`promptmill init` writes a job to start from."
        raise JobError(Problem(name, "a job", "an empty file" if not text.strip() else "no fields", hint))
    if not isinstance(document.data, dict):
        place, hint = document.place(()), "A job begins like this: `name: my-job`."
        raise _error([Finding(place, (), "a mapping of fields at the top level", document.shown(()), hint)])
    for order, override in enumerate(overrides, 1):
        apply_override(document, override, order)
    _fill_sections(document.data, ())
    try:
        job = Job.model_validate(document.data)
    except ValidationError as error:
        raise _error(_with_passwords([*document.findings, *_findings(error, document)], document)) from None
    if found := _with_passwords(document.findings, document):
        raise _error(found)
    return dated(job), document


def _texts(data: Any, path: FieldPath = ()) -> Iterator[tuple[FieldPath, str]]:
    if isinstance(data, str):
        yield path, data
    elif isinstance(data, (dict, list)):
        for key, value in data.items() if isinstance(data, dict) else enumerate(data):
            yield from _texts(value, (*path, key))


def _with_passwords(findings: list[Finding], document: Document) -> list[Finding]:
    told = {finding.path for finding in findings}
    return [*findings, *(each for each in _passwords(document) if each.path not in told)]


def _passwords(document: Document) -> list[Finding]:
    """A job is copied into its output, into reports and cards: it says where things are, and not how to get in."""
    hint = "Give credentials in the environment."
    return [
        Finding(document.place(path), path, "a URL without user and password", shown(text), hint)
        for path, text in _texts(document.data)
        if holds_password(text) and not _FREE_TEXT & set(map(str, path))
    ]


def _error(findings: Iterable[Finding]) -> JobError:
    ordered = sorted(findings, key=lambda finding: finding.place)
    problems: list[Problem | str] = [finding.problem() for finding in ordered[:MAX_PROBLEMS]]
    if len(ordered) > MAX_PROBLEMS:
        problems.append(f"… and {len(ordered) - MAX_PROBLEMS} more")
    return JobError(*problems)


def _fill_sections(data: dict[str, Any], path: FieldPath) -> None:
    """A section whose lines are all commented out reads as null: give it its defaults."""
    for key, value in data.items():
        node = job_fields.node_at((*path, key))
        kind = job_fields.container(node).get("type")
        if value is None and kind and not any(each.get("type") == "null" for each in node.get("anyOf", ())):
            data[key] = {} if kind == "object" else []
        elif kind == "object" and isinstance(value, dict):
            _fill_sections(value, (*path, key))


def _findings(error: ValidationError, document: Document) -> list[Finding]:
    grouped: dict[FieldPath, ErrorDetails] = {}
    for details in error.errors(include_url=False)[:MAX_ERRORS]:
        grouped.setdefault(job_fields.path_of(details["loc"]), details)
    # Of a union both members complain, of a list also its length: the innermost complaint is the one that helps.
    inner = {path[:end] for path in grouped for end in range(len(path))}
    broken = document.broken
    told = {
        path: details
        for path, details in grouped.items()
        if path not in inner and not any(path[:end] in broken for end in range(len(path) + 1))
    }
    ordered = sorted(told, key=document.place)
    shown_first = [_finding(path, told[path], document) for path in ordered[:MAX_PROBLEMS]]
    only_counted = [Finding(document.place(path), path, "", "") for path in ordered[MAX_PROBLEMS:]]
    return shown_first + only_counted + _rule_findings(grouped, document)


def _finding(path: FieldPath, details: ErrorDetails, document: Document) -> Finding:
    place = document.place(path)
    if details["type"] == "rule":
        context = details["ctx"]
        return Finding(place, path, context["expected"], printable(context["got"], 100), context["hint"])
    node = job_fields.node_at(path)
    if details["type"] == "extra_forbidden":
        key, section = str(path[-1]), job_fields.section_of(path[:-1])
        expected = f"a field of `{section}`" if section else "a field of the job"
        got = f"the unknown key `{printable(key)}`"
        return Finding(place, path, expected, got, job_fields.key_hint(section, key))
    if details["type"] == "missing":
        return Finding(place, path, job_fields.words(node), "nothing", node.get("description", ""))
    return Finding(place, path, job_fields.words(node), document.shown(path), _value_hint(path, document))


def _value_hint(path: FieldPath, document: Document) -> str:
    value = document.value(path)
    node = job_fields.node_at(path)
    options = job_fields.options(node)
    kinds = {each.get("type") for each in options}
    plain = document.plain.get(path)
    takes_text = any(each.get("type") == "string" and "const" not in each and "enum" not in each for each in options)
    if takes_text and not isinstance(value, (str, list, dict)):
        if value is None:
            return 'Write "" for an empty text.' if "minLength" not in node else ""
        return f'Put it in quotes: "{printable(plain)}".' if plain else ""
    if "array" in kinds:
        return "" if isinstance(value, list) else "Write it as a list: [ … ]."
    if isinstance(value, str):
        return _text_hint(value, kinds, node, plain is None)
    if kinds == {"integer"} and isinstance(value, float) and value.is_integer():
        return f"Write {int(value)}." if abs(value) < 1e15 else ""
    return ""


def _text_hint(value: str, kinds: set[str | None], node: dict[str, Any], is_quoted: bool) -> str:
    allowed = [str(each) for option in job_fields.options(node) for each in option.get("enum", [option.get("const")])]
    near = difflib.get_close_matches(value[:100].lower(), allowed, 1, 0.5)
    if near and near[0] != "None":
        return f"Did you mean {near[0]}?"
    if "boolean" in kinds and value.lower() in ("yes", "on", "no", "off"):
        return "Write true." if value.lower() in ("yes", "on") else "Write false."
    if kinds & {"integer", "number", "boolean"} and is_quoted and _reads_as(kinds, value):
        return "Remove the quotes."
    return ""


def _reads_as(kinds: set[str | None], text: str) -> bool:
    """Whether the text without its quotes would be a value of one of these kinds."""
    if "boolean" in kinds and text in ("true", "false"):
        return True
    try:
        number = float(text)
    except ValueError:
        return False
    return "number" in kinds or ("integer" in kinds and number.is_integer())


def _rule_findings(bad: Iterable[FieldPath], document: Document) -> list[Finding]:
    """Rules between fields, which pydantic checks only once each field is right: check them on those that are."""
    wrong = {*bad, *document.broken}

    def is_sound(details: ErrorDetails) -> bool:
        fields = [tuple(name.split(".")) for name in details["ctx"]["fields"].split()]
        return not any(_touch(field, path) for field in fields for path in wrong)

    data = copy.deepcopy(document.data)
    for path in wrong:
        ends = [end for end, part in enumerate(path) if isinstance(part, int) or _is_whole(path[:end])]
        _mend(data, path[: ends[0]] if ends else path)
    try:
        Job.model_validate(data)
    except ValidationError as error:
        rules = [each for each in error.errors() if each["type"] == "rule" and is_sound(each)]
        return [_finding(job_fields.path_of(each["loc"]), each, document) for each in rules]
    return []


def _is_whole(path: FieldPath) -> bool:
    """A range without one of its parts would be wrong in another way."""
    return job_fields.is_list_or_range(job_fields.node_at(path))


def _touch(one: FieldPath, other: FieldPath) -> bool:
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]


def _mend(data: Any, path: FieldPath) -> None:
    """Take the wrong value out; where one is required, put an example in."""
    parent = Document(data).value(path[:-1])
    if not path or not isinstance(parent, dict):
        return
    parent.pop(path[-1], None)
    if path[-1] in job_fields.container(job_fields.node_at(path[:-1])).get("required", ()):
        parent[path[-1]] = _example(job_fields.node_at(path))


def _example(node: dict[str, Any]) -> Any:
    inside = job_fields.container(node)
    if not inside:
        return "x"
    return {key: _example(inside["properties"][key]) for key in inside.get("required", ())}
