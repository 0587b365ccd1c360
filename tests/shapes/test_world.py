"""The world: splits, prompts, captions and their parser."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from promptmill.pipeline.shapes import captions
from promptmill.pipeline.shapes.render import render, render_batch
from promptmill.pipeline.shapes.suite import sample_prompts
from promptmill.pipeline.shapes.world import (
    COLOURS,
    GROUNDS,
    KINDS,
    PLACES,
    RELATIONS,
    SHAPES,
    Claims,
    Kind,
    Object,
    ObjectClaim,
    Scene,
    is_held_out,
    sample_scene,
)

FULL_KINDS: tuple[Kind, ...] = ("one", "size", "place", "placed", "two", "relation")


def test_importing_world_and_verifier_brings_no_torch() -> None:
    code = "import sys, pipeline.shapes.verify, pipeline.shapes.captions; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_tenth_of_the_single_combinations_is_held_out_with_every_colour_shape_and_ground_left_to_train() -> None:
    combos = [(c, s, g) for c in COLOURS for s in SHAPES for g in GROUNDS]
    out = {(c, s, g) for c, s, g in combos if is_held_out(Scene(g, (Object(c, s, 32, 32, 9),)))}
    assert 0.05 < len(out) / len(combos) < 0.16
    trained = set(combos) - out
    for index, words in enumerate((COLOURS, SHAPES, GROUNDS)):
        assert {combo[index] for combo in trained} == set(words)


def test_training_scenes_are_never_held_out_ones() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 2):
        assert not any(sample_scene(rng, "train", count).held_out for _ in range(300))
        assert all(sample_scene(rng, "held_out", count).held_out for _ in range(50))


@pytest.mark.parametrize("kind", FULL_KINDS)
def test_held_out_captions_alone_say_a_combination_that_training_never_saw(kind: Kind) -> None:
    for prompt in sample_prompts(40, 3, "held_out", kind):
        claims = captions.parse(prompt.caption)
        assert prompt.scene.held_out
        if len(claims.objects) == 2:
            ordered = claims if claims.relation in ("left of", "above") else captions.flip(claims)
            assert [(o.colour, o.shape) for o in ordered.objects] == [(o.colour, o.shape) for o in prompt.scene.objects]
        else:
            thing = claims.objects[0]
            assert is_held_out(Scene(str(claims.ground), (Object(str(thing.colour), str(thing.shape), 32, 32, 9),)))


def test_prompts_depend_on_the_seed_and_on_their_index_alone() -> None:
    few, many = sample_prompts(5, 0, "held_out", "two"), sample_prompts(9, 0, "held_out", "two")
    assert few == many[:5]
    assert few != sample_prompts(5, 1, "held_out", "two")


def test_truth_survives_json() -> None:
    for prompt in sample_prompts(20, 0, "held_out", "placed"):
        restored = Claims.from_dict(json.loads(json.dumps(prompt.truth)))
        assert restored == captions.parse(prompt.caption)
        assert restored.objects[0].size or restored.objects[0].place


def test_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="colour, shape, one"):
        sample_prompts(1, 0, "train", "three")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_every_written_caption_is_read_back(kind: Kind) -> None:
    for prompt in sample_prompts(200, 1, "train", kind):
        assert captions.parse(prompt.caption) == Claims.from_dict(prompt.truth), prompt.caption


def test_random_training_captions_are_read_back_and_fit_the_tokenizer() -> None:
    rng = np.random.default_rng(2)
    for index in range(1500):
        claims = captions.claims_at_random(sample_scene(rng, "train", 1 + index % 2), rng)
        if claims == Claims((ObjectClaim(),)):
            continue
        text = captions.write(claims, rng)
        assert captions.parse(text) == claims, text
        assert set(text.replace(",", "").split()) <= set(captions.WORDS)
        assert len(text.replace(",", " , ").split()) <= 22


@pytest.mark.parametrize(
    ("text", "claims"),
    [
        ("Red circle", Claims((ObjectClaim("red", "circle"),))),
        ("a photo of a RED circle, 4k", Claims((ObjectClaim("red", "circle"),))),
        ("something green on grey", Claims((ObjectClaim("green"),), None, "gray")),
        ("a big ring in the middle", Claims((ObjectClaim(None, "ring", "large", "center"),))),
        (
            "blue square under a pink cross",
            Claims((ObjectClaim("blue", "square"), ObjectClaim("pink", "cross")), "below"),
        ),
        (
            "a red ring on the right and a blue ring on the left",
            Claims((ObjectClaim("red", "ring"), ObjectClaim("blue", "ring")), "right of"),
        ),
    ],
)
def test_parse(text: str, claims: Claims) -> None:
    assert captions.parse(text) == claims


@pytest.mark.parametrize("text", ["", "a dog", "object"])
def test_a_caption_without_claims_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no claim"):
        captions.parse(text)


def test_change_one_changes_the_claims_of_its_kind() -> None:
    rng = np.random.default_rng(0)
    for index in range(200):
        full = captions.claims_of_scene(sample_scene(rng, "train", 1 + index % 2))
        for kind in captions.changeable(full):
            assert captions.change_one(full, kind, rng) != full


def test_relations_have_inverses() -> None:
    pair = Claims((ObjectClaim("red", "ring"), ObjectClaim("blue", "ring")), "left of")
    assert captions.flip(captions.flip(pair)) == pair
    assert {captions.flip(Claims(pair.objects, r)).relation for r in RELATIONS} == set(RELATIONS)


def test_rendering_in_a_batch_equals_rendering_alone() -> None:
    rng = np.random.default_rng(4)
    scenes = [sample_scene(rng, "train", 1 + i % 2) for i in range(20)]
    batch = render_batch(scenes)
    assert batch.shape == (20, 64, 64, 3) and batch.dtype == np.uint8
    assert all((render(s) == image).all() for s, image in zip(scenes, batch, strict=True))


def test_single_objects_stand_in_their_places_inside_the_image() -> None:
    rng = np.random.default_rng(5)
    seen = set()
    for _ in range(300):
        thing = sample_scene(rng).objects[0]
        seen.add(thing.place)
        assert thing.x - thing.radius >= 0 and thing.x + thing.radius <= 64
    assert seen == set(PLACES)
