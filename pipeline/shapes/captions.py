"""The caption grammar: writing captions for claims, reading them back, and changing one claim.

    one   = [ground ","] [place ","] [article] [size] [colour] noun [place] [ground]
    two   = object relation object [ground] | object "and" object [ground]

Any part may be left out; `write` draws the wording, `parse` reads every wording back.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from promptmill.pipeline.shapes.world import (
    COLOURS,
    GROUNDS,
    INVERSE,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    Claims,
    Kind,
    ObjectClaim,
    Scene,
)

_SIZE_WORDS = {"small": ("small", "small", "little", "tiny"), "large": ("large", "large", "big")}
_NOUNS = ("shape", "object")
_PLACE_PHRASES = {
    "left": ("on the left", "on the left side", "at the left"),
    "right": ("on the right", "on the right side", "at the right"),
    "top": ("at the top", "on top"),
    "bottom": ("at the bottom",),
    "center": ("in the center", "in the middle"),
}
_RELATION_PHRASES = {
    "left of": ("left of", "to the left of", "on the left of"),
    "right of": ("right of", "to the right of", "on the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
_SIDES = {
    "left of": ("left", "right"),
    "above": ("top", "bottom"),
    "right of": ("right", "left"),
    "below": ("bottom", "top"),
}
_GROUND_PHRASES = ("{} background", "on a {} background", "on {}", "against a {} background")
_SYNONYM = {"grey": "gray", "tiny": "small", "little": "small", "big": "large", "middle": "center"}

# Every word that `write` can produce; the models' vocabularies are built from it.
WORDS: tuple[str, ...] = tuple(
    sorted(
        {*COLOURS, *GROUNDS, *SHAPES, *SIZES, *_NOUNS, *_SYNONYM, "a", "an", "and", "the", "of", "its"}
        | {w for group in (_PLACE_PHRASES, _RELATION_PHRASES) for ps in group.values() for p in ps for w in p.split()}
        | {w for p in _GROUND_PHRASES for w in p.format("black").split()}
    )
)


def claims_of_scene(scene: Scene) -> Claims:
    """Everything that can be said of the scene; objects of a pair have neither size nor place of their own."""
    if len(scene.objects) == 2:
        objects = tuple(ObjectClaim(o.colour, o.shape) for o in scene.objects)
        return Claims(objects, scene.relation, scene.ground)
    thing = scene.objects[0]
    return Claims((ObjectClaim(thing.colour, thing.shape, thing.size, thing.place),), None, scene.ground)


def claims_of_kind(scene: Scene, kind: Kind, rng: np.random.Generator, name_ground: bool) -> Claims:
    """The claims that a prompt of `kind` makes of the scene; the ground is named always or for every second prompt."""
    full = claims_of_scene(scene)
    ground = scene.ground if name_ground or rng.random() < 0.5 else None
    if len(full.objects) == 2:
        return replace(flip(full) if rng.random() < 0.5 else full, ground=ground)
    thing = full.objects[0]
    if kind == "colour":
        return Claims((ObjectClaim(colour=thing.colour),))
    if kind == "shape":
        return Claims((ObjectClaim(shape=thing.shape),))
    draw = int(rng.integers(3)) if kind == "placed" else {"size": 0, "place": 1}.get(kind, -1)
    size = thing.size if draw in (0, 2) else None
    place = thing.place if draw in (1, 2) else None
    return Claims((replace(thing, size=size, place=place),), None, ground)


def claims_at_random(scene: Scene, rng: np.random.Generator) -> Claims:
    """Claims for a training caption: any part may be missing, of a pair mostly the ground, seldom the relation."""
    full = claims_of_scene(scene)
    keep = rng.random(5)
    ground = full.ground if keep[0] < 0.6 else None
    if len(full.objects) == 2:
        a, b = full.objects
        if keep[1] < 0.06:
            a, b = (replace(a, colour=None), b) if keep[2] < 0.5 else (a, replace(b, colour=None))
        claims = Claims((a, b), full.relation, ground)
        claims = flip(claims) if keep[3] < 0.5 else claims
        return claims if keep[4] < 0.94 else replace(claims, relation=None)
    thing = full.objects[0]
    colour = thing.colour if keep[1] < 0.92 else None
    shape = thing.shape if keep[2] < 0.92 else None
    size = thing.size if keep[3] < 0.5 else None
    place = thing.place if keep[4] < 0.55 else None
    return Claims((ObjectClaim(colour, shape, size, place),), None, ground)


def flip(claims: Claims) -> Claims:
    """The same claims of a pair, told from the other object: "A left of B" becomes "B right of A"."""
    a, b = claims.objects
    return replace(claims, objects=(b, a), relation=INVERSE[claims.relation] if claims.relation else None)


def _choose(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]


def _noun_phrase(thing: ObjectClaim, rng: np.random.Generator, article: bool) -> str:
    words = [_choose(rng, _SIZE_WORDS[thing.size])] if thing.size else []
    words += [thing.colour] if thing.colour else []
    words.append(thing.shape or _choose(rng, _NOUNS))
    if article:
        words.insert(0, "an" if words[0][0] in "aeiou" else "a")
    return " ".join(words)


def write(claims: Claims, rng: np.random.Generator) -> str:
    """A caption that says these claims and no others, in a wording drawn from the grammar."""
    article = bool(rng.random() < 0.75)
    things = [_noun_phrase(o, rng, article) for o in claims.objects]
    if len(things) == 1:
        text = things[0]
        place = claims.objects[0].place
        if place:
            phrase = _choose(rng, _PLACE_PHRASES[place])
            text = f"{text} {phrase}" if rng.random() < 0.8 else f"{phrase}, {text}"
    elif claims.relation is None:
        text = " and ".join(things)
    elif rng.random() < 0.15:
        first, second = _SIDES[claims.relation]
        text = f"{things[0]} {_PLACE_PHRASES[first][0]} and {things[1]} {_PLACE_PHRASES[second][0]}"
    else:
        text = f"{things[0]} {_choose(rng, _RELATION_PHRASES[claims.relation])} {things[1]}"
    if not claims.ground:
        return text
    ground = "grey" if claims.ground == "gray" and rng.random() < 0.3 else claims.ground
    phrase = _choose(rng, _GROUND_PHRASES).format(ground)
    if phrase.startswith(("on", "against")):
        return f"{phrase}, {text}" if rng.random() < 0.2 else f"{text} {phrase}"
    return f"{text}, {phrase}"


_GROUND = re.compile(r"\b(?:(?:on|against|with) (?:an? )?)?(black|white|gray)(?: (?:background|ground))?\b")
_RELATION = re.compile(r"\b(?:to the |on the )?(left|right) of\b|\b(above|over|below|under)\b")


def parse(caption: str) -> Claims:
    """The claims of a caption in this grammar; words it does not know are passed over.

    Raises ValueError when nothing is left that could be checked.
    """
    words = re.findall(r"[a-z]+", caption.lower())
    text = " ".join(_SYNONYM.get(w, w) for w in words)
    ground = _GROUND.search(text)
    text = _GROUND.sub(" ", text, count=1) if ground else text
    relation, parts = _split_objects(text)
    objects = tuple(_object_claim(p) for p in parts)
    if len(objects) == 2 and relation is None and objects[0].place and objects[1].place:
        relation = next((r for r, sides in _SIDES.items() if sides == (objects[0].place, objects[1].place)), None)
    if len(objects) == 2:
        objects = tuple(replace(o, size=None, place=None) for o in objects)
    claims = Claims(objects, relation, ground.group(1) if ground else None)
    if not ground and relation is None and all(o == ObjectClaim() for o in objects):
        raise ValueError(f"no claim found in the caption {caption!r}: name a colour, shape, size, place or ground")
    return claims


def _split_objects(text: str) -> tuple[str | None, list[str]]:
    found = _RELATION.search(text)
    if found:
        side, vertical = found.groups()
        relation = f"{side} of" if side else {"over": "above", "under": "below"}.get(vertical, vertical)
        return relation, [text[: found.start()], text[found.end() :]]
    return None, text.split(" and ", 1)


def _object_claim(text: str) -> ObjectClaim:
    words = text.split()

    def first(options: tuple[str, ...]) -> str | None:
        return next((w for w in words if w in options), None)

    return ObjectClaim(first(tuple(COLOURS)), first(SHAPES), first(SIZES), first(PLACES))


def changeable(claims: Claims) -> list[str]:
    """The kinds of claim that `change_one` can change: colour, shape, size, place, relation, ground, swap."""
    kinds = [k for k in ("colour", "shape", "size", "place") if any(getattr(o, k) for o in claims.objects)]
    if claims.relation:
        kinds.append("relation")
        a, b = claims.objects
        if a.colour and b.colour and a.colour != b.colour and a.shape != b.shape:
            kinds.append("swap")
    return kinds + (["ground"] if claims.ground else [])


def change_one(claims: Claims, kind: str, rng: np.random.Generator) -> Claims:
    """The same claims with one that is now false; "swap" exchanges the colours of a pair."""
    if kind == "ground":
        return replace(claims, ground=_choose(rng, tuple(g for g in GROUNDS if g != claims.ground)))
    if kind == "relation":
        return replace(claims, relation=_choose(rng, tuple(r for r in RELATIONS if r != claims.relation)))
    objects = list(claims.objects)
    if kind == "swap":
        a, b = objects
        return replace(claims, objects=(replace(a, colour=b.colour), replace(b, colour=a.colour)))
    index = int(rng.choice([i for i, o in enumerate(objects) if getattr(o, kind)]))
    options = {"colour": tuple(COLOURS), "shape": SHAPES, "size": SIZES, "place": PLACES}[kind]
    old = getattr(objects[index], kind)
    new = _choose(rng, tuple(o for o in options if o != old))
    objects[index] = replace(objects[index], **{kind: new})
    return replace(claims, objects=tuple(objects))
