"""The scorer on a real open_clip model of random weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from promptmill.pipeline.models.catalog.clips import ResolvedClip, resolve_clip
from promptmill.pipeline.models.clip.encoder import ClipEncoder
from promptmill.pipeline.models.load import load_embedder
from promptmill.schemas.errors import DeviceLostError, DeviceMemoryError, ModelLoadError, SampleError, WorkerError

CAPTIONS = ["a red circle", "a blue square", "a star", "a red circle"]


@pytest.fixture(scope="module")
def scorer(clip: ResolvedClip) -> ClipEncoder:
    loaded = load_embedder(clip, threads=1)
    assert isinstance(loaded, ClipEncoder)
    return loaded


def images(count: int, side: int = 64) -> list[Any]:
    return list(np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8))


@pytest.mark.parametrize("side", [64, 32, 20])
def test_scores_are_the_cosines_of_open_clip(side: int, scorer: ClipEncoder, clip: ResolvedClip) -> None:
    """A plain use of open_clip, one image at a time; 32 is the model's own size, which takes the short way."""
    model, transform = open_clip.create_model_from_pretrained(clip.location)
    tokenize = open_clip.get_tokenizer(clip.location)
    expected = []
    with torch.no_grad():
        for image, caption in zip(images(4, side), CAPTIONS, strict=True):
            seen = model.encode_image(transform(Image.fromarray(image))[None], normalize=True)
            expected.append(float(seen @ model.encode_text(tokenize([caption]), normalize=True).T))
    scorer.prepare(CAPTIONS)
    scores = scorer.cosines(images(4, side), CAPTIONS)
    assert scores.dtype == np.float32
    assert scores.shape == (4,)
    assert np.abs(scores - expected).max() < 1e-5
    assert np.abs(scores).max() <= 1
    assert np.ptp(scores) > 0


def test_each_distinct_caption_is_encoded_once(scorer: ClipEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    encode = scorer._model.encode_text
    monkeypatch.setattr(
        scorer._model, "encode_text", lambda *args, **options: calls.append(1) or encode(*args, **options)
    )
    scorer.prepare([f"{word} star" for word in ("a", "the", "on") for _ in range(40)])
    scorer.cosines(images(3), ["a star", "the star", "a star"])
    assert len(calls) == 1


def test_a_device_that_is_lost_over_texts(scorer: ClipEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own error came out, which failed the images one by one and left the broken process alive."""

    def lost(_: list[str]) -> torch.Tensor:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(scorer, "encode_texts", lost)
    with pytest.raises(DeviceLostError):
        scorer.texts(["never seen", "nor this"])


def test_captions_not_prepared_and_too_long(scorer: ClipEncoder) -> None:
    scorer.prepare([])
    assert np.isfinite(scorer.cosines(images(2), ["a circle " * 100, "a star"])).all()
    context = scorer._model.context_length
    fits = next(
        " ".join(["star"] * words) for words in range(context, 0, -1) if not scorer.is_cut(" ".join(["star"] * words))
    )
    assert (scorer.is_cut(f"{fits} star"), scorer.is_cut("a star"), scorer.is_cut("")) == (True, False, False)
    tokens = [scorer._tokenize([caption])[0] for caption in (f"{fits} star", f"{fits} circle", fits)]
    assert (tokens[0] == tokens[1]).all() and len(fits.split()) == context - 2  # the last words are not read


def test_batches_do_not_change_scores(scorer: ClipEncoder) -> None:
    captions = [f"a {number}" for number in range(40)]
    scorer.prepare(captions)
    together = scorer.cosines(images(40), captions)
    alone = np.concatenate(
        [scorer.cosines([image], [caption]) for image, caption in zip(images(40), captions, strict=True)]
    )
    assert np.abs(together - alone).max() < 1e-6
    assert np.array_equal(together, scorer.cosines(images(40), captions))


def test_no_images(scorer: ClipEncoder) -> None:
    assert scorer.cosines([], []).shape == (0,)


def test_a_score_that_is_not_finite_is_nan(scorer: ClipEncoder) -> None:
    def spoil(module: Any, args: Any, output: Any) -> Any:
        output[0] = float("inf")
        return output

    handle = scorer._model.visual.register_forward_hook(spoil)
    try:
        scores = scorer.cosines(images(2), CAPTIONS[:2])
    finally:
        handle.remove()
    assert np.isnan(scores[0])
    assert np.isfinite(scores[1])


def test_a_caption_that_cannot_be_encoded_costs_only_itself(scorer: ClipEncoder) -> None:
    """The text tower refuses the word "blurry"."""
    captions = ["a star", "a blurry star", "a circle"]
    blurry = int(scorer._tokenize(["blurry"])[0, 1])

    def refuse(module: Any, args: Any) -> None:
        if (args[0] == blurry).any():
            raise ValueError("odd word")

    handle = scorer._model.token_embedding.register_forward_pre_hook(refuse)
    try:
        scorer.prepare(captions)
        with pytest.raises(SampleError, match="scoring: ValueError: odd word"):
            scorer.cosines(images(1), captions[1:2])
        with pytest.raises(WorkerError) as raised:
            scorer.cosines(images(3), captions)
        assert not isinstance(raised.value, SampleError)
        assert np.isfinite(scorer.cosines(images(2), captions[::2])).all()
    finally:
        handle.remove()


def test_memory_errors_are_translated(scorer: ClipEncoder) -> None:
    def raise_memory(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    handle = scorer._model.visual.register_forward_hook(raise_memory)
    try:
        with pytest.raises(DeviceMemoryError):
            scorer.cosines(images(2), CAPTIONS[:2])
    finally:
        handle.remove()


def test_a_clip_that_does_not_load(folder: Callable[[str], Path], tmp_path: Path) -> None:
    """Configuration and weights that are each whole and do not belong together."""
    copy = Path(shutil.copytree(folder("clip"), tmp_path / "clip"))
    config = json.loads((copy / "open_clip_config.json").read_text())
    config["model_cfg"]["embed_dim"] = 64
    (copy / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelLoadError, match=r"does not load.*Tried: open_clip local-dir:"):
        load_embedder(resolve_clip(f"local-dir:{copy}", "score"), threads=1)
