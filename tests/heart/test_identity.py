"""Names and seeds never change: an id that comes out otherwise doubles samples of datasets that are there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from promptmill.schemas.generation import Generation
from promptmill.schemas.identity import canonical_json, derived_prompt_id, digest, sample_id, sample_seed
from promptmill.schemas.plan import Variant
from promptmill.schemas.prompts import MAX_SEED
from promptmill.schemas.resolved import ResolvedModel

MODEL = ResolvedModel("org/model", "/somewhere", "abc", "auto", "P", "DDIMScheduler", 64, 64, 8, None, 1, False)
VARIANT = Variant(3, {"guidance_scale": 1.0}, MODEL, Generation())


def test_equal_values_have_one_text() -> None:
    assert canonical_json({"b": [1, 2.0, None, True], "a": "é\n"}) == '{"a":"é\\n","b":[1,2.0,null,true]}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))


def test_digest() -> None:
    assert digest([]) == "4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945"
    assert digest({"é": 1}) == "ddcfcf4765da163969972bb20660092ca2787782d9352d1d8a38e93f70acf3bf"
    assert len(digest("\ud800")) == 64  # half a character in a file name or prompt id


def test_prompt_id() -> None:
    assert derived_prompt_id("a/b.csv", 7) == "a/b.csv:7"


def test_sample_id() -> None:
    assert sample_id("p:0", VARIANT, 1) == "2621e217f82684fc5aeb6b85db63b650"


@pytest.mark.parametrize(
    ("prompt_id", "variant", "index"),
    [
        ("p:1", VARIANT, 1),
        ("p:0", VARIANT, 2),
        ("p:0", replace(VARIANT, values={"guidance_scale": 2.0}), 1),
        ("p:0", replace(VARIANT, values={}), 1),
        ("p:0", replace(VARIANT, model=replace(MODEL, path="org/other")), 1),
        ("p:0", replace(VARIANT, model=replace(MODEL, revision="abd")), 1),
    ],
)
def test_what_makes_another_sample(prompt_id: str, variant: Variant, index: int) -> None:
    assert sample_id(prompt_id, variant, index) != sample_id("p:0", VARIANT, 1)


def test_where_a_model_lies_and_which_number_a_cell_has_makes_no_other_sample() -> None:
    moved = replace(VARIANT, index=9, model=replace(MODEL, location="/elsewhere", weights_bytes=2))
    assert sample_id("p:0", moved, 1) == sample_id("p:0", VARIANT, 1)


def test_seed() -> None:
    assert sample_seed(0, "p:0", 0) == 5421675299863347
    assert sample_seed(5, "p:0", 2) == 5778540952330214


def test_what_makes_another_seed() -> None:
    seeds = {sample_seed(seed, prompt, index) for seed in (0, 1) for prompt in ("a", "b") for index in (0, 1)}
    assert len(seeds) == 8


def test_seeds_use_all_their_bits_and_no_more() -> None:
    seeds = [sample_seed(0, "p", index) for index in range(200)]
    assert all(0 <= seed <= MAX_SEED for seed in seeds)
    assert MAX_SEED == 2**53 - 1
    assert all(
        any(seed >> bit & 1 for seed in seeds) and not all(seed >> bit & 1 for seed in seeds) for bit in range(53)
    )
