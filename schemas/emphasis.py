"""Words and their weights, as AUTOMATIC1111 writes them: `(word)`, `(word:1.2)`, `[word]`, and `BREAK` between parts.

Brackets multiply by 1.1, square ones divide by it; a backslash makes a bracket a letter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from typing import Final

Span = tuple[str, float]
"""Words and the weight that they have."""

LARGEST_WEIGHT: Final = 10.0
_STEP: Final = 1.1
_SIGN: Final = re.compile(r"\\[()\[\]\\]|[()\[\]]|:\s*[+-]?[.\d]+\s*\)|[^\\()\[\]:]+|[\\:]")
_BREAK: Final = re.compile(r"\s*\bBREAK\b\s*")
_CLOSES: Final = {")": "(", "]": "["}
_SCHEDULED: Final = re.compile(r"(?<!\\)\[[^\[\]]*(:\s*[\d.]+\s*|\|[^\[\]]*)(?<!\\)\]")
_COMPOSED: Final = re.compile(r"\bAND\b")


def parts_of_prompt(text: str) -> list[list[Span]]:
    """Of each part between `BREAK`s its words in order, with weights; what makes no sense is words like others."""
    signs = _SIGN.findall(text)
    factors = _factors(signs)
    weights, parts = [1.0], [list[Span]()]
    for place, sign in enumerate(signs):
        if place not in factors:
            first, *others = _BREAK.split(_literal(sign)) if sign[0] != "\\" else [_literal(sign)]
            parts[-1].append((first, weights[-1]))
            parts += [[(words, weights[-1])] for words in others]
        elif sign in "([":
            weights.append(weights[-1] * factors[place])
        else:
            weights.pop()
    joined = [part for part in map(_joined, parts) if part]
    return joined or [[("", 1.0)]]


def is_emphasised(text: str) -> bool:
    """Whether it is drawn otherwise than its words alone."""
    parts = parts_of_prompt(text)
    return len(parts) > 1 or any(weight != 1 for part in parts for _, weight in part)


def words_of(text: str) -> str:
    """The words alone."""
    return " ".join("".join(words for words, _ in part).strip() for part in parts_of_prompt(text)).strip()


def wrong_emphasis(text: str) -> str | None:
    """What of it nothing can be drawn from as it is meant."""
    if match := _SCHEDULED.search(text):
        return f"{match[0][:80]!r} changes the prompt from step to step, and no pipeline does that"
    if _COMPOSED.search(text):
        return "`AND` composes several prompts, and no pipeline does that; write `and` for the word"
    signs = _SIGN.findall(text)
    matched = _factors(signs, closed=True)
    for place, sign in enumerate(signs):
        if place not in matched and (sign in "()[]" or (sign[0] == ":" and sign[-1] == ")")):
            return f"{sign!r} has no other half; write `\\{sign[-1]}` for the letter"
        if sign[0] == ":" and sign[-1] == ")" and _number(sign) is None:
            return f"{sign[1:-1].strip()!r} is no weight"
    heaviest = max((abs(weight) for part in parts_of_prompt(text) for _, weight in part), default=1.0)
    return f"a weight of {heaviest:g}, and at most {LARGEST_WEIGHT:g} is drawn" if heaviest > LARGEST_WEIGHT else None


def _factors(signs: list[str], closed: bool = False) -> dict[int, float]:
    """By place, brackets that have two halves, and by what the first multiplies; without `closed` also those that
    stay open, which weigh all that follows."""
    opened: list[int] = []
    found: dict[int, float] = {}
    for place, sign in enumerate(signs):
        if sign in "([":
            opened.append(place)
        elif sign[-1] in _CLOSES and sign[0] != "\\" and opened and signs[opened[-1]] == _CLOSES[sign[-1]]:
            number = _number(sign) if len(sign) > 1 else None
            plain = _STEP if sign[-1] == ")" else 1 / _STEP
            found |= {opened.pop(): plain if number is None else number, place: 1.0}
    return found if closed else found | {place: _STEP if signs[place] == "(" else 1 / _STEP for place in opened}


def _number(sign: str) -> float | None:
    try:
        return float(sign[1:-1])
    except ValueError:
        return None


def _literal(sign: str) -> str:
    return sign[1:] if len(sign) == 2 and sign[0] == "\\" else sign


def _joined(part: list[Span]) -> list[Span]:
    return list(_nonempty(part)) if any(words.strip() for words, _ in part) else []


def _nonempty(part: list[Span]) -> Iterator[Span]:
    for weight, some in groupby(part, key=lambda span: span[1]):
        if words := "".join(words for words, _ in some):
            yield words, weight
