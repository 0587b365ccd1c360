"""CLIP similarity of image and caption, by open_clip."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import open_clip
import torch
from PIL import Image

from promptmill.pipeline.models.catalog.clips import HUB, LOCAL, ResolvedClip, check_clip_folder, clip_folder
from promptmill.pipeline.models.catalog.held import held
from promptmill.pipeline.models.catalog.hub import download
from promptmill.pipeline.models.catalog.weights import list_folder
from promptmill.pipeline.models.diffusion.closed import closed
from promptmill.pipeline.models.diffusion.errors import guarded, loading
from promptmill.pipeline.models.diffusion.pipelines import choose_device
from promptmill.pipeline.models.interface import Pixels
from promptmill.schemas.errors import DeviceLostError, DeviceMemoryError, WorkerError

IMAGES = 32
"""In one pass."""
CAPTIONS = 8
"""In one pass, the last one filled up: the shape of a pass can change last bits."""
SHARDS_KEPT = 2
CAPTIONS_KNOWN = 4096
"""Of which it is remembered whether they are cut: more than a shard has."""


class ClipEncoder:
    """Runs in float32 also on a GPU: half precision moves a similarity by up to 1e-3, as much as rivals differ by."""

    def __init__(self, clip: ResolvedClip, device: str = "auto") -> None:
        """Raises ModelLoadError, and DeviceMemoryError when the weights do not fit."""
        self._device = choose_device(device)
        self._model, self._transform, self._tokenize = load_clip(clip, self._device)
        self._shards: list[dict[str, torch.Tensor]] = []
        self._prepared: list[str] = []
        self._seen: tuple[Sequence[Pixels], torch.Tensor] = ((), torch.zeros(0))
        self.is_cut = lru_cache(CAPTIONS_KNOWN)(self._is_longer_than_the_context)

    def prepare(self, captions: Sequence[str]) -> None:
        """A caption that cannot be encoded is left out here and raises when its image is scored."""
        distinct = list(dict.fromkeys(captions))
        if distinct and distinct == self._prepared:
            return
        self._prepared = distinct
        features: dict[str, torch.Tensor] = {}
        for start in range(0, len(distinct), CAPTIONS):
            features |= self._prepare_chunk(distinct[start : start + CAPTIONS])
        self._shards = [features, *self._shards[: SHARDS_KEPT - 1]]

    def _is_longer_than_the_context(self, caption: str) -> bool:
        """Whether the tokenizer leaves out some of it: in a context with room for one token more, that one is used."""
        context = getattr(self._model, "context_length", None) or self._tokenize.context_length
        longer, empty = self._tokenize([caption, ""], context_length=context + 1)
        return bool(longer[context] != empty[context])

    def cosines(self, images: Sequence[Pixels], captions: Sequence[str]) -> npt.NDArray[np.float32]:
        """Of each image and its caption, −1 to 1. Raises SampleError for one image, WorkerError for more."""

        def compute() -> npt.NDArray[np.float32]:
            texts = self.text_features(captions)
            similar = (self.image_features(images) * texts).sum(dim=1)
            return np.asarray(similar.where(similar.isfinite(), torch.nan).cpu().numpy(), dtype=np.float32)

        if len(images) == 0:
            return np.zeros(0, np.float32)
        return guarded(compute, len(images) == 1, "scoring")

    def _prepare_chunk(self, captions: list[str]) -> dict[str, torch.Tensor]:
        try:
            features = guarded(lambda: self.encode_texts(captions), False, "scoring")
        except (DeviceMemoryError, DeviceLostError):
            raise
        except WorkerError:
            if len(captions) == 1:
                return {}
            return {caption: row for single in captions for caption, row in self._prepare_chunk([single]).items()}
        return dict(zip(captions, features, strict=True))

    def _caption(self, caption: str) -> torch.Tensor:
        for shard in self._shards:
            if caption in shard:
                return shard[caption]
        late = {caption: self.encode_texts([caption])[0]}
        self._shards = [late | (self._shards[0] if self._shards else {}), *self._shards[1:]]
        return late[caption]

    def text_features(self, captions: Sequence[str]) -> torch.Tensor:
        """float32 [len(captions), width], of length 1; those of prepared captions are not computed again."""
        return torch.stack([self._caption(caption) for caption in captions])

    def image_features(self, images: Sequence[Pixels]) -> torch.Tensor:
        """float32 [len(images), width], of length 1. A second call for the same arrays costs nothing."""
        if len(images) != len(self._seen[0]) or any(a is not b for a, b in zip(images, self._seen[0], strict=True)):
            self._seen = (images, self.encode_images(images))
        return self._seen[1]

    def images(self, images: Sequence[Pixels]) -> npt.NDArray[np.float32]:
        """float32 [len(images), width], of length 1. Raises as `cosines`."""
        return _to_numpy(guarded(lambda: self.image_features(images), len(images) == 1, "scoring"))

    def texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """float32 [len(texts), width], of length 1; each distinct text is encoded once, prepared captions not again.

        Raises as `cosines`.
        """
        return _to_numpy(guarded(lambda: self._rows_of(texts), len(texts) == 1, "scoring"))

    def _rows_of(self, texts: Sequence[str]) -> torch.Tensor:
        rows = {text: row for shard in reversed(self._shards) for text, row in shard.items()}
        late = [text for text in dict.fromkeys(texts) if text not in rows]
        for start in range(0, len(late), CAPTIONS):
            chunk = late[start : start + CAPTIONS]
            rows |= dict(zip(chunk, self.encode_texts(chunk), strict=True))
        return torch.stack([rows[text] for text in texts])

    def encode_texts(self, captions: list[str]) -> torch.Tensor:
        """float32 [len(captions), width], of length 1, of at most `CAPTIONS` texts."""
        filled = captions + captions[-1:] * (CAPTIONS - len(captions))
        with torch.inference_mode():
            features: torch.Tensor = self._model.encode_text(self._tokenize(filled).to(self._device), normalize=True)
        return features.float()[: len(captions)]

    def encode_images(self, images: Sequence[Pixels]) -> torch.Tensor:
        parts = []
        with torch.inference_mode():
            for start in range(0, len(images), IMAGES):
                inputs = self._preprocess(images[start : start + IMAGES]).to(self._device)
                parts.append(self._model.encode_image(inputs, normalize=True).float())
        return torch.cat(parts)

    def _preprocess(self, images: Sequence[Pixels]) -> torch.Tensor:
        """float32 [len(images), 3, side, side]. Images that need no resizing skip the detour over PIL."""
        settings = self._model.visual.preprocess_cfg
        side = _pair(settings["size"])
        if any(image.shape != (*side, 3) for image in images):
            return torch.stack([self._transform(Image.fromarray(image)) for image in images])
        mean, std = (torch.tensor(settings[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
        values = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float().div(255)
        return (values - mean) / std


def _to_numpy(features: torch.Tensor) -> npt.NDArray[np.float32]:
    return np.asarray(features.cpu().numpy(), np.float32)


def _pair(size: Any) -> tuple[int, int]:
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return height, width


def load_clip(clip: ResolvedClip, device: torch.device) -> tuple[Any, Any, Any]:
    """Model in evaluation mode, its image transform, its tokenizer."""
    location = clip.location
    published = clip.tag is not None  # open_clip's own list names the file, a few of them pickles of tensors alone
    with loading(clip.path, "scoring", lambda: f"Tried: open_clip {location} on {device}"), held(clip):
        if not published:
            location = f"{LOCAL}{_look_again(clip)}"
        with closed(pickles=published, network=published):
            model, transform = open_clip.create_model_from_pretrained(
                location, clip.tag, precision="fp32", device=device, weights_only=True
            )
            tokenizer = open_clip.get_tokenizer(location)
    return model.eval(), transform, tokenizer


def _look_again(clip: ResolvedClip) -> Path:
    """The folder as it is now; a hub model's by its commit: open_clip would take the branch as it is, and pickles too.

    Raises JobError for what must not be loaded.
    """
    root = clip_folder(clip) if clip.is_local else download(clip.location.removeprefix(HUB), clip.revision)
    check_clip_folder(list_folder(root), str(root), "score")
    return root
