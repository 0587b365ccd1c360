"""Values where others belong: what Hypothesis puts into the objects that a command reads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

NUMBERS = st.sampled_from([-1, 0, 1, 3, 2**31, 2**63, 10**18, 10**400, 0.5, -1e300, 1e300])
TEXTS = st.sampled_from(["", "x", "\x1b[31m", "a\nb", "../../x", "9" * 5000, "[" * 200, "\ud800", "nan", "{}", "-1"])
PLAIN = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
DEEP = st.sampled_from(["[" * depth + "]" * depth for depth in (40, 100)]).map(json.loads)  # each time another
VALUES = st.one_of(
    PLAIN, st.lists(PLAIN, max_size=3), st.dictionaries(st.sampled_from(["path", "name", "x"]), PLAIN, max_size=3), DEEP
)
RAW = st.sampled_from(
    [
        *(b"", b"null", b"[]", b"{", b"1", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b"{}", b"\0" * 100),
        *(b'{"version": 1}', b"NaN", b"9" * 5000, b'{"plan": []}', b'{"version": 1, "plan": {}, "job": {}}'),
    ]
)


def places(value: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The keys that lead to every value inside."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield (*keys, key)
        yield from places(item, (*keys, key))


@st.composite
def spoiled(draw: st.DrawFn, content: bytes) -> bytes:
    """The object with one to three of its values gone, or others; or no JSON at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(RAW)
    value = json.loads(content)
    for _ in range(draw(st.integers(1, 3))):
        there = list(places(value))
        if not there:
            break
        *way, last = draw(st.sampled_from(there))
        parent = value
        for key in way:
            parent = parent[key]
        if draw(st.integers(0, 4)) == 0:
            del parent[last]
        else:
            parent[last] = draw(VALUES)
    return json.dumps(value).encode("utf-8", "surrogatepass")
