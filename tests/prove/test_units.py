"""What a proof trains: the same side by side, by every class, anew where its learner changed, and files read once."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from promptmill.jobs.prove import prove
from promptmill.pipeline.evaluation.prove.learners import Kernel, Part, Task, pixels
from promptmill.pipeline.evaluation.prove.settings import ProofSettings
from promptmill.pipeline.evaluation.prove.verdict import simplest
from promptmill.pipeline.evaluation.prove.world import Rows
from promptmill.schemas.proof import Proof
from tests.proofs.sets import write_shapes
from tests.prove.test_proofs import settings, write_set

__all__ = ["settings"]


def numbers(proof: Proof) -> list[Any]:
    return [proof.arms, proof.difference, proof.chosen, proof.agreement, proof.verdict]


def units(settings: ProofSettings) -> set[str]:
    return {path.name for path in Path(settings.out).glob("units/*.pt")}


@pytest.mark.slow
def test_two_learners_at_once_prove_the_same(settings: ProofSettings) -> None:
    quick = replace(settings, learner="cnn", steps=8, batch=8, draws=2, initialisations=2, filters=("all", "agreed"))
    alone = prove(quick)
    at_once = prove(replace(quick, workers=2, out=f"{settings.out} at once"))
    assert numbers(alone) == numbers(at_once)


def test_a_kernel_learns_from_every_class_of_a_large_set() -> None:
    """Sets are sorted by class: the first 1,500 rows of 2,000 are all of the first one."""
    learner = Kernel(pixels, "pixels")
    labels = torch.tensor([0] * 1_900 + [1] * 100)
    images = (labels[:, None, None, None] * 200).expand(-1, 3, 8, 8).to(torch.uint8)
    looked = Rows(np.stack([np.zeros((3, 8, 8), np.uint8), np.full((3, 8, 8), 200, np.uint8)]), np.array([0, 1]))
    parts = [Part(images[:, None], labels, 1.0)]
    state, right = learner.fit(parts, Task(2, 4, 2, False, 0, 1), looked)
    assert right == 1.0
    assert learner.answers(state, torch.from_numpy(looked.images), parts).tolist() == [0, 1]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_other_weights_of_a_learner_train_anew(settings: ProofSettings, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    quick = replace(settings, learner=f"timm:test_resnet={path}", draws=1, size=16)
    counts = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), path)
        prove(quick)
        counts.append(len(units(quick)))
    assert counts == [counts[0], 2 * counts[0]]


def test_an_open_clip_model_learns(settings: ProofSettings, tmp_path: Path) -> None:
    """Six shapes, of which chance says 17 %, and twice the same. Moved copies differ in the features of places: by a
    narrow kernel with a low ridge they were learnt by heart, and 72 % were right."""
    write_shapes(tmp_path / "shapes", {"real": 5, "synthetic": 4, "test": 20, "validation": 20})
    sets = {name: str(tmp_path / "shapes" / name) for name in ("real", "synthetic", "test", "validation")}
    asked = replace(settings, **sets, learner="builtin:shapes", draws=2, size=24)
    one, other = (prove(replace(asked, out=f"{settings.out}{i}")) for i in (1, 2))
    assert one.protocol.deterministic and numbers(one) == numbers(other)
    right = {arm.name: arm.test for arm in one.arms}
    assert right["real"] > 90 and right["real, standard augmentation"] > 80, right


def test_of_arms_within_chance_the_simplest_is_taken() -> None:
    assert simplest([[20.1, 19.0, 21.2], [17.0, 18.0, 18.0], [20.5, 20.2, 20.6]]) == 0
    assert simplest([[78.0, 77.0, 78.5], [82.0, 81.5, 82.2], [82.1, 81.4, 82.3]]) == 1
    assert simplest([[20.1], [20.2]]) == 1, "of one draw nobody knows the error"
    assert simplest([[20.0, 20.0], [20.0, 20.0]]) == 0


def test_each_file_is_read_once(settings: ProofSettings) -> None:
    opened: list[str] = []
    watching = [True]

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and watching and re.search(r"/(real|synthetic|validation|test)/.*png$", str(arguments[0])):
            opened.append(str(arguments[0]))

    sys.addaudithook(audit)
    prove(settings)
    watching.clear()
    assert len(opened) == len(set(opened)) == 12 + 30 + 60 + 120


def test_without_a_validation_set_a_third_of_the_real_images_chooses(settings: ProofSettings, tmp_path: Path) -> None:
    real = write_set(tmp_path / "many", 12, 7)
    copied = next((real / "across").iterdir())
    (copied.parent / "twin.png").write_bytes(copied.read_bytes())
    proof = prove(replace(settings, real=str(real), validation=None, draws=2))
    assert proof.validation.images in (7, 8) and proof.real.images == 17
    assert any("choose, and are not trained on" in text for text in proof.notices)


def test_proofs_in_one_folder_share_what_they_have_in_common(settings: ProofSettings) -> None:
    prove(settings)
    first = units(settings)
    prove(replace(settings, control="shuffled"))
    assert len(units(settings) - first) == 2 * 5  # mixed and alone: what is real alone was there
