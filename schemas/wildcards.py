"""Texts that choose: `{name}`, and the notation of prompt files for other tools: `{a|b}`, `{2$$a|b|c}`, `__file__`.

https://github.com/adieyal/dynamicprompts describes that notation. Nothing in it is evaluated but choices.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from promptmill.schemas.templates import parts_of

DEEPEST: Final = 50
"""Choices inside of choices."""
_COUNT: Final = re.compile(r"\s*(\d{1,18})?(?:(-)(\d{1,18})?)?\$\$")
_BETWEEN: Final = re.compile(r"([^{}|$]*)\$\$")
_WEIGHT: Final = re.compile(r"\s*(\d{1,9}(?:\.\d{1,9})?)::")
_FILE: Final = re.compile(r"__([A-Za-z0-9*][\w ./*-]{0,200}?)__")


@dataclass(frozen=True)
class Name:
    """A value that has this name; the same wherever it stands."""

    name: str


@dataclass(frozen=True)
class Pool:
    """A line of a wildcard file, another one wherever it stands."""

    name: str


@dataclass(frozen=True)
class Choice:
    """`least` to `most` of the options, each once, with `between` between them."""

    options: tuple[Nodes, ...]
    weights: tuple[float, ...]
    least: int = 1
    most: int = 1
    between: str = ", "


Node = str | Name | Pool | Choice
Nodes = tuple[Node, ...]


@lru_cache(4096)
def read_template(text: str, wildcards: bool) -> Nodes:
    """Of a text in which braces hold names, and choices too where `wildcards` says so. Raises ValueError."""
    if wildcards:
        return _read(text, names=True)
    nodes: list[Node] = []
    for part, name in parts_of(text):
        nodes += [part] if part else []
        nodes += [] if name is None else [Name(name)]
    return tuple(nodes)


@lru_cache(4096)
def read_wildcards(text: str) -> Nodes:
    """Of a text in which braces hold choices alone. Raises ValueError."""
    return _read(text, names=False)


def names_of(nodes: Nodes) -> list[str]:
    """Of all values that it may name, each once, in order."""
    return list(dict.fromkeys(each.name for each in _all(nodes) if isinstance(each, Name)))


def pools_of(nodes: Nodes) -> list[str]:
    return list(dict.fromkeys(each.name for each in _all(nodes) if isinstance(each, Pool)))


def _all(nodes: Nodes) -> Iterator[Node]:
    for node in nodes:
        yield node
        if isinstance(node, Choice):
            for option in node.options:
                yield from _all(option)


def _read(text: str, names: bool) -> Nodes:
    nodes, end = _Reader(text, names).sequence(0, 0)
    if end < len(text):
        raise ValueError("a } without {")
    return nodes


@dataclass(frozen=True)
class _Reader:
    text: str
    names: bool

    def sequence(self, at: int, depth: int) -> tuple[Nodes, int]:
        """What stands from there to the end of the text, or of the option that it is."""
        nodes: list[Node] = []
        plain: list[str] = []

        def add(node: Node) -> None:
            nodes.extend(["".join(plain)] if plain else [])
            plain.clear()
            nodes.append(node)

        while at < len(self.text):
            here = self.text[at]
            if self.names and self.text[at : at + 2] in ("{{", "}}"):
                plain.append(here)
                at += 2
            elif here == "{":
                node, at = self._braces(at + 1, depth + 1)
                add(node)
            elif here == "}" or (here == "|" and depth):
                break
            elif here == "_" and (found := _FILE.match(self.text, at)):
                add(Pool(found[1]))
                at = found.end()
            else:
                plain.append(here)
                at += 1
        nodes.extend(["".join(plain)] if plain else [])
        return tuple(nodes), at

    def _braces(self, at: int, depth: int) -> tuple[Node, int]:
        if depth > DEEPEST:
            raise ValueError(f"choices more than {DEEPEST} deep")
        least, most, between, begin = self._counted(at)
        options: list[Nodes] = []
        weights: list[float] = []
        at = begin
        while True:
            weight = _WEIGHT.match(self.text, at)
            weights.append(float(weight[1]) if weight else 1.0)
            option, at = self.sequence(weight.end() if weight else at, depth)
            options.append(option)
            if at >= len(self.text):
                raise ValueError("a { without }")
            at += 1
            if self.text[at - 1] == "}":
                break
        if self.names and len(options) == 1:
            (option,) = options
            if len(option) == 1 and isinstance(option[0], str) and least == most == 1 and weights == [1.0]:
                return Name(option[0]), at
        if not any(weights):
            raise ValueError("options of which none has a weight above 0")
        return Choice(tuple(options), tuple(weights), least, len(options) if most < 0 else most, between), at

    def _counted(self, at: int) -> tuple[int, int, str, int]:
        """Least and most options, most below 0 for all of them, what stands between, and where they begin."""
        found = _COUNT.match(self.text, at)
        if found is None or not (found[1] or found[3]):
            return 1, 1, ", ", at
        least = int(found[1] or 0)
        most = int(found[3]) if found[3] else -1 if found[2] else least
        if 0 <= most < least:
            raise ValueError(f"{least} to {most} options")
        told = _BETWEEN.match(self.text, found.end())
        return least, most, told[1] if told else ", ", told.end() if told else found.end()
