"""Words with weights, and prompts of any length, as embeddings: in parts that the text encoders can read whole.

A token's embedding is moved away from, or towards, that of the empty prompt at its place, as ComfyUI and compel do:
`empty + weight × (token − empty)`. AUTOMATIC1111 multiplies by the weight and then restores the mean of all
values; that mean is near 0 (0.0019 ± 1.3 for the built-in model), so that it can turn every sign around.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from promptmill.schemas.emphasis import Span, parts_of_prompt
from promptmill.schemas.errors import SampleError

Rows = dict[str, torch.Tensor]
EMBEDDINGS: Final = "prompt_embeds"
_BACK: Final = 20
"""So many tokens a part may be shorter, for it to end with a comma: as AUTOMATIC1111 cuts."""


@dataclass(frozen=True)
class Part:
    """What the text encoders read at once, and the weight of each token."""

    text: str
    weights: tuple[float, ...] = ()


def parts(text: str, tokenizers: Sequence[Any], limit: int, worded: Callable[[str], str]) -> list[Part]:
    """`limit` is how many tokens are read at once, without those that start and end a text."""
    found: list[Part] = []
    for spans in parts_of_prompt(text):
        if len(spans) == 1 and spans[0][1] == 1 and _count(tokenizers[0], worded(spans[0][0])) <= limit:
            found.append(Part(spans[0][0]))  # as a plain prompt, to the letter
        else:
            found += _split(_words(spans, tokenizers[0], limit, worded), limit)
    for part in found:
        counts = {_count(tokenizer, worded(part.text)) for tokenizer in tokenizers}
        if part.weights and counts != {len(part.weights)}:
            raise SampleError("generation", "the tokens of its words cannot be told apart, so weights have no place")
    return found


def _words(
    spans: Sequence[Span], tokenizer: Any, limit: int, worded: Callable[[str], str]
) -> list[tuple[str, int, float]]:
    """Each word with the number of its tokens, and its weight. One that is longer than a part is cut in letters."""
    found, letters = [], max(1, limit // 4)  # of four bytes at most
    for words, weight in spans:
        for word in words.split():
            size = _count(tokenizer, worded(word))
            pieces = [word] if size <= limit else [word[i : i + letters] for i in range(0, len(word), letters)]
            found += [(piece, _count(tokenizer, worded(piece)), weight) for piece in pieces]
    return found


def _split(words: Sequence[tuple[str, int, float]], limit: int) -> list[Part]:
    found, start = [], 0
    while start < len(words):
        stop, size = start, 0
        while stop < len(words) and size + words[stop][1] <= limit:
            size += words[stop][1]
            stop += 1
        stop = max(stop, start + 1)
        if stop < len(words):
            stop = _after_a_comma(words, start, stop)
        taken = words[start:stop]
        found.append(Part(" ".join(word for word, _, _ in taken), tuple(w for _, n, w in taken for _ in range(n))))
        start = stop
    return found


def _after_a_comma(words: Sequence[tuple[str, int, float]], start: int, stop: int) -> int:
    back = 0
    for place in range(stop - 1, start, -1):
        if words[place][0].endswith(","):
            return place + 1
        back += words[place][1]
        if back > _BACK:
            break
    return stop


def _count(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text, truncation=False, verbose=False, add_special_tokens=False).input_ids)


def weighed(rows: Rows, part: Part, empty: Rows) -> Rows:
    """The part's embeddings with its weights; the start of the text is no word."""
    if all(weight == 1 for weight in part.weights):
        return rows
    tokens = rows[EMBEDDINGS]
    weights = torch.ones(len(tokens), 1, dtype=torch.float32)
    weights[1 : 1 + len(part.weights), 0] = torch.tensor(part.weights)
    neutral = empty[EMBEDDINGS].float()
    moved = (neutral + weights * (tokens.float() - neutral)).to(tokens.dtype)
    return {**rows, EMBEDDINGS: torch.where(weights == 1, tokens, moved)}


def joined(rows: Sequence[Rows]) -> Rows:
    """Parts one after the other; what is pooled over a whole text is that of the first."""
    return {**rows[0], EMBEDDINGS: torch.cat([row[EMBEDDINGS] for row in rows])}
