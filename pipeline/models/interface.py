"""What the worker asks of a model. Numpy in, numpy out: torch stays behind this door."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from promptmill.schemas.errors import SampleError
from promptmill.schemas.generation import Generation
from promptmill.schemas.plan import Sample
from promptmill.schemas.resolved import ResolvedAdapter, ResolvedControl, ResolvedIpAdapter

Pixels = npt.NDArray[np.uint8]
"""uint8 [height, width, 3], sRGB."""


@dataclass(frozen=True)
class Generated:
    """One answer a sample, in the order asked: pixels, or the reason why there are none."""

    pixels: Pixels | None
    flags: tuple[str, ...] = ()
    error: SampleError | None = None


class Generator(Protocol):
    pipeline_class: str
    dtype: str
    device: str

    def scheduler_name(self, generation: Generation) -> str:
        """Class that will run, such as `DDIMScheduler`."""

    def use(
        self,
        adapters: Sequence[ResolvedAdapter],
        controls: Sequence[ResolvedControl] = (),
        ip_adapter: ResolvedIpAdapter | None = None,
    ) -> None:
        """From now on draw with these LoRA adapters, ControlNets and IP-Adapter and no others; the base's weights
        stay."""

    def prepare(self, samples: Sequence[Sample], generation: Generation) -> None:
        """Encode each distinct prompt of a shard once; the embeddings replace those of the shard before."""

    def generate(
        self,
        samples: Sequence[Sample],
        generation: Generation,
        on_step: Callable[[], None],
        full_precision: bool = False,
    ) -> list[Generated]:
        """One forward batch. `on_step` is called after each denoising step, on the calling thread.

        `full_precision` decodes (and for not finite latents also denoises) in float32.

        Raises DeviceMemoryError when the batch does not fit, DeviceLostError when the process must end,
        SampleError when the batch is one sample and the pipeline raised on it, and WorkerError when it raised
        on a larger batch.
        """


class ImageEncoder(Protocol):
    def images(self, images: Sequence[Pixels]) -> npt.NDArray[np.float32]:
        """float32 [images, width], of length 1. Raises SampleError for one that breaks it, WorkerError for more."""


class Classifier(Protocol):
    @property
    def labels(self) -> Sequence[str]: ...

    def probabilities(self, images: Sequence[Pixels]) -> npt.NDArray[np.float32]:
        """float32 [images, labels]. Raises SampleError for one that breaks it, WorkerError for more."""


class Embedder(ImageEncoder, Protocol):
    """An image and text encoder with a common space; rows are float32 vectors of length 1.

    `cosines`, `images` and `texts` raise SampleError for one that breaks the model, WorkerError for more.
    """

    def prepare(self, captions: Sequence[str]) -> None:
        """Encode each distinct caption of a shard once; replaces those of the shard before."""

    def cosines(self, images: Sequence[Pixels], captions: Sequence[str]) -> npt.NDArray[np.float32]:
        """Of each image and its caption, −1 to 1: float32 [len(images)], NaN where it is not finite."""

    def is_cut(self, caption: str) -> bool:
        """Whether the model reads a part of it only."""

    def texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]: ...
