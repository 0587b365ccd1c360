"""Which images are for training and which for tests: by what they were made from, so that no test image has a sibling
among those that are trained on."""

from __future__ import annotations

import hashlib
import math
from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, islice, permutations
from typing import NamedTuple

from promptmill.schemas.errors import JobError, Problem

WHOLE = {"train": 1.0}
_LEAST_GAIN = 1e-6
"""Below it are sums of floats."""


class _Move(NamedTuple):
    """Groups of these sizes to another split, and of others back."""

    gain: float
    giver: int
    taker: int
    given: tuple[int, ...]
    back: tuple[int, ...] = ()


_NO_MOVE = _Move(0.0, 0, 0, ())
_MOST_SIZES = 50
"""Of a class with groups of more different sizes no pairs are tried: single ones come near enough."""


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
    """The split of each image, by its group: all of a group are in one split, and each class is shared out alike, as
    near to the shares as its groups allow (of 300 random small classes two came out an image off the nearest). A class
    with as many groups as there are splits is in each of them.

    The same groups make the same splits. Of equal size, the order of a hash decides, so that few groups change their
    split where others are added.
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
    by_size: dict[int, list[str]] = defaultdict(list)
    for group in sorted(members, key=lambda name: hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()):
        by_size[members[group]].append(group)
    piles = _Piles(Counter(members.values()), list(shares.values()))
    piles.even_out()
    found: dict[str, str] = {}
    for size, own in by_size.items():
        ready = iter(own)
        for name, pile in zip(shares, piles.groups, strict=True):
            found |= dict.fromkeys(islice(ready, pile[size]), name)
    return found


class _Piles:
    """How many groups of which size each split has. `over` are its images beyond its share, below 0 where some lack."""

    def __init__(self, sizes: Counter[int], shares: Sequence[float]) -> None:
        """The largest first, each to the split that lacks most."""
        total = sum(size * count for size, count in sizes.items())
        self.groups: list[Counter[int]] = [Counter() for _ in shares]
        self.over = [-share * total for share in shares]
        self._least = 1 if sizes.total() >= len(shares) else 0
        for size in sorted(sizes, reverse=True):
            for _ in range(sizes[size]):
                pile = min(range(len(shares)), key=self.over.__getitem__)
                self.groups[pile][size] += 1
                self.over[pile] += size

    def even_out(self) -> None:
        """A group for each split, then whatever exchange of two groups at most brings the sum of squares down most."""
        for pile, own in enumerate(self.groups):
            if own.total() < self._least:
                self._apply(max(self._singles(pile)))
        while (best := max(self._all(), default=_NO_MOVE)).gain > _LEAST_GAIN:
            self._apply(best)

    def _singles(self, taker: int) -> Iterator[_Move]:
        for giver, own in enumerate(self.groups):
            if own.total() > self._least:
                apart = self.over[giver] - self.over[taker]
                yield from (_Move(size * (apart - size), giver, taker, (size,)) for size in +own)

    def _all(self) -> Iterator[_Move]:
        few = len(set().union(*self.groups)) <= _MOST_SIZES
        bundles = [sorted(_bundles(own, 2 if few else 1)) for own in self.groups]
        for giver, taker in permutations(range(len(self.groups)), 2):
            if self.over[giver] > self.over[taker]:
                yield from self._exchanges(giver, taker, bundles)

    def _exchanges(self, giver: int, taker: int, bundles: Sequence[Sequence[_Bundle]]) -> Iterator[_Move]:
        """For all that can be given the two that come nearest to leaving half of what the splits are apart."""
        apart, free = self.over[giver] - self.over[taker], self.groups[giver].total() - self._least
        for size, given in bundles[giver]:
            place = bisect(bundles[taker], (size - apart / 2, ()))
            for less, back in bundles[taker][max(0, place - 1) : place + 1]:
                left = self.groups[taker].total() + len(given) - len(back)
                if len(given) - len(back) <= free and left >= self._least:
                    yield _Move((size - less) * (apart - size + less), giver, taker, given, back)

    def _apply(self, move: _Move) -> None:
        for pile, more, less in ((move.giver, move.back, move.given), (move.taker, move.given, move.back)):
            self.groups[pile] += Counter(more)
            self.groups[pile] -= Counter(less)
            self.over[pile] += sum(more) - sum(less)


_Bundle = tuple[int, tuple[int, ...]]


def _bundles(groups: Counter[int], most: int) -> Iterator[_Bundle]:
    """Sum and sizes of all choices of up to `most` groups."""
    sizes = sorted(each for each in groups for _ in range(min(most, groups[each])))
    return ((sum(chosen), chosen) for count in range(most + 1) for chosen in set(combinations(sizes, count)))
