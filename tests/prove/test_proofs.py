"""A proof can say no: what it chooses by, what it opens when, and what it refuses."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from promptmill.jobs.prove import prove
from promptmill.pipeline.evaluation.prove import protocol
from promptmill.pipeline.evaluation.prove.settings import ProofSettings
from promptmill.pipeline.evaluation.prove.verdict import difference, draws_needed, verdict
from promptmill.schemas.errors import JobError
from promptmill.schemas.proof import Proof
from tests.engine.conftest import cli

__all__ = ["cli"]


def write_set(root: Path, each: int, seed: int, noise: float = 60, wrong: bool = False) -> Path:
    """Two classes, a bar across or one upright, in much noise."""
    rng = np.random.default_rng(seed)
    for number, label in enumerate(("across", "upright")):
        (root / label).mkdir(parents=True)
        for i in range(each):
            image = rng.normal(128, noise, (16, 16))
            place = rng.integers(2, 12)
            bar = (
                (slice(place, place + 3), slice(None))
                if (number == 0) != wrong
                else (slice(None), slice(place, place + 3))
            )
            image[bar] += 70
            pixels = np.clip(image, 0, 255).astype(np.uint8)
            Image.fromarray(np.stack([pixels] * 3, 2)).save(root / label / f"{seed}-{i}.png")
    return root


@pytest.fixture
def settings(tmp_path: Path) -> ProofSettings:
    real, synthetic = write_set(tmp_path / "real", 6, 0), write_set(tmp_path / "synthetic", 15, 1)
    test, validation = write_set(tmp_path / "test", 60, 2), write_set(tmp_path / "validation", 30, 3)
    return ProofSettings(
        *map(str, (real, synthetic, test, tmp_path / "proof", validation)),
        learner="pixels", shots=3, draws=5, initialisations=1, shares=(0.5,), filters=("all",),
    )  # fmt: skip


@pytest.fixture
def proof(settings: ProofSettings) -> Proof:
    return prove(settings)


def test_true_images_help_and_the_proof_says_what_it_did(proof: Proof, settings: ProofSettings) -> None:
    assert proof.verdict == "helps" and proof.difference.low > 0
    assert len(proof.difference.by_draw) == proof.protocol.draws == 5
    best = {arm.name: arm for arm in proof.arms}
    mine, theirs = best[proof.chosen.synthetic_arm], best[proof.chosen.real_arm]
    assert proof.difference.mean == pytest.approx(mine.test - theirs.test)
    assert mine.validation == max(a.validation for a in proof.arms if 0 < a.share < 1)
    assert theirs.validation == max(a.validation for a in proof.arms if a.real_only)
    assert {arm.steps for arm in proof.arms} == {1000, 2000}
    for name in ("proof.json", "proof.md", "proof.tex", "proof.csv"):
        assert (Path(settings.out) / name).stat().st_size > 100
    assert json.loads((Path(settings.out) / "proof.json").read_text())["verdict"] == "helps"


def test_each_test_file_is_opened_once_by_the_last_step(settings: ProofSettings) -> None:
    """Counted by the interpreter's own audit of every open, with what was trained by then."""
    opened: list[str] = []
    trained: list[int] = []
    watching = [True]

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and watching and re.fullmatch(f"{settings.test}/.*png", str(arguments[0])):
            opened.append(str(arguments[0]))
            trained.append(len(list(Path(settings.out).glob("units/*.pt"))))

    sys.addaudithook(audit)
    proof = prove(settings)
    watching.clear()
    assert proof.test_openings == 120
    assert len(opened) == len(set(opened)) == 120
    everything = len(list(Path(settings.out).glob("units/*.pt")))
    assert set(trained) == {everything} and everything == len(proof.arms) * 5


def test_who_looks_at_the_test_set_again_is_told(settings: ProofSettings) -> None:
    """A verdict that is asked for until it comes is none; the same proof again is not another look."""

    def looks(draws: int) -> list[str]:
        found = prove(replace(settings, draws=draws)).notices
        return [text for text in found if text.startswith("the test set was opened before")]

    assert looks(2) == [] == looks(2)
    (first,) = looks(3)
    assert first.startswith("the test set was opened before, for 2 draws and pixels, and said: ")
    assert looks(3) == [first]
    assert looks(2)[0] == first and "for 3 draws" in looks(2)[1]
    (Path(settings.out) / "proof.json").write_text("[]")
    assert looks(2) == []


def test_a_learner_without_randomness_is_trained_once(settings: ProofSettings) -> None:
    proof = prove(replace(settings, initialisations=3))
    assert proof.protocol.initialisations == 1
    assert len(list(Path(settings.out).glob("units/*.pt"))) == len(proof.arms) * 5


def test_synthetic_images_whose_colour_tells_them_apart(settings: ProofSettings) -> None:
    told = "the real images are grey and the synthetic ones are not, so that colour tells them apart"
    quick = replace(settings, draws=2)
    assert told not in prove(quick).notices
    path = next(Path(settings.synthetic).rglob("*.png"))
    pixels = np.array(Image.open(path))
    pixels[..., 0] //= 2
    Image.fromarray(pixels).save(path)
    assert told in prove(quick).notices


def test_it_goes_on_where_it_was_stopped(settings: ProofSettings) -> None:
    whole = prove(settings)
    units = sorted(Path(settings.out).glob("units/*.pt"))
    units[3].write_bytes(b"torn")
    units[4].unlink()
    again = prove(settings)
    assert [arm.test_by_draw for arm in again.arms] == [arm.test_by_draw for arm in whole.arms]


def test_swapped_labels_harm(settings: ProofSettings, tmp_path: Path) -> None:
    wrong = write_set(tmp_path / "wrong", 15, 5, wrong=True)
    found = prove(replace(settings, synthetic=str(wrong), real=str(write_set(tmp_path / "many", 12, 7)), shots=9))
    assert found.verdict == "harms"


def test_copies_of_the_real_images_change_nothing(settings: ProofSettings) -> None:
    assert prove(replace(settings, control="copies")).verdict == "no difference shown"


@pytest.mark.parametrize("where", ["synthetic", "real"])
def test_planted_test_images_are_a_leak(settings: ProofSettings, where: str) -> None:
    planted = Path(settings.test) / "across/2-0.png"
    (Path(getattr(settings, where)) / "across/innocent.bmp").write_bytes(b"")
    Image.open(planted).save(Path(getattr(settings, where)) / "across/innocent.bmp")
    with pytest.raises(JobError, match=r"the test set \(a leak\), got 1 of .*innocent.bmp is across/2-0.png"):
        prove(settings)


def test_a_test_set_under_another_name_is_refused_before_any_training(settings: ProofSettings, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(settings.test, tmp_path / "other")
    with pytest.raises(JobError, match="--validation: expected another set than the test set"):
        prove(replace(settings, validation=str(tmp_path / "other")))
    assert not Path(settings.out).exists()


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "one image a class, five draws": ({"shots": 6}, "more images a class than shots, for 5 draws, got 6 of across"),
    "no such learner": ({"learner": "local-dir:/nowhere"}, "--learner"),
    "weights that are not there": ({"learner": "timm:resnet18=gone.safetensors"}, r"got no file gone\.safetensors"),
    "no model of timm": (
        {"learner": "timm:resnt18=gone.safetensors"},
        r"no model resnt18 in timm .* Near to it: .*resnet18",
    ),
    "no weights named": ({"learner": "timm:resnet18"}, r"timm:NAME=weights\.safetensors, .*got timm:resnet18$"),
    "a pickle": ({"learner": "timm:resnet18=weights.bin"}, "Pickles are never opened"),
    "no test": ({"test": "nowhere"}, "--test nowhere: expected images, got nothing there"),
    "a share of one": ({"shares": (1.0,)}, "shares between 0 and 1"),
    "validation is training": ({"validation": "REAL"}, "no image of the validation set"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_proven_is_refused(settings: ProofSettings, case: str) -> None:
    changes, said = BAD[case]
    changes = {name: settings.real if value == "REAL" else value for name, value in changes.items()}
    with pytest.raises(JobError, match=said):
        prove(replace(settings, **changes))


def test_one_class_is_refused(settings: ProofSettings, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (Path(settings.real) / "upright").rename(tmp_path / "one/upright")
    with pytest.raises(JobError, match="at least two classes, got only across"):
        prove(settings)


def test_verdicts_follow_the_interval() -> None:
    assert verdict(difference([5, 6, 7], [1, 2, 2.5])) == "helps"
    assert verdict(difference([1, 2, 2.5], [5, 6, 7])) == "harms"
    assert verdict(difference([1, 9, 2], [5, 2, 4])) == "no difference shown"
    assert verdict(difference([9.0], [1.0])) == "no difference shown"
    found = difference([1.0, 2.0, 3.0], [0.0, 0.0, 0.0])
    assert found.low == pytest.approx(2 - 4.302653 * 1 / 3**0.5, abs=1e-5)
    assert draws_needed(found) == 5  # a published table: d = 2, α 0.05 two-sided, power 0.8
    assert draws_needed(difference([1.0, 1.0], [1.0, 1.0])) is None


def test_the_command_line(cli: Callable[..., Any], settings: ProofSettings) -> None:
    arguments = (settings.real, settings.synthetic, "--test", settings.test, "--validation", settings.validation)
    quick = ("--learner", "cnn", "--steps", 8, "--batch", 8, "--draws", 2, "--initialisations", 1, "--share", 0.5)
    answer = cli("prove", *arguments, *quick, "--shots", 2, "--out", settings.out, "--json")
    assert answer.code == 0, answer.err
    assert answer.json["protocol"]["learner"] == "cnn" and answer.json["verdict"]
    assert protocol.PROOF_FILE == "proof.json"
