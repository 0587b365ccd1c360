"""From folders to a verdict, killed on the way too, and what is refused before anything is made."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import pytest

from promptmill.jobs.synthesis import Stages, SynthesisSettings, Way, worded
from promptmill.jobs.synthesize import _chosen, most_agreed, synthesize
from promptmill.pipeline.crashpoints import EXIT_CODE
from promptmill.pipeline.dataset.labelled import read_labelled
from promptmill.pipeline.evaluation.prove.settings import ProofSettings
from promptmill.schemas.errors import JobError, OutputMismatchError
from promptmill.schemas.synthesized import Candidate, SynthesisResult
from tests.engine.conftest import cli
from tests.prove.test_proofs import write_set

__all__ = ["cli"]


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sets")
    write_set(root / "real", 6, 0)
    write_set(root / "test", 20, 2)
    return root


def settings_of(sets: Path, out: Path, **changes: Any) -> SynthesisSettings:
    proof = ProofSettings(
        str(sets / "real"), "", str(sets / "test"), str(out),
        learner="pixels", shots=3, draws=2, initialisations=1, shares=(0.5,), filters=("all",),
    )  # fmt: skip
    settings = SynthesisSettings(proof, each=3, tuning_steps=2, sampling_steps=2, in_process=True)
    settings = replace(settings, guidances=(1.0,), strengths=(0.5,))
    mine = {name: value for name, value in changes.items() if hasattr(settings, name)}
    return replace(settings, **mine, proof=replace(proof, **{k: v for k, v in changes.items() if k not in mine}))


def killed(settings: SynthesisSettings, at: str) -> None:
    child = os.fork()
    if child == 0:
        os.environ["PROMPTMILL_TEST_CRASH"] = at
        try:
            synthesize(settings)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == EXIT_CODE


def facts(made: SynthesisResult) -> list[Any]:
    proof = made.proof
    return [
        made.chosen,
        made.candidates,
        made.decisions,
        proof.verdict,
        proof.difference,
        proof.arms,
        proof.synthetic.sha256,
    ]


@pytest.mark.slow
def test_killed_between_stages_it_comes_to_the_same_verdict(sets: Path, tmp_path: Path) -> None:
    whole = synthesize(settings_of(sets, tmp_path / "whole"))
    assert [each.name for each in whole.candidates] == ["guidance-1", "strength-0.5"]
    assert whole.candidates[0].made == 6 and whole.proof.test_openings == 40
    assert any("within its error, choose" in text for text in whole.decisions)
    assert any("18 images at most" in text for text in whole.decisions)
    killed(settings_of(sets, tmp_path / "killed"), "synthesize parted:2")
    killed(settings_of(sets, tmp_path / "killed"), "synthesize curated:2")
    assert facts(synthesize(settings_of(sets, tmp_path / "killed"))) == facts(whole)
    written = json.loads((tmp_path / "killed/synthesis.json").read_text())
    assert written["proof"]["verdict"] == whole.proof.verdict
    with pytest.raises(OutputMismatchError, match=r"the same tuning-steps \(2\), got 3"):
        synthesize(settings_of(sets, tmp_path / "killed", tuning_steps=3))


def test_the_test_set_is_the_real_one(sets: Path, tmp_path: Path) -> None:
    shutil.copytree(sets / "real", tmp_path / "other name")
    with pytest.raises(JobError, match="REAL: expected another set than the test set"):
        synthesize(settings_of(sets, tmp_path / "out", test=str(tmp_path / "other name")))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"learner": "ViT-X/none"}, "--learner"),
        ({"strengths": (1.5,)}, "--strength: expected a number above 0 and at most 1, got 1.5"),
        ({"strengths": (math.nan,)}, "--strength: expected a number above 0 and at most 1, got nan"),
        ({"strengths": (0.4,)}, "--strength: expected at least 0.5 with 2 steps"),
        ({"guidances": (-2.0,)}, "--guidance: expected a number from 0 to 1000, got -2"),
        ({"guidances": (), "strengths": ()}, "expected a way to make images, got none"),
        ({"sampling_steps": 0}, "--sampling-steps: expected an integer from 1 to 1000, got 0"),
        ({"model": "no/such/folder"}, "--model"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_tuned(
    sets: Path, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(JobError) as refused:
        synthesize(settings_of(sets, tmp_path / "out", **changes))
    assert told in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_fewer_than_two_classes(sets: Path, tmp_path: Path) -> None:
    shutil.copytree(sets / "real/across", tmp_path / "real/across")
    with pytest.raises(JobError, match="at least two classes"):
        synthesize(settings_of(sets, tmp_path / "out", real=str(tmp_path / "real")))


def test_one_image_in_a_class(sets: Path, tmp_path: Path) -> None:
    shutil.copytree(sets / "real", tmp_path / "real")
    for path in sorted((tmp_path / "real/across").iterdir())[1:]:
        path.unlink()
    with pytest.raises(JobError, match="three images a class, of which one validates, got 1 of across"):
        synthesize(settings_of(sets, tmp_path / "out", real=str(tmp_path / "real")))
    assert not (tmp_path / "out").exists()


def test_more_is_made_over_images_than_they_divide(sets: Path, tmp_path: Path) -> None:
    """Four of each class over three real ones are two of each, so six."""
    real = read_labelled(str(sets / "real"), "REAL")
    draw = [image for _, own in groupby(real, lambda image: image.label) for image in [*own][:3]]
    stages = Stages(settings_of(sets, tmp_path, each=4), [draw], [], {"across": "a", "down": "b"}, print)
    assert (stages.count(Way(2.0), 0), stages.count(Way(2.0, 0.5), 0)) == (8, 12)


def test_a_teacher_chooses_among_ways_that_validation_cannot_tell_apart() -> None:
    ways = [Candidate("a", 200, 200, 0.12, 84.5), Candidate("b", 200, 200, 0.82, 83.5), Candidate("c", 9, 9, 0.9, 70.0)]
    assert most_agreed(ways, 200).name == "b"
    assert most_agreed(ways, 20_000).name == "a"
    assert most_agreed([Candidate("d", 9, 9, 0.5, 100.0), *ways], 200).name == "d"


def test_a_reader_is_told_what_to_doubt() -> None:
    tried = [Candidate("guidance-1", 200, 200, 0.12, 84.5), Candidate("strength-0.3", 200, 200, 0.82, 90.0)]
    doubted = _chosen(Way(1.0), tried, 88.5, 10)
    assert "no way was better on validation than the best with real images alone" in doubted
    assert any("agrees with 12% of their labels, and chance is 10%" in text for text in doubted)
    assert len(_chosen(Way(2.0, 0.3), tried, 88.5, 10)) == 1


def test_classes_are_called_what_the_model_knows(sets: Path, tmp_path: Path) -> None:
    settings = settings_of(sets, tmp_path)
    assert worded(settings, ["circle", "red_ring"]) == {"circle": "a circle", "red_ring": "a red ring"}
    foreign = worded(settings, ["0", "circle"])
    assert len(set(foreign.values())) == 2 and "0" not in foreign["0"]
    phrases = [*worded(settings, [str(number) for number in range(48)]).values()]
    assert len(set(phrases)) == 48
    for one, other in pairwise(phrases):
        assert not set(one.split()[1:]) & set(other.split()[1:])
    assert worded(replace(settings, model="some/folder"), ["0"]) == {"0": "a 0"}


@pytest.mark.slow
def test_the_command_line(cli: Callable[..., Any], sets: Path, tmp_path: Path) -> None:
    quick = ("--each", 2, "--tuning-steps", 1, "--sampling-steps", 2, "--guidance", 1, "--strength", 0.5)
    learns = ("--learner", "pixels", "--draws", 2, "--shots", 2, "--initialisations", 1, "--in-process")
    places = ("--real", sets / "real", "--test", sets / "test", "--out", tmp_path / "out")
    answer = cli("synthesize", *places, *quick, *learns, "--json")
    assert answer.code == 0, answer.err
    assert answer.json["proof"]["verdict"] and len(answer.json["candidates"]) == 2


@pytest.mark.slow
def test_interrupted_while_it_draws_it_says_so(sets: Path, tmp_path: Path) -> None:
    """It ended without a word: typer makes an exit code of what the run had ended with."""
    places = ["--real", sets / "real", "--test", sets / "test", "--out", tmp_path / "out"]
    quick = ["--each", 400, "--tuning-steps", 0, "--guidance", 1, "--shots", 2, "--learner", "pixels", "--in-process"]
    command = [sys.executable, "-m", "promptmill.jobs.cli", "synthesize", *map(str, [*places, *quick])]
    said: list[str] = []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        for line in running.stderr:
            said.append(line)
            if "shards to do" in line:
                running.send_signal(signal.SIGINT)
    assert running.returncode == 130
    assert "interrupted. Run the same command again to continue.\n" in said
    assert any("finishing what is in hand" in line for line in said)
