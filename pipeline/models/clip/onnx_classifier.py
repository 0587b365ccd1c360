"""Which class an image is of, by an ONNX file in a folder as Optimum exports it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from promptmill.pipeline.models.catalog.classifiers import (
    MOST_ONNX_BYTES,
    check_classifier_folder,
    classifier_folder,
    classifier_labels,
)
from promptmill.pipeline.models.catalog.clips import ResolvedClip
from promptmill.pipeline.models.catalog.held import held
from promptmill.pipeline.models.catalog.onnx_files import is_whole
from promptmill.pipeline.models.catalog.weights import list_folder, onnx_name
from promptmill.pipeline.models.diffusion.closed import closed
from promptmill.pipeline.models.diffusion.errors import guarded, loading
from promptmill.pipeline.models.interface import Pixels
from promptmill.pipeline.storage.local import read_regular_file

_SUMS_TO_ONE = 1e-3


class OnnxClassifier:
    """Runs on the CPU, one image at a time, so that what it says of an image depends on no other."""

    def __init__(self, model: ResolvedClip, threads: int) -> None:
        """Raises ModelLoadError."""
        tried = f"Tried: onnxruntime {model.location}"
        with loading(model.path, "scoring", lambda: tried), held(model):
            self._load(model, threads)

    def _load(self, model: ResolvedClip, threads: int) -> None:
        import onnxruntime
        from transformers import AutoImageProcessor

        folder = list_folder(classifier_folder(model))
        check_classifier_folder(folder, "score")
        name = onnx_name(folder)
        if name is None:
            raise ValueError(f"{folder.root} has no ONNX file any more, or several")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.use_deterministic_compute = True
        options.log_severity_level = 3
        data = read_regular_file(folder.root / name, MOST_ONNX_BYTES)
        if not is_whole(data):  # looked at anew: these bytes and no others are run
            raise ValueError(f"{name} has weights in another file")
        self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        self.labels = classifier_labels(folder.root)
        self._input = _only_input(self._session)
        with closed():
            self._processor = AutoImageProcessor.from_pretrained(
                str(folder.root), local_files_only=True, trust_remote_code=False
            )
        self._outputs(Image.new("RGB", (32, 32)))  # sizes that do not fit are told before any image is made

    def probabilities(self, images: Sequence[Pixels]) -> npt.NDArray[np.float32]:
        """As `ImageClassifier.probabilities`."""
        return guarded(lambda: self._classify(images), len(images) == 1, "scoring")

    def _classify(self, images: Sequence[Pixels]) -> npt.NDArray[np.float32]:
        return np.stack([_shares(self._outputs(Image.fromarray(each))) for each in images])

    def _outputs(self, image: Image.Image) -> npt.NDArray[np.float64]:
        pixels = self._processor(images=[image], return_tensors="np")["pixel_values"].astype(np.float32)
        found = np.asarray(self._session.run(None, {self._input: pixels})[0], np.float64)
        if found.shape != (1, len(self.labels)):
            raise ValueError(f"expected outputs [batch, {len(self.labels)}], as `id2label` names, got {found.shape}")
        return np.asarray(found[0])


def _only_input(session: Any) -> str:
    """Raises ValueError for a graph that takes something else than one batch of images."""
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type != "tensor(float)" or len(inputs[0].shape) != 4:
        took = ", ".join(f"{each.name}: {each.type} {each.shape}" for each in inputs)
        raise ValueError(f"expected one input, float32 images [batch, 3, height, width], got {took}")
    return str(inputs[0].name)


def _shares(outputs: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Probabilities as they are, logits by softmax."""
    if (outputs >= 0).all() and abs(outputs.sum() - 1) < _SUMS_TO_ONE:
        return outputs.astype(np.float32)
    raised = np.exp(outputs - outputs.max())
    return np.asarray(raised / raised.sum(), np.float32)
