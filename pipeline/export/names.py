"""Names of files and folders that stay apart on every disk, and stay readable where they can."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping

MAX_BYTES = 150
_RESERVED = frozenset({"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))})


def distinct_names(labels: Mapping[str, str], fallback: str = "all") -> dict[str, str]:
    """For each key the file name that its label gives, with a hash of the key behind it only where that is needed.

    It is needed where two names would be one on a disk that ignores case or composes accents, where a name had to be
    cut, and where nothing of it was left. A label that is a good name as it stands keeps it, so that a suite's own
    scorer finds it.
    """
    plain = {key: _slug(label) for key, label in labels.items()}
    rivals: dict[str, list[str]] = defaultdict(list)
    for key, name in plain.items():
        rivals[_folded(name)].append(key)
    hashed = {key for keys in rivals.values() for key in _in_need(keys, labels, plain)}
    for digits in (8, 16, 64):
        found = {
            key: _with_hash(name or fallback, key, digits) if key in hashed else name for key, name in plain.items()
        }
        repeated = Counter(map(_folded, found.values()))
        if max(repeated.values(), default=1) == 1:
            return found
        hashed |= {key for key, name in found.items() if repeated[_folded(name)] > 1}
    raise AssertionError("two keys with one SHA-256")


def _in_need(keys: list[str], labels: Mapping[str, str], plain: Mapping[str, str]) -> list[str]:
    """Of keys whose names fall together those that need a hash; one whose name is its very label may go without."""
    if _is_device(plain[keys[0]]):
        return keys
    exact = [key for key in keys if labels[key] == plain[key] and plain[key]]
    if len(keys) == 1:
        was_cut = len(labels[keys[0]].encode("utf-8", "replace")) > MAX_BYTES or not plain[keys[0]]
        return keys if was_cut else []
    return [key for key in keys if exact != [key]]


def _slug(label: str) -> str:
    text = unicodedata.normalize("NFC", label.encode("utf-8", "replace").decode())
    text = re.sub(r"[^\w.,=+-]+", "_", text).strip("._- ")
    return text.encode()[:MAX_BYTES].decode("utf-8", "ignore").strip("._- ")


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", name).casefold())


def _is_device(name: str) -> bool:
    """Windows opens `nul.txt-…` as it opens `nul`."""
    return _folded(name).partition(".")[0] in _RESERVED


def _with_hash(name: str, key: str, digits: int) -> str:
    name = name.replace(".", "_") if _is_device(name) else name
    return f"{name}-{hashlib.sha256(key.encode('utf-8', 'backslashreplace')).hexdigest()[:digits]}"
