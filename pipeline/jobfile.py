"""Reading a job file: every problem at once, each with its line, what was expected, what came and what to do.

Imports neither torch nor Ray nor Arrow: `promptmill validate` answers at once.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path as FilePath
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from pipeline import job_fields
from pipeline.job_text import read_text
from pipeline.yaml_lines import Document, Finding, Path, Place, printable, read_document, read_value
from schemas.errors import JobError, Problem
from schemas.job import Job

MAX_PROBLEMS: Final = 50
"""Shown at once; the rest is counted."""
MAX_ERRORS: Final = 1000
"""Looked at: a megabyte of nonsense must not take half a minute to refuse."""


def load_job(path: str | FilePath, overrides: Sequence[str] = ()) -> Job:
    """Read and check a job file; "-" is standard input. `overrides` are `key.path=value`, the last one wins.

    Raises JobError with all problems, in the order of the file.
    """
    name = "standard input" if str(path) == "-" else printable(str(path), 200)
    return parse_job(read_text(path, name), name, overrides)


def parse_job(text: str, name: str, overrides: Sequence[str] = ()) -> Job:
    """Like `load_job` for text in hand; `name` stands before the line numbers. Raises JobError."""
    document = read_document(text, name)
    if not document.readable or () in document.broken:
        raise _error(document.findings)
    if document.data is None:
        hint = "`promptmill init` writes a job to start from."
        raise JobError(Problem(name, "a job", "an empty file" if not text.strip() else "no fields", hint))
    if not isinstance(document.data, dict):
        place, hint = document.place(()), "A job begins like this: `name: my-job`."
        raise _error([Finding(place, (), "a mapping of fields at the top level", shown(document, ()), hint)])
    for order, override in enumerate(overrides, 1):
        _override(document, override, order)
    _fill_sections(document.data, ())
    try:
        job = Job.model_validate(document.data)
    except ValidationError as error:
        raise _error([*document.findings, *_findings(error, document)]) from None
    if document.findings:
        raise _error(document.findings)
    return job


def _error(findings: Iterable[Finding]) -> JobError:
    ordered = sorted(findings, key=lambda finding: finding.place)
    problems: list[Problem | str] = [finding.problem() for finding in ordered[:MAX_PROBLEMS]]
    if len(ordered) > MAX_PROBLEMS:
        problems.append(f"… and {len(ordered) - MAX_PROBLEMS} more")
    return JobError(*problems)


def _override(document: Document, override: str, order: int) -> None:
    origin = f"--set {printable(override, 100)}"
    key, equals, text = override.partition("=")
    parts = [part.strip() for part in key.split(".")]
    place = Place(order, 0, 0, origin)
    if not equals or not all(parts) or not key.isprintable():
        got = "no `=`" if not equals else "an empty part of the key" if key.isprintable() else "control characters"
        document.findings.append(Finding(place, (), "KEY=VALUE such as generation.guidance_scale=3.5", got))
        return
    value = read_value(text, origin, order)
    if value.readable:
        _put(document, parts, value, place)
    else:
        document.findings += value.findings


def _put(document: Document, parts: list[str], value: Document, place: Place) -> None:
    """Replace one value of the document, with the places of all that is in it; creates the sections on the way."""
    here: Any = document.data
    path: Path = ()
    for index, part in enumerate(parts):
        is_last = index == len(parts) - 1
        if isinstance(here, list):
            if not (part.isascii() and part.isdigit() and int(part[:9]) <= len(here)):
                what = ".".join(map(str, path))
                got, hint = f"`{printable(part)}`", f"`{what}.0` is the first, `{what}.{len(here)}` adds one."
                document.findings.append(Finding(place, path, f"a position in the list `{what}`", got, hint))
                return
            step: str | int = int(part)
            if step == len(here):
                here.append(None)
        elif isinstance(here, dict):
            step = part
        else:
            got = shown(document, path)
            document.findings.append(Finding(place, path, f"a mapping at `{'.'.join(map(str, path))}`", got))
            return
        path = (*path, step)
        if is_last:
            here[step] = value.data
        elif (here.get(step) if isinstance(here, dict) else here[step]) is None:
            here[step] = [] if job_fields.container(job_fields.node_at(path)).get("type") == "array" else {}
            document.values[path] = place
        here = here[step]
    _graft(document, path, value, place)


def _graft(document: Document, path: Path, value: Document, place: Place) -> None:
    for places in (document.keys, document.values, document.plain):
        for old in [each for each in places if each[: len(path)] == path]:
            del places[old]
    document.broken = {each for each in document.broken if each[: len(path)] != path}
    document.keys[path] = place
    document.values |= {(*path, *each): place for each in value.values}
    document.plain |= {(*path, *each): text for each, text in value.plain.items()}
    document.broken |= {(*path, *each) for each in value.broken}
    document.findings += [
        Finding(place, (*path, *each.path), each.expected, each.got, each.hint) for each in value.findings
    ]


def _fill_sections(data: dict[str, Any], path: Path) -> None:
    """A section whose lines are all commented out reads as null: give it its defaults."""
    for key, value in data.items():
        node = job_fields.node_at((*path, key))
        kind = job_fields.container(node).get("type")
        if value is None and kind and not any(each.get("type") == "null" for each in node.get("anyOf", ())):
            data[key] = {} if kind == "object" else []
        elif kind == "object" and isinstance(value, dict):
            _fill_sections(value, (*path, key))


def value_at(data: Any, path: Path) -> Any:
    """None where there is nothing."""
    for part in path:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def shown(document: Document, path: Path) -> str:
    """The value as a reader would name it: "the string '20'", "a list", 012."""
    value = value_at(document.data, path)
    if isinstance(value, str):
        return "an empty string" if not value else f"the string {printable(repr(value))}"
    if isinstance(value, dict):
        return "a mapping (" + printable(", ".join(map(str, value))) + ")" if value else "an empty mapping"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if value is None:
        return "null"
    return printable(document.plain.get(path) or repr(value))


def _findings(error: ValidationError, document: Document) -> list[Finding]:
    grouped: dict[Path, ErrorDetails] = {}
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


def _finding(path: Path, details: ErrorDetails, document: Document) -> Finding:
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
    return Finding(place, path, job_fields.words(node), shown(document, path), _value_hint(path, document))


def _value_hint(path: Path, document: Document) -> str:
    value = value_at(document.data, path)
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
    if kinds & {"integer", "number", "boolean"} and is_quoted:
        return "Remove the quotes."
    return ""


def _rule_findings(bad: Iterable[Path], document: Document) -> list[Finding]:
    """Rules between fields, which pydantic checks only once each field is right alone: check them on the other fields."""
    wrong = {*bad, *document.broken}

    def is_sound(details: ErrorDetails) -> bool:
        fields = [tuple(name.split(".")) for name in details["ctx"]["fields"].split()]
        return not any(_touch(field, path) for field in fields for path in wrong)

    data = copy.deepcopy(document.data)
    for path in wrong:
        ends = [end for end, part in enumerate(path) if isinstance(part, int)]
        _mend(data, path[: ends[0]] if ends else path)
    try:
        Job.model_validate(data)
    except ValidationError as error:
        rules = [each for each in error.errors() if each["type"] == "rule" and is_sound(each)]
        return [_finding(job_fields.path_of(each["loc"]), each, document) for each in rules]
    return []


def _touch(one: Path, other: Path) -> bool:
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]


def _mend(data: Any, path: Path) -> None:
    """Take the wrong value out; where one is required, put an example in."""
    parent = value_at(data, path[:-1])
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
