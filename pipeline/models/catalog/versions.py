"""Which versions act: this program's, those of the libraries that decide over bits, and the machine's."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from promptmill.schemas.errors import Problem

LIBRARIES = (
    *("promptmill", "torch", "diffusers", "transformers", "tokenizers", "safetensors", "open-clip-torch"),
    *("numpy", "pillow", "pyarrow"),
)
"""The last three decide over the bytes of a file, also where the pixels are the same."""


@cache
def library_versions() -> Mapping[str, str]:
    """Imports none of them. What is not installed is left out: a driver needs no torch."""
    found = {"python": platform.python_version(), "platform": _platform()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def newer_version(acted: Mapping[str, str], where: str) -> Problem | None:
    """What to say of an object that this version cannot read, where a later one is known to have written it."""
    theirs, ours = acted.get("promptmill", ""), version("promptmill")
    if _ordered(theirs) <= _ordered(ours):
        return None
    hint = f"Install promptmill>={theirs} here: a later version reads what earlier ones made, and not the reverse"
    return Problem(where, f"Promptmill {theirs} or newer, which wrote this", f"Promptmill {ours}", hint)


def _ordered(number: str) -> tuple[int, ...]:
    """The numbers at the beginning of a version; empty for what is none, which is older than any."""
    found = re.match(r"\d{1,9}(?:\.\d{1,9})*", number)
    return tuple(map(int, found[0].split("."))) if found else ()


def _platform() -> str:
    """Without the kernel, which differs from node to node and decides over nothing."""
    return " ".join(part for part in (platform.system(), platform.machine(), *platform.libc_ver()) if part)


def differing(then: Iterable[Mapping[str, str]], now: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Name → (those of then, now) of what acts now and did not then. What one side does not say is no difference."""
    sides = list(then)
    known = {name: list(dict.fromkeys(side[name] for side in sides if name in side)) for name in now}
    return {
        name: (" and ".join(known[name]), now[name]) for name in now if known[name] and now[name] not in known[name]
    }


def in_words(differences: Mapping[str, tuple[str, str]]) -> str:
    return ", ".join(f"{name} {now} (then {then})" for name, (then, now) in differences.items())


def one_line(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in versions.items())
