"""What the job model says of itself, in words: types, valid keys, and the nearest key to a misspelt one."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from functools import cache
from typing import Any, Final, NamedTuple

from promptmill.pipeline.jobfile.document import FieldPath
from promptmill.schemas.job import Job
from promptmill.schemas.sweep import PRESETS

Node = dict[str, Any]
"""A JSON Schema object."""

_OTHER_NAMES: Final = {
    "generation.steps": "num_inference_steps",
    "generation.cfg": "guidance_scale",
    "generation.cfg_scale": "guidance_scale",
    "generation.sampler": "scheduler",
    "model.name": "path",
    "model.id": "path",
    "output.path": "url",
    "output.folder": "url",
    "output.format": "image_format",
    "prompts.path": "source",
    "prompts.url": "source",
    "prompts.file": "source",
    "score.model": "clip",
}
"""Names that other tools use, where no likeness of letters leads to ours."""


_NAMES_SHOWN: Final = 6


class FieldWords(NamedTuple):
    name: str
    type: str
    default: str
    description: str


@cache
def _schema() -> Node:
    return Job.model_json_schema()


def resolve(node: Node) -> Node:
    """Follow `$ref`; what stands beside it (default, description) wins."""
    while "$ref" in node:
        rest = {key: value for key, value in node.items() if key != "$ref"}
        node = {**_schema()["$defs"][node["$ref"].rsplit("/", 1)[1]], **rest}
    return node


def options(node: Node) -> list[Node]:
    """The alternatives of a union without null; the node itself where it is none."""
    node = resolve(node)
    return [resolve(each) for each in node.get("anyOf", [node]) if each.get("type") != "null"]


def container(node: Node, kinds: tuple[str, ...] = ("object", "array")) -> Node:
    """The first alternative that has fields or items, else an empty node."""
    return next((each for each in options(node) if each.get("type") in kinds), {})


def is_list_or_range(node: Node) -> bool:
    """The one kind of union that is told apart by us, and so has no labels."""
    return {each.get("type") for each in options(node)} == {"array", "object"}


def node_at(path: FieldPath) -> Node:
    """An empty node where the job has no such field."""
    node = _schema()
    for part in path:
        if isinstance(part, int):
            known = container(node, ("array",)).get("items", {})
        else:
            inside = container(node, ("object",))
            known = inside.get("properties", {}).get(part) or inside.get("additionalProperties") or {}
        node = resolve(known)
    return node


def path_of(loc: FieldPath) -> FieldPath:
    """Pydantic's `loc` without the labels that it adds for the members of a union."""
    node, path = _schema(), ()  # type: tuple[Node, FieldPath]
    for part in loc:
        members = options(node)
        if len(members) > 1 and not isinstance(part, int) and not is_list_or_range(node):
            node = next((each for each in members if each.get("title") == part), node)
            if node not in members:
                break
            continue
        path = (*path, part)
        node = node_at(path)
    return path


def words(node: Node) -> str:
    """Say what a field takes: "an integer from 1 to 1000 or null"."""
    node = resolve(node)
    if "anyOf" in node:
        members = [resolve(each) for each in node["anyOf"]]
        if any(each.get("type") == "array" for each in members):
            members = [each for each in members if each.get("type") != "null"]
        return " or ".join(words(each) for each in members)
    if "const" in node:
        return str(node["const"])
    if "enum" in node:
        return ", ".join(node["enum"][:-1]) + f" or {node['enum'][-1]}"
    kind = node.get("type")
    if kind == "object":
        if node.get("additionalProperties"):
            return f"a mapping of names (each {words(node['additionalProperties'])})"
        names = list(node.get("properties", {}))
        return "a mapping (" + ", ".join(names[:_NAMES_SHOWN]) + (", …)" if len(names) > _NAMES_SHOWN else ")")
    if kind == "array":
        return f"a list (each {words(node['items'])})"
    if kind in ("integer", "number"):
        return ("an integer" if kind == "integer" else "a number") + _range(node)
    if kind == "string":
        longest = f" of at most {node['maxLength']} characters" if "maxLength" in node else ""
        return ("a non-empty string" if node.get("minLength") else "a string") + longest
    return {"boolean": "true or false", "null": "null"}.get(str(kind), "a known field")


def _range(node: Node) -> str:
    low, high = node.get("minimum"), node.get("maximum")
    if "exclusiveMinimum" in node:
        return f" above {node['exclusiveMinimum']:g}" + ("" if high is None else f" and at most {high:g}")
    if low is None:
        return "" if high is None else f" of at most {_number(high)}"
    return f" of at least {_number(low)}" if high is None else f" from {_number(low)} to {_number(high)}"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)


@cache
def sections() -> dict[str, tuple[str, ...]]:
    """Dotted name of each section ("" is the job itself, `score` one item of the list) and its keys."""
    found: dict[str, tuple[str, ...]] = {}

    def visit(node: Node, name: str) -> None:
        inside = container(node)
        if inside.get("type") == "array":
            visit(inside["items"], name)
            return
        fields = inside.get("properties", {})
        if fields:
            found[name] = tuple(fields)
        for key, child in fields.items():
            if container(child) and name != "sweep":
                visit(child, f"{name}.{key}" if name else key)

    visit(_schema(), "")
    return found


def section_of(path: FieldPath) -> str:
    """Name of the section that a path of keys and list positions leads to; a swept model is a `model`."""
    names = [part for part in path if isinstance(part, str)]
    is_model = names[:1] == ["sweep"] and names[-1] == "model" and names != ["sweep", PRESETS, "model"]
    return "model" if is_model else ".".join(names)


def _keys(section: str) -> tuple[str, ...]:
    if section in sections():
        return sections()[section]
    node = node_at(tuple(section.split(".")))
    return tuple((container(node, ("object",)) or container(container(node).get("items", {}))).get("properties", ()))


def key_hint(section: str, key: str) -> str:
    """What to do about a key that `section` does not have."""
    key = key[:100]
    keys = _keys(section)
    if section == "sweep" and key in ("seed", "seeds"):
        return "Seeds are no axis: `generation.images_per_prompt` makes more images, each with its own seed."
    meant = _OTHER_NAMES.get(f"{section}.{key}") or _nearest(key, keys, 0.75)
    if meant:
        return f"Did you mean `{meant}`?"
    homes = [name for name, there in sections().items() if key in there and name != section]
    if homes:
        home = "generation" if "generation" in homes else homes[0]
        return f"`{key}` belongs " + (f"under `{home}`." if home else "at the top level of the job.")
    meant = _nearest(key, keys, 0.6) or next((each for each in keys if key in each.split("_")), None)
    if meant:
        return f"Did you mean `{meant}`?"
    full = [f"{name}.{each}" if name else each for name, there in sections().items() for each in there]
    meant = _nearest(key, {each.rsplit(".", 1)[-1]: None for each in full}, 0.8)
    if meant:
        return f"Did you mean `{next(each for each in full if each.rsplit('.', 1)[-1] == meant)}`?"
    return "Its fields are: " + ", ".join(keys) + "." if section else "The job's fields are: " + ", ".join(keys) + "."


def _nearest(key: str, keys: Any, cutoff: float) -> str | None:
    folded = key.lower().replace("-", "_")
    return next(iter(difflib.get_close_matches(folded, list(keys), 1, cutoff)), None)


def describe_fields() -> list[FieldWords]:
    """Every field of the job that holds a value, in the order of the model; `score[].clip` stands for each item."""
    return list(_described(_schema(), ""))


def _described(node: Node, prefix: str) -> Iterator[FieldWords]:
    required = node.get("required", ())
    for key, raw in node["properties"].items():
        child, name = resolve(raw), prefix + key
        inside = container(child)
        if "properties" in inside:
            yield from _described(inside, f"{name}.")
        elif container(inside.get("items", {})) and prefix == "":
            yield from _described(container(inside["items"]), f"{name}[].")
        else:
            default = "required" if key in required else json.dumps(child.get("default"), ensure_ascii=False)
            text = child.get("description") or f"Values of `{_swept(key)}` to try."
            yield FieldWords(name, words(child), default, text)


def _swept(key: str) -> str:
    return key if key == "model" else f"generation.{key}"
