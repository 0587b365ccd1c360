"""`score: classifier`: images whose label a classifier does not see are rejected with that reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from promptmill.pipeline.jobfile.reader import load_job
from promptmill.pipeline.planning.plan import plan_job
from promptmill.schemas.errors import JobError
from tests.engine.conftest import Answer


def write_classifier(folder: Path, sees: str, licence: str = "license: mit") -> Path:
    """A vision transformer that takes every image for one of its three classes, 0.98 sure."""
    labels = ["Cross", "Red_Ring", "nothing"]
    config = ViTConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        image_size=32,
        patch_size=16,
        id2label=dict(enumerate(labels)),
        label2id={name: number for number, name in enumerate(labels)},
    )
    torch.manual_seed(0)
    model = ViTForImageClassification(config)
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([4.6 if name == sees else 0.0 for name in labels]))
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    (folder / "README.md").write_text(f"---\n{licence}\n---\n\nA classifier.\n")
    return folder


def job_of(folder: Path, classifier: Path, classes: Any, **sections: Any) -> Path:
    content = {
        "name": "judged",
        "prompts": {"classes": classes},
        "model": {"path": "builtin:shapes"},
        "generation": {"num_inference_steps": 2, "batch_size": 8, "images_per_prompt": 1},
        "score": [{"classifier": str(classifier)}],
        "select": {"per_class": 3, "max_rounds": 1, "where": [{"score": "agrees", "at_least": 1}]},
        "output": {"url": str(folder / "out")},
        **sections,
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


CLASSES = {"red ring": "a red ring", "cross": "a cross"}


def rings_alone_are_kept(made: Answer, out: Path) -> None:
    assert made.code == 3 and "Class cross: 0 of 3 kept" in made.out and "agrees below 1" in made.out
    kept = pq.read_table(out / "data").to_pylist()
    assert Counter(row["label_name"] for row in kept) == {"red ring": 3}
    assert all(row["scores"]["label_probability"] == pytest.approx(0.98, abs=0.01) for row in kept)


def test_what_the_classifier_does_not_see_is_rejected(cli: Callable[..., Answer], tmp_path: Path) -> None:
    file = job_of(tmp_path, write_classifier(tmp_path / "vit", "Red_Ring"), CLASSES)
    said = cli("validate", file)
    assert said.code == 0 and "its licence is mit" in said.out
    rings_alone_are_kept(cli("run", file, "--in-process"), tmp_path / "out")
    rejects = pq.read_table(tmp_path / "out" / "rejects").to_pylist()
    assert {(row["label_name"], row["reason"]) for row in rejects} == {("cross", "agrees below 1")}
    assert all(row["scores"]["label_probability"] == pytest.approx(0.01, abs=0.005) for row in rejects)


def test_a_class_that_it_does_not_know_is_refused(tmp_path: Path) -> None:
    file = job_of(tmp_path, write_classifier(tmp_path / "vit", "Cross"), ["cross", "disc"])
    message = r"score\[0\]\.classifier: expected a classifier that knows 'disc', got one of Cross, Red_Ring, nothing"
    with pytest.raises(JobError, match=message):
        plan_job(load_job(file))


def test_a_folder_without_a_head_is_refused(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path / "vit", "Cross")
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace("ViTForImageClassification", "ViTModel"))
    with pytest.raises(JobError, match="ForImageClassification"):
        plan_job(load_job(job_of(tmp_path, folder, CLASSES)))
    with pytest.raises(JobError, match="a classifier's folder"):
        plan_job(load_job(job_of(tmp_path, tmp_path / "nowhere", CLASSES)))


def test_other_weights_are_another_dataset(tmp_path: Path) -> None:
    prints = []
    for sees in ("Cross", "Red_Ring"):
        plan = plan_job(load_job(job_of(tmp_path, write_classifier(tmp_path / "vit", sees), CLASSES)))
        prints.append(plan.fingerprint)
    assert prints[0] != prints[1]


def test_a_job_without_labels_has_no_use_for_it(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a cross\n")
    sections = {"prompts": {"source": str(tmp_path / "a.txt")}, "select": None}
    with pytest.raises(JobError, match="null without labels"):
        load_job(job_of(tmp_path, tmp_path / "vit", CLASSES, **sections))
