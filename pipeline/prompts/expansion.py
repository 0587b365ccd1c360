"""What the templates make of a row: how many prompts, and the n-th of them, by arithmetic and without a list."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import xxhash

from promptmill.pipeline.prompts.combinations import Combinations, by_name
from promptmill.pipeline.prompts.vocabulary import TEMPLATE
from promptmill.schemas.errors import SampleError
from promptmill.schemas.prompts import Prompts
from promptmill.schemas.wildcards import Choice, Name, Nodes, Pool, names_of, read_template, read_wildcards
from promptmill.schemas.words import Attribute, Words


@dataclass(frozen=True)
class Expanded:
    """A text, and the end of its prompt's id. `choices` are the values that attributes have in it, `missing` the first
    name without one."""

    which: str
    text: str
    written: str = ""
    missing: str | None = None
    choices: Mapping[str, str] = field(default_factory=dict)
    error: SampleError | None = None


class Expansion:
    """Deterministic: a draw is a hash of the job's seed, the row's id, the prompt's number and the name.

    So no row needs another one, and rows that come later change none.
    """

    def __init__(self, prompts: Prompts, words: Words) -> None:
        self._wildcards = bool(prompts.wildcards)
        self.templates, self._draws = prompts.templates, prompts.draws
        self._seed = words.seed
        self._attributes = by_name(words.attributes)
        self._pools = by_name(words.pools)
        self._nodes = [read_template(text, self._wildcards) for text in self.templates]
        self._combinations = Combinations(words.attributes, self._wildcards)
        self._chosen = [self._combinations.own(names_of(nodes)) for nodes in self._nodes]
        counts = [] if self._draws else [self._combinations.count(names) for names in self._chosen]
        self._ends = list(accumulate(counts))
        self.each = self._draws or (self._ends[-1] if self._ends else 1)
        told = bool(words.attributes or self._draws or self._wildcards)
        self.columns: tuple[str, ...] = (*self._attributes, *([TEMPLATE] if told else []))
        """What the records say of each prompt besides."""

    @property
    def acts(self) -> bool:
        """Whether texts are other than the source's prompts."""
        return bool(self.templates) or self._wildcards

    @property
    def names(self) -> list[str]:
        """Of values that a row must give: all that are not chosen."""
        used = (name for nodes in self._nodes for name in self._reached(nodes))
        asked = (self._attributes[name].column if name in self._attributes else name for name in used)
        return [name for name in dict.fromkeys(asked) if name is not None]

    def which(self, index: int) -> str:
        """The end of the id of a row's prompt `index`."""
        return f"#{index}" if self.templates or self._draws is not None else ""

    def at(self, key: str, index: int, values: Mapping[str, str | None], prompt: str = "") -> Expanded:
        """The prompt `index` of the row whose id is `key`; `prompt` is its own, for a job without templates."""
        if not self.templates:
            return self._of_prompt(key, index, values, prompt)
        number, offset = self._template(index)
        names = self._chosen[number]
        chosen = {} if self._draws else self._combinations.choice(names, offset)
        drawing = _Drawing(self, (self._seed, key, index), values, chosen)
        text = drawing.text(self._nodes[number])
        return Expanded(self.which(index), text, self.templates[number], drawing.missing, drawing.choices)

    def _of_prompt(self, key: str, index: int, values: Mapping[str, str | None], prompt: str) -> Expanded:
        which = self.which(index)
        try:
            nodes = read_wildcards(prompt)
            drawing = _Drawing(self, (self._seed, key, index), values, {})
            return Expanded(which, drawing.text(nodes), prompt, drawing.missing)
        except ValueError as error:
            return Expanded(which, prompt, prompt, error=SampleError("invalid_syntax", f"prompts.wildcards: {error}"))

    def _template(self, index: int) -> tuple[int, int]:
        if self._draws:
            return index % len(self.templates), index
        number = bisect_right(self._ends, index)
        return number, index - (self._ends[number - 1] if number else 0)

    def _reached(self, nodes: Nodes) -> list[str]:
        """Names in a text, and in the values that these may have."""
        found: dict[str, None] = {}
        waiting = names_of(nodes)
        while waiting:
            name = waiting.pop(0)
            if name not in found:
                found[name] = None
                values = self._attributes[name].values if name in self._attributes else ()
                held = (each for value in values if "{" in value for each in self.names_in(value))
                waiting += list(dict.fromkeys(held))
        return list(found)

    def names_in(self, value: str) -> list[str]:
        return names_of(read_template(value, self._wildcards))

    def attribute(self, name: str) -> Attribute | None:
        return self._attributes.get(name)

    def pool(self, name: str) -> Attribute | None:
        return self._pools.get(name)

    def read(self, value: str) -> Nodes:
        marked = "{" in value or "}" in value or (self._wildcards and "_" in value)
        return read_template(value, self._wildcards) if marked else (value,)


class _Drawing:
    """One text: what is chosen for a name stays chosen, what a notation chooses is drawn anew each time."""

    def __init__(
        self, within: Expansion, key: tuple[int, str, int], values: Mapping[str, str | None], chosen: Mapping[str, int]
    ) -> None:
        self._within, self._key, self._values, self._chosen = within, key, values, chosen
        self._count = 0
        self.choices: dict[str, str] = {}
        self.missing: str | None = None

    def text(self, nodes: Nodes) -> str:
        return "".join(node if isinstance(node, str) else self._one(node) for node in nodes)

    def _one(self, node: Name | Pool | Choice) -> str:
        if isinstance(node, Name):
            return self._named(node.name)
        if isinstance(node, Pool):
            return self._from_pool(node.name)
        return self._some(node)

    def _named(self, name: str) -> str:
        if name in self.choices:
            return self.choices[name]
        attribute = self._within.attribute(name)
        if attribute is None or attribute.column is not None:
            value = self._values.get(name if attribute is None else attribute.column or "")
            self.missing = self.missing or (None if value else name)
            text = value or ""
        else:
            place = self._chosen[name] if name in self._chosen else self._place(attribute, f"={name}")
            text = self.text(self._within.read(attribute.values[place]))
        if attribute is not None:
            self.choices[name] = text
        return text

    def _from_pool(self, name: str) -> str:
        pool = self._within.pool(name)
        if pool is None:
            raise ValueError(f"no wildcard file {name!r}")
        return self.text(read_wildcards(pool.values[self._place(pool, self._next())]))

    def _some(self, choice: Choice) -> str:
        left = list(range(len(choice.options)))
        span = choice.most - choice.least + 1
        number = choice.least + (self._drawn(self._next()) % span if span > 1 else 0)
        texts = []
        for _ in range(min(number, len(left))):
            weights = [choice.weights[place] for place in left]
            if not any(weights):
                break
            place = left.pop(_weighted(weights, self._drawn(self._next())))
            texts.append(self.text(choice.options[place]))
        return choice.between.join(texts)

    def _place(self, attribute: Attribute, name: str) -> int:
        drawn = self._drawn(name)
        return _weighted(attribute.weights, drawn) if attribute.weights else drawn % len(attribute.values)

    def _next(self) -> str:
        self._count += 1
        return f"#{self._count}"

    def _drawn(self, name: str) -> int:
        seed, row, index = self._key
        return xxhash.xxh3_64_intdigest(f"{seed}\0{row}\0{index}\0{name}".encode("utf-8", "surrogatepass"))


def _weighted(weights: Sequence[float], drawn: int) -> int:
    """The place that a 64-bit number falls on."""
    ends = list(accumulate(weights))
    place = bisect_right(ends, drawn / 2**64 * math.fsum(weights))
    return min(place, max(i for i, weight in enumerate(weights) if weight > 0))
