"""What a CLIP makes of images and of texts, apart: for metrics that compare more than an image with its caption."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from promptmill.pipeline.models.catalog.clips import ResolvedClip
from promptmill.pipeline.models.clip.encoder import CAPTIONS, ClipScorer, to_numpy
from promptmill.pipeline.models.interface import Pixels


class ClipFeatures(ClipScorer):
    def __init__(self, clip: ResolvedClip, device: str = "auto") -> None:
        super().__init__(clip, "features", device)

    def images(self, images: Sequence[Pixels]) -> npt.NDArray[np.float32]:
        """float32 [len(images), width], of length 1."""
        return to_numpy(self.image_features(images))

    def texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """float32 [len(texts), width], of length 1; each distinct text is encoded once."""
        distinct = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        every = list(distinct)
        parts = [self.encode_texts(every[start : start + CAPTIONS]) for start in range(0, len(every), CAPTIONS)]
        return to_numpy(torch.cat(parts))[[distinct[text] for text in texts]]
