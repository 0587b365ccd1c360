"""The one door to torch: settings that libraries read while they are imported are made here, then they are imported."""

from __future__ import annotations

import os
import socket
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from promptmill.pipeline.models.catalog.mirror import Told, silent
from promptmill.pipeline.storage.digests import notes_folder
from promptmill.pipeline.storage.turns import some_at_a_time
from promptmill.schemas.errors import NoDeviceError

if TYPE_CHECKING:
    from promptmill.pipeline.models.catalog.clips import ResolvedClip
    from promptmill.pipeline.models.catalog.features import Features
    from promptmill.pipeline.models.interface import Classifier, Embedder, Generator, ImageEncoder
    from promptmill.schemas.resolved import ResolvedModel

ENVIRONMENT = {
    "DIFFUSERS_DISABLE_REMOTE_CODE": "1",
    "TOKENIZERS_PARALLELISM": "false",  # tokenizers otherwise warn, and may hang, in processes that fork later
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # cuBLAS repeats its sums only with a fixed workspace
}


LOADS_AT_ONCE = 2
"""Of all workers of a machine: one reads the disk while another copies. Six at once took 27.8 s for 1 GiB each and held
4.8 GiB of main memory; two at a time 8.4 s and 2.6 GiB, four 10.5 s, one 9.7 s (measured cold, on two cores)."""


def load_generator(model: ResolvedModel, threads: int, device: str = "auto", told: Told = silent) -> Generator:
    """Loads the weights onto the device. `threads` counts for the whole process; `told` hears of long waits for a turn.

    Raises ModelLoadError with what was tried, DeviceMemoryError when the weights do not fit.
    """
    prepare_process(threads)
    from promptmill.pipeline.models.diffusion.generator import DiffusersGenerator

    with _turn_to_load(model.path, told):
        return DiffusersGenerator(model, device)


def load_embedder(clip: ResolvedClip, threads: int, device: str = "auto") -> Embedder:
    """As `load_generator`, for an open_clip model."""
    prepare_process(threads)
    from promptmill.pipeline.models.clip.encoder import ClipEncoder

    with _turn_to_load(clip.path):
        return ClipEncoder(clip, device)


def _turn_to_load(name: str, told: Told = silent) -> AbstractContextManager[None]:
    text = f"waiting to load {name}: {LOADS_AT_ONCE} workers of this node load at a time"
    try:
        # With the machine's name: a home that many nodes share holds a lock for each.
        return some_at_a_time(notes_folder(), f"load {socket.gethostname()}", LOADS_AT_ONCE, lambda: told(text))
    except RuntimeError:  # no home
        return nullcontext()


def load_image_encoder(model: Features, threads: int, device: str = "auto") -> ImageEncoder:
    """As `load_generator`, for what embeds images alone."""
    from promptmill.pipeline.models.catalog.features import ResolvedVision

    if not isinstance(model, ResolvedVision):
        return load_embedder(model, threads, device)
    prepare_process(threads)
    from promptmill.pipeline.models.clip.vision import VisionEncoder

    with _turn_to_load(model.path):
        return VisionEncoder(model, device)


def load_classifier(model: ResolvedClip, threads: int, device: str = "auto") -> Classifier:
    """As `load_generator`, for a classifier's folder."""
    prepare_process(threads)
    from promptmill.pipeline.models.catalog.classifiers import classifier_folder
    from promptmill.pipeline.models.catalog.weights import list_folder, onnx_name

    if onnx_name(list_folder(classifier_folder(model))) is not None:
        from promptmill.pipeline.models.clip.onnx_classifier import OnnxClassifier

        return OnnxClassifier(model, threads)
    from promptmill.pipeline.models.clip.classifier import ImageClassifier

    with _turn_to_load(model.path):
        return ImageClassifier(model, device)


def require_gpu(threads: int) -> None:
    """For a worker that was given one: where its driver is broken torch quietly takes the CPU, which is far slower and
    draws other bytes. Raises NoDeviceError."""
    prepare_process(threads)
    from promptmill.pipeline.models.diffusion.device import why_no_gpu

    if (reason := why_no_gpu()) is not None:
        way = "Look at `nvidia-smi` there; compute.gpus_per_worker: 0 draws on the CPU"
        raise NoDeviceError(f"Ray gives this worker a GPU, and torch cannot use it: {reason}. {way}")


def acting_device(device: str) -> dict[str, str]:
    """What a shard's proof says of the device that a generator is on: its name, and of a GPU CUDA and driver."""
    from promptmill.pipeline.models.diffusion.device import device_facts

    return device_facts(device)


def prepare_process(threads: int) -> None:
    os.environ.update(ENVIRONMENT)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    import torch

    torch.set_num_threads(threads)
    # Only warns: a pipeline whose one operation has no repeatable form should still run.
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # it would write NaN into every new buffer first
    torch.backends.cudnn.benchmark = False  # it chooses convolutions by the clock
