"""`--set key.path=value`: one value of a job replaced from the command line."""

from __future__ import annotations

import re
from typing import Any

from promptmill.pipeline.jobfile import fields as job_fields
from promptmill.pipeline.jobfile.document import Document, FieldPath, Finding, Place, printable
from promptmill.pipeline.jobfile.yaml_reader import read_value

_INDEX = re.compile(r"\[(\d+)\]")
"""As messages write a place in a list: `score[0].clip`, which is `score.0.clip`."""


def apply_override(document: Document, override: str, order: int) -> None:
    """Change the document as `key.path=value` says; what is wrong with it joins the document's findings.

    `order` counts the overrides from 1. The value is flow or quoted YAML where it begins with one of `[{"'`, else one
    plain scalar, whatever is in it. Sections that are null or missing are created on the way.
    """
    origin = f"--set {printable(override, 100)}"
    key, equals, text = override.partition("=")
    parts = [part.strip() for part in _INDEX.sub(r".\1", key).split(".")]
    place = Place(order, 0, 0, origin)
    if not equals or not all(parts) or not key.isprintable():
        got = "no `=`" if not equals else "an empty part of the key" if key.isprintable() else "control characters"
        document.findings.append(Finding(place, (), "FIELD=VALUE such as generation.guidance_scale=3.5", got))
        return
    value = read_value(text, origin, order)
    if value.readable:
        _put(document, parts, value, place)
    else:
        document.findings += value.findings


def _put(document: Document, parts: list[str], value: Document, place: Place) -> None:
    """Replace one value of the document, with the places of all that is in it."""
    here: Any = document.data
    path: FieldPath = ()
    for index, part in enumerate(parts):
        is_last = index == len(parts) - 1
        if isinstance(here, list):
            if not (part.isascii() and part.isdigit() and len(part) < 9 and int(part) <= len(here)):
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
            got = document.shown(path)
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


def _graft(document: Document, path: FieldPath, value: Document, place: Place) -> None:
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
