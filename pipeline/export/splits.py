"""Which images are for training and which for tests: by what they were made from, so that no test image has a sibling
among those that are trained on."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from promptmill.schemas.errors import JobError, Problem

WHOLE = {"train": 1.0}


def read_shares(text: str) -> dict[str, float]:
    """Of `train=0.8,val=0.1,test=0.1`. Raises JobError for shares that do not add up to 1, and for odd names."""
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = (each.strip() for each in part.partition("="))
        try:
            share = float(value)
        except ValueError:
            share = math.nan
        if not name.isidentifier() or not name.isascii() or name in shares or not 0 < share <= 1:
            expected = "name=share,name=share, each share above 0 and at most 1"
            raise JobError(Problem("--split", expected, repr(part), "Such as train=0.8,val=0.1,test=0.1"))
        shares[name] = share
    if abs(sum(shares.values()) - 1) > 1e-6:
        raise JobError(Problem("--split", "shares that add up to 1", f"{sum(shares.values()):g}"))
    return shares


def assign(groups: Sequence[str], classes: Sequence[str], shares: Mapping[str, float]) -> list[str]:
    """The split of each image, by its group: all of a group are in one split, and each class is shared out alike.

    Groups are taken in the order of a hash, so that the same ones make the same splits; of a class with two groups or
    more, each split that has a place for one gets one, from the first split on.
    """
    sizes: dict[str, dict[str, int]] = defaultdict(dict)
    home: dict[str, str] = {}
    for group, own in zip(groups, classes, strict=True):
        at_home = home.setdefault(group, own)
        sizes[at_home][group] = sizes[at_home].get(group, 0) + 1
    found: dict[str, str] = {}
    for members in sizes.values():
        found |= _shared_out(members, shares)
    return [found[group] for group in groups]


def _shared_out(members: Mapping[str, int], shares: Mapping[str, float]) -> dict[str, str]:
    """Each group to the split that is furthest behind its share."""
    order = sorted(members, key=lambda group: hashlib.sha256(group.encode("utf-8", "surrogateescape")).digest())
    given, total, found = dict.fromkeys(shares, 0), 0, {}
    for group in order:
        total += members[group]
        split = max(shares, key=lambda name: shares[name] * total - given[name])
        given[split] += members[group]
        found[group] = split
    return found
