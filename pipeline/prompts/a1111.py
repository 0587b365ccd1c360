"""Prompts as lists for AUTOMATIC1111's web UI have them: `<lora:name:0.8>`, weights, and flags such as `--seed 5`.

What is drawn is the text without tags and flags; words, weights and `BREAK` stay in it (`schemas/emphasis.py`), and the
text encoders read them. A flag goes before a column's value: it is nearer the prompt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

from pydantic import ValidationError

from promptmill.pipeline.prompts.prompt import Prompt, parse_prompt, readable
from promptmill.pipeline.prompts.values import MAX_TEXT_BYTES
from promptmill.schemas.emphasis import LARGEST_WEIGHT, words_of, wrong_emphasis
from promptmill.schemas.errors import SampleError
from promptmill.schemas.generation import ASPECT, Generation

INVALID: Final = "invalid_syntax"
_TEXTS: Final = {"prompt": "prompt", "negative_prompt": "negative_prompt", "no": "negative_prompt", "seed": "seed"}
_NUMBERS: Final = {
    "width": "width",
    "height": "height",
    "steps": "num_inference_steps",
    "cfg_scale": "guidance_scale",
    "cfg": "guidance_scale",
}
_ASPECTS: Final = frozenset({"ar", "aspect", "aspect_ratio"})
NO_MEANING: Final = frozenset(
    {
        *("c", "chaos", "cref", "cw", "fast", "hd", "iw", "niji", "p", "profile", "q", "quality", "raw", "relax"),
        *("repeat", "s", "sref", "stop", "style", "stylize", "sw", "test", "tile", "turbo", "upbeta", "v", "version"),
        *("video", "w", "weird"),
        *("do_not_save_grid", "do_not_save_samples", "outpath_grids", "outpath_samples", "prompt_for_display"),
    }
)
"""Flags of Midjourney that speak to its own models, and of lists for AUTOMATIC1111 those about its files."""
_TAG: Final = re.compile(r"\s*<([A-Za-z]+):([^<>]*)>")
_QUOTED: Final = re.compile(r'(?<![^\s=])(?:"(?:\\.|[^"\\])*"|\'[^\']*\')(?!\S)')
_FLAG: Final = re.compile(r"(?:^|(?<=\s))--([A-Za-z][A-Za-z_-]*)(?:=|(?=\s)|$)")
_RATIO: Final = re.compile(r"(\d{1,5}(?:\.\d{1,4})?)\s*[:x/]\s*(\d{1,5}(?:\.\d{1,4})?)")
_MOST_RATIO: Final = 16


@dataclass
class Line:
    """One prompt, read. `adapters` are pairs of name and weight, None for the weight that the job says."""

    prompt: str = ""
    negative_prompt: str | None = None
    seed: str | None = None
    adapters: list[tuple[str, float | None]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    wrong: str | None = None


class _WrongError(ValueError):
    """A row that cannot be drawn as it is meant, with the reason."""


def read_line(text: str) -> Line:
    line = Line(text.strip())
    try:
        line.prompt = ""
        _read(text, line)
    except _WrongError as error:
        line.prompt, line.wrong = text.strip(), f"{error}"
    return line


def a1111_prompt(base: Prompt, prompt: object, negative: object, caption: object, seed: object) -> Prompt:
    """As `parse_prompt`, of a text that is written so; `base` may have adapters that a column chooses."""
    text, broken = readable(prompt)
    if broken or len(text.encode()) > MAX_TEXT_BYTES:
        return replace(parse_prompt(base, prompt, negative, caption, seed), written=text)
    line = read_line(text)
    parsed = parse_prompt(
        base,
        None if prompt is None else line.prompt,
        negative if line.negative_prompt is None else line.negative_prompt,
        caption or words_of(line.prompt),
        seed if line.seed is None else line.seed,
    )
    negative_wrong = wrong_emphasis(parsed.negative_prompt or "")
    wrong = line.wrong or (f"negative prompt: {negative_wrong}" if negative_wrong else None)
    return replace(
        parsed,
        written=text,
        adapters=tuple(dict.fromkeys([*(base.adapters or ()), *(name for name, _ in line.adapters)])),
        adapter_weights=tuple((name, weight) for name, weight in line.adapters if weight is not None),
        settings=json.dumps(line.settings, sort_keys=True) if line.settings else None,
        error=SampleError(INVALID, wrong) if wrong else parsed.error,
    )


def _read(text: str, line: Line) -> None:
    before, flags = _flags(text)
    for name, value in flags:
        _take(line, name, value)
    if before and line.prompt:
        raise _WrongError("text before `--prompt`, so that there are two prompts")
    line.prompt = _without_tags(line.prompt or before, line)
    if ASPECT in line.settings and line.settings.keys() & {"width", "height"}:
        raise _WrongError("a width or height beside an aspect ratio")
    if wrong := wrong_emphasis(line.prompt):
        raise _WrongError(wrong)


def _flags(text: str) -> tuple[str, list[tuple[str, str]]]:
    """What stands before the first flag, and each flag with its value."""
    hidden = _QUOTED.sub(lambda match: "_" * len(match[0]), text)
    found = list(_FLAG.finditer(hidden))
    if not found:
        return text.strip(), []
    ends = [*(match.start() for match in found[1:]), len(text)]
    named = [(match[1].lower().replace("-", "_"), match) for match in found]
    values = [_unquoted(text[match.end() : end].strip()) for match, end in zip(found, ends, strict=True)]
    return text[: found[0].start()].strip(), [(name, value) for (name, _), value in zip(named, values, strict=True)]


def _unquoted(value: str) -> str:
    if len(value) < 2 or value[0] != value[-1] or value[0] not in "\"'":
        return value
    return re.sub(r'\\(["\\])', r"\1", value[1:-1]) if value[0] == '"' else value[1:-1]


def _take(line: Line, name: str, value: str) -> None:
    if name in NO_MEANING:
        line.left_out.append(name)
        return
    known = _TEXTS.get(name) or _NUMBERS.get(name) or (ASPECT if name in _ASPECTS else None)
    if known is None:
        some = ", ".join(f"--{each}" for each in (*_TEXTS, *_NUMBERS, "ar"))
        raise _WrongError(f"--{name[:40]}, and what is read is {some}; write the rest into the job")
    if not value:
        raise _WrongError(f"--{name} without a value")
    if known in line.settings or (name in _TEXTS and getattr(line, known)):
        raise _WrongError(f"--{name} twice")
    if name in _TEXTS:
        setattr(line, known, value)
    else:
        line.settings[known] = _ratio(value) if known == ASPECT else _number(name, known, value)


def _number(name: str, known: str, value: str) -> int | float:
    try:
        number = float(value) if known == "guidance_scale" else int(value)
        Generation.model_validate({known: number})
    except ValidationError as error:
        raise _WrongError(f"--{name} {value[:40]}: {error.errors()[0]['msg']}") from None
    except ValueError:
        raise _WrongError(f"--{name} {value[:40]!r}, which is no number for it") from None
    return number


def _ratio(value: str) -> float:
    match = _RATIO.fullmatch(value)
    sides = (float(match[1]), float(match[2])) if match else (0.0, 0.0)
    if not all(sides) or not 1 / _MOST_RATIO <= sides[0] / sides[1] <= _MOST_RATIO:
        raise _WrongError(f"--ar {value[:40]!r}, and a ratio is such as 16:9, at most {_MOST_RATIO}:1")
    return sides[0] / sides[1]


def _without_tags(text: str, line: Line) -> str:
    line.adapters = list(_adapters(text))
    names = [name for name, _ in line.adapters]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise _WrongError(f"<lora:{twice}> twice")
    return _TAG.sub("", text).strip()


def _adapters(text: str) -> Iterator[tuple[str, float | None]]:
    for kind, rest in _TAG.findall(text):
        name, *numbers = rest.split(":")
        if kind.lower() not in ("lora", "lyco") or not name.strip() or len(numbers) > 1:
            raise _WrongError(f"<{kind}:{rest[:60]}>, and what is read is <lora:name> and <lora:name:weight>")
        yield name.strip(), _weight(numbers[0]) if numbers else None


def _weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = float("nan")
    if not abs(weight) <= LARGEST_WEIGHT:
        raise _WrongError(f"<lora:…:{text[:40]}>, and a weight is from -{LARGEST_WEIGHT:g} to {LARGEST_WEIGHT:g}")
    return weight
