"""What a row asks for, once it is read: its texts and numbers, or the reason why they make no image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pyarrow as pa

from promptmill.pipeline.prompts.values import MAX_TEXT_BYTES, RULES, adapters_of, seed_of
from promptmill.schemas.errors import SampleError
from promptmill.schemas.inputs import Input, Role
from promptmill.schemas.words import ClassNumbers

INVALID_TEXT = SampleError("invalid_text", "a text of this row is no valid Unicode (a lone surrogate or broken UTF-8)")


@dataclass(frozen=True)
class Prompt:
    """One row of the source. `error` says why no image can be made of it; the texts are then as far as readable.

    `adapter_weights` go before those of the job, and so do `settings`, an object of JSON; `written` is the prompt as
    its file has it, where `prompts.syntax` says how that is read.

    Of a place of a round, `images` are drawn, from sample `first_index` on. A retried row stands for the one sample
    `sample_index`, with its own seed. `quota` is how many images the group of either may still keep.
    """

    prompt_id: str
    prompt: str
    negative_prompt: str | None = None
    caption: str | None = None
    seed: int | None = None
    sample_id: str | None = None
    sample_index: int | None = None
    quota: int | None = None
    inputs: Mapping[Role, Input] = field(default_factory=dict)
    strength: float | None = None
    adapters: tuple[str, ...] | None = None
    adapter_weights: tuple[tuple[str, float], ...] = ()
    settings: str | None = None
    written: str | None = None
    steering: Mapping[str, float] = field(default_factory=dict)
    label: int | None = None
    first_index: int = 0
    images: int | None = None
    error: SampleError | None = None


@dataclass(frozen=True)
class Block:
    """Consecutive prompts. `passthrough` holds the source's unmapped columns, row for row."""

    prompts: tuple[Prompt, ...]
    passthrough: pa.Table


def parse_prompt(base: Prompt, prompt: object, negative: object, caption: object, seed: object) -> Prompt:
    """`base` with its texts, or with the reason why they make no image. Texts come as bytes, seeds as either."""
    text, broken = readable(prompt)
    negative_text, negative_broken = readable(negative)
    caption_text, caption_broken = readable(caption)
    number, wrong_seed = _seed(seed)
    parsed = replace(
        base,
        prompt=text,
        negative_prompt=None if negative is None else negative_text,
        caption=caption_text or None,
        seed=number,
    )
    error = None
    if broken or negative_broken or caption_broken:
        error = INVALID_TEXT
    elif not text.strip():
        error = SampleError("empty_prompt", "null" if prompt is None else "nothing but white space")
    elif long := _too_long({"prompt": text, "negative_prompt": negative_text, "caption": caption_text}):
        error = SampleError("prompt_too_long", f"over {MAX_TEXT_BYTES:,} bytes: {long}")
    return replace(parsed, error=error or wrong_seed or base.error)


def with_inputs(prompt: Prompt, found: Mapping[Role, str | None], numbers: Mapping[str, object]) -> Prompt:
    """`found` is where the image of each role lies, None where the row names none; `numbers` are strength and those of
    STEERING that are mapped."""
    missing = [role for role, place in found.items() if not place]
    wanted = "expected an image (a path, a URL or bytes), got none"
    error = SampleError("input", f"{missing[0]}: {wanted}") if missing else None
    own: dict[str, float] = {}
    for name, cell in numbers.items():
        try:
            value = RULES[name](cell)
            own |= {} if value is None else {name: value}
        except ValueError as wrong:
            error = SampleError("invalid_strength" if name == "strength" else "invalid_steering", f"{name}: {wrong}")
    inputs = {role: Input(place or "") for role, place in found.items()}
    strength = own.pop("strength", None)
    if error:
        return replace(prompt, inputs=inputs, error=error)
    return replace(prompt, inputs=inputs, strength=strength, steering=own, error=prompt.error)


def chosen_adapters(chosen: object) -> tuple[str, ...] | None:
    """Names in a cell: text, or the `adapters` of a row that failed; None for all of the model's."""
    if chosen is None:
        return None
    if isinstance(chosen, list):
        return tuple(each["name"] for each in chosen)
    return adapters_of(readable(chosen)[0])


def weights_chosen(chosen: object) -> tuple[tuple[str, float], ...]:
    """Of the `adapters` of a row that failed."""
    return tuple((each["name"], each["weight"]) for each in chosen) if isinstance(chosen, list) else ()


def labelled_as(prompt: Prompt, cell: object, numbers: ClassNumbers) -> Prompt:
    number = numbers.get(cell)
    if number is not None:
        return replace(prompt, label=number)
    shown = "null" if cell is None else repr(readable(cell)[0][:80])
    return replace(prompt, error=SampleError("invalid_label", f"expected one of the job's classes, got {shown}"))


def readable(value: object) -> tuple[str, bool]:
    """The text, and whether bytes of it had to be replaced."""
    if value is None:
        return "", False
    if not isinstance(value, bytes):
        return str(value), False
    try:
        return value.decode("utf-8"), False
    except UnicodeDecodeError:
        return value.decode("utf-8", "replace"), True


def _too_long(texts: Mapping[str, str]) -> str | None:
    """The first that is, with its size."""
    sizes = ((role, len(text.encode())) for role, text in texts.items())
    return next((f"{role} {size:,} bytes" for role, size in sizes if size > MAX_TEXT_BYTES), None)


def _seed(value: object) -> tuple[int | None, SampleError | None]:
    try:
        return seed_of(value), None
    except ValueError as wrong:
        return None, SampleError("invalid_seed", f"{wrong}")
