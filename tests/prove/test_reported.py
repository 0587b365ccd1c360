"""A proof of a dataset of ours is a section of its report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import promptmill
from tests.prove.test_proofs import write_set


@pytest.fixture
def dataset(tmp_path: Path, models: Path) -> str:
    job: dict[str, Any] = {
        "name": "proven",
        "prompts": {"classes": ["across", "upright"]},
        "model": {"path": str(models / "sd")},
        "generation": {"num_inference_steps": 2, "images_per_prompt": 4},
        "output": {"url": str(tmp_path / "made")},
    }
    return promptmill.run(job, in_process=True).output


def test_the_report_shows_it(dataset: str, tmp_path: Path) -> None:
    real, test = write_set(tmp_path / "real", 6, 0), write_set(tmp_path / "test <b>", 20, 2)
    options: dict[str, Any] = {"learner": "pixels", "shots": 2, "draws": 2, "initialisations": 1, "shares": (0.5,)}
    proof = promptmill.prove(real, dataset, test, tmp_path / "proof", **options)
    (Path(dataset) / "scores/proof-damaged.json").write_text('{"verdict": "helps"}')
    found = promptmill.report(dataset)
    assert [each.verdict for each in found.proofs] == [proof.verdict]
    assert any("proof-damaged.json: left out" in text for text in found.problems)
    page = (Path(dataset) / "report/index.html").read_text()
    assert "Does training on it help?" in page and proof.chosen.synthetic_arm in page
    assert "test &lt;b&gt;" in page and "test <b>" not in page
    assert json.loads((Path(dataset) / "report/summary.json").read_text())["proofs"][0]["verdict"] == proof.verdict
    assert promptmill.verify(dataset).problems == []
