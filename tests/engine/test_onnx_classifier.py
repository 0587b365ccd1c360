"""A classifier as an ONNX file judges as one of transformers does, in a job and afterwards."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from transformers import ViTImageProcessor

from promptmill.jobs.score import score
from promptmill.pipeline.jobfile.reader import load_job
from promptmill.pipeline.models.catalog.classifiers import resolve_classifier
from promptmill.pipeline.models.catalog.clips import clip_files
from promptmill.pipeline.models.catalog.onnx_files import is_whole
from promptmill.pipeline.models.catalog.weights import BY_HASH, identity_of, list_folder
from promptmill.pipeline.models.load import load_classifier
from promptmill.pipeline.planning.plan import plan_job
from promptmill.schemas.errors import JobError, ModelLoadError
from tests.curation.drawn import make_dataset
from tests.engine.conftest import Answer
from tests.engine.test_classifier import CLASSES, job_of, rings_alone_are_kept

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

LABELS = ["Cross", "Red_Ring", "nothing"]


def write_onnx(
    folder: Path,
    weights: Sequence[Sequence[float]] = np.zeros((3, 3)).tolist(),
    biases: Sequence[float] = (0, 0, 0),
    labels: Sequence[str] = LABELS,
    last: str | None = None,
    inputs: int = 1,
    external: str | None = None,
) -> Path:
    """As Optimum lays it out. Logits are the mean colour of an image, in −1 to 1, times `weights`, plus `biases`."""
    from onnx import TensorProto, helper, numpy_helper

    folder.mkdir(exist_ok=True)
    matrix = numpy_helper.from_array(np.array(weights, np.float32), "weights")
    if external is not None:
        matrix.ClearField("raw_data")
        matrix.data_location = TensorProto.EXTERNAL
        matrix.external_data.add(key="location", value=external)
    nodes = [
        helper.make_node("ReduceMean", ["pixel_values", "sides"], ["colour"], keepdims=0),
        helper.make_node("Gemm", ["colour", "weights", "biases"], ["logits"]),
        *([helper.make_node(last, ["logits"], ["last"])] if last else []),
    ]
    image = ["batch", 3, "height", "width"]
    names = ["pixel_values", *(f"other_{i}" for i in range(inputs - 1))]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, image) for name in names],
        [helper.make_tensor_value_info("last" if last else "logits", TensorProto.FLOAT, ["batch", len(labels)])],
        [
            numpy_helper.from_array(np.array([2, 3], np.int64), "sides"),
            matrix,
            numpy_helper.from_array(np.array(biases, np.float32), "biases"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    (folder / "config.json").write_text(json.dumps({"model_type": "vit", "id2label": dict(enumerate(labels))}))
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: bsd-2-clause\n---\n")
    return folder


def test_what_it_does_not_see_is_rejected(cli: Callable[..., Answer], tmp_path: Path) -> None:
    file = job_of(tmp_path, write_onnx(tmp_path / "onnx", biases=(0, 4.6, 0)), CLASSES)
    said = cli("validate", file)
    assert said.code == 0 and "its licence is bsd-2-clause" in said.out
    rings_alone_are_kept(cli("run", file, "--in-process"), tmp_path / "out")


REDDEST = [[3, -3, 0], [-3, -3, 0], [-3, 3, 0]]
"""Of red, green and blue: red is the first class, blue the second."""


@pytest.mark.parametrize("last", [None, "Softmax"])
def test_a_dataset_that_is_there_is_judged_by_the_names_of_its_classes(tmp_path: Path, last: str | None) -> None:
    colours = {"red": (255, 0, 0), "blue": (0, 0, 255)}
    pictures = [np.full((32, 32, 3), colours[name], np.uint8) for name in ("red", "blue", "red")]
    make_dataset(tmp_path, pictures, label_name=["red", "blue", "blue"])
    folder = write_onnx(tmp_path / "onnx", REDDEST, labels=["Red", "Blue", "nothing"], last=last)
    told = score(str(tmp_path / "made"), [f"classifier={folder}"])
    assert told.mean is not None and told.mean["agrees"] == pytest.approx(2 / 3)
    (scores,) = (tmp_path / "made" / "scores").glob("classifier-*.parquet")
    rows = pq.read_table(scores).to_pylist()
    assert [row["agrees"] for row in rows] == [1, 1, 0]
    likely = np.exp([9, -3, 0]) / np.exp([9, -3, 0]).sum()  # (1, −1, −1) times the weights
    assert [row["label_probability"] for row in rows] == pytest.approx([likely[0], likely[0], likely[1]], abs=1e-5)


def test_a_class_that_it_does_not_know(tmp_path: Path) -> None:
    pictures = [np.zeros((8, 8, 3), np.uint8)] * 3
    make_dataset(tmp_path, pictures, per_shard=1, label_name=["cross", "nothing", "disc"])
    folder = write_onnx(tmp_path / "onnx")
    with pytest.raises(JobError, match="metric classifier: expected a classifier that knows 'disc'"):
        score(str(tmp_path / "made"), [f"classifier={folder}"])
    assert not (tmp_path / "made" / "scores").exists()  # told before the first object is scored


def test_the_file_names_its_folder_and_other_weights_are_another_dataset(tmp_path: Path) -> None:
    folder = write_onnx(tmp_path / "onnx", biases=(0, 4.6, 0))
    by_folder = plan_job(load_job(job_of(tmp_path, folder, CLASSES)))
    assert resolve_classifier(str(folder / "model.onnx"), "here") == resolve_classifier(str(folder), "here")
    write_onnx(folder, biases=(4.6, 0, 0))
    assert plan_job(load_job(job_of(tmp_path, folder, CLASSES))).fingerprint != by_folder.fingerprint


def test_what_is_missing_is_told_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_onnx(tmp_path / "onnx")
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else there(name))
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(JobError) as refused:
        resolve_classifier(str(folder), "score[0].classifier")
    told = str(refused.value)
    assert (
        "onnxruntime, without which model.onnx does not run, got not installed. pip install 'promptmill[onnx]'" in told
    )
    assert "preprocessor_config.json" in told


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"inputs": 2}, "expected one input, float32 images"),
        ({"labels": ["Cross", "Red_Ring"]}, r"expected outputs \[batch, 2\]"),
    ],
)
def test_a_file_that_is_no_such_classifier(tmp_path: Path, wrong: dict[str, Any], said: str) -> None:
    model = resolve_classifier(str(write_onnx(tmp_path / "onnx", **wrong)), "score")
    with pytest.raises(ModelLoadError, match=said):
        load_classifier(model, 1)


@pytest.mark.parametrize("elsewhere", ["/etc/hostname", "../secret", "secret", ""])
def test_weights_in_another_file_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: str) -> None:
    """onnxruntime, given bytes, looks for a bare name in the folder that the process works in."""
    (tmp_path / "secret").write_bytes(bytes(36))
    monkeypatch.chdir(tmp_path)
    folder = write_onnx(tmp_path / "onnx")
    model = resolve_classifier(str(folder), "score")
    write_onnx(folder, external=elsewhere)
    with pytest.raises(JobError, match=r"an ONNX file with all its weights in .*, got weights in another file"):
        resolve_classifier(str(folder), "score")
    found, files = identity_of(folder, clip_files(list_folder(folder)), "score")
    planned = replace(model, revision=f"{BY_HASH}{found}", files=files)  # as an older version did
    with pytest.raises(ModelLoadError, match="weights in another file"):
        load_classifier(planned, 1)


@pytest.mark.parametrize("place", ["initializer", "constant", "inner graph", "sparse", "function", "training"])
def test_wherever_a_tensor_lies(place: str) -> None:
    from onnx import AttributeProto, ModelProto, TensorProto

    def model(location: int | None) -> bytes:
        made = ModelProto()
        tensor = TensorProto(name="w", data_type=1, dims=[2], raw_data=bytes(8), data_location=location)
        attribute = AttributeProto(name="value", t=tensor)
        match place:
            case "initializer":
                made.graph.initializer.append(tensor)
            case "constant":
                made.graph.node.add(op_type="Constant").attribute.append(attribute)
            case "inner graph":
                made.graph.node.add(op_type="If").attribute.add(name="then_branch").g.initializer.append(tensor)
            case "sparse":
                made.graph.sparse_initializer.add().values.CopyFrom(tensor)
            case "function":
                made.functions.add().node.add().attribute.append(attribute)
            case "training":
                made.training_info.add().algorithm.initializer.append(tensor)
        return made.SerializeToString()

    assert is_whole(model(TensorProto.DEFAULT)) and is_whole(model(None))
    assert not is_whole(model(TensorProto.EXTERNAL))


@pytest.mark.parametrize(
    "data", [b"\x3a\xff\x01", b"\x3b", b"\x80", b"\xba\x80\x80\x80\x10\x00", b"no ONNX file at all"]
)
def test_what_is_no_onnx_file(data: bytes) -> None:
    with pytest.raises(ValueError, match="no ONNX file"):
        is_whole(data)
