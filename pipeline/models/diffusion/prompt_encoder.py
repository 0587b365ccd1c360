"""Prompts to embeddings: each distinct prompt once a shard, a negative prompt once a worker."""

from __future__ import annotations

import inspect
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from promptmill.pipeline.models.catalog.families import WEIGHS_WORDS
from promptmill.pipeline.models.diffusion.errors import describe, guarded
from promptmill.pipeline.models.diffusion.weighted import EMBEDDINGS, Part, Rows, joined, parts, weighed
from promptmill.schemas.emphasis import words_of
from promptmill.schemas.errors import DeviceLostError, DeviceMemoryError, SampleError, WorkerError

CHUNK = 8
"""Prompts in one pass of the text encoders, the last pass filled up: the shape of a pass can change last bits."""
NEGATIVES_KEPT = 128
"""Up to 0.5 GB for Flux (4 MB each), 15 MB for Stable Diffusion 1.x."""
SHARDS_KEPT = 2
"""A worker prepares the next shard while the one before is still in hand."""

_CLIP_OUTPUT = ("prompt_embeds", None)
_POOLED_OUTPUT = ("prompt_embeds", None, "pooled_prompt_embeds", None)
_MASKED_OUTPUT = ("prompt_embeds", "prompt_attention_mask", None, None)

ENCODED: dict[str, tuple[str | None, ...]] = {
    "StableDiffusionPipeline": _CLIP_OUTPUT,
    "StableDiffusionXLPipeline": _POOLED_OUTPUT,
    "StableDiffusionInpaintPipeline": _CLIP_OUTPUT,
    "StableDiffusionXLInpaintPipeline": _POOLED_OUTPUT,
    "StableDiffusion3Pipeline": _POOLED_OUTPUT,
    "FluxPipeline": ("prompt_embeds", "pooled_prompt_embeds", None),
    "PixArtAlphaPipeline": _MASKED_OUTPUT,
    "PixArtSigmaPipeline": _MASKED_OUTPUT,
}
"""What `encode_prompt` returns, named as the call takes it; None is left out. Other pipelines get plain text.

Only what the tests run on a real pipeline is listed.
"""


@dataclass(frozen=True)
class Encoded:
    """Tensors without batch dimension, on the CPU; none for pipelines that are given text.

    `truncated` says how flags of it end: empty where no text encoder read the whole, `:text_encoder` for one of several
    that read a part while another read all.
    """

    tensors: dict[str, torch.Tensor]
    truncated: tuple[str, ...] = ()


class PromptEncoder:
    def __init__(self, pipe: Any, words: Mapping[str, str] = MappingProxyType({})) -> None:
        """`words` are put in place of others wherever a text has those: textual inversions."""
        self.reads_weights = False
        """Whether texts have weights in them (`schemas/emphasis.py`)."""
        self._pipe = pipe
        self._words = dict(words)
        self._outputs = ENCODED.get(type(pipe).__name__)
        self._limits = token_limits(pipe)
        self._shards: list[dict[str, Encoded | SampleError]] = []
        self._negatives: OrderedDict[str, Encoded] = OrderedDict()
        config = getattr(pipe, "config", {})
        self._zeros_for_empty = bool(config.get("force_zeros_for_empty_prompt", False))

    @property
    def gives_tensors(self) -> bool:
        return self._outputs is not None

    def read_weights(self, reads_weights: bool) -> None:
        """What was encoded otherwise is let go."""
        if reads_weights != self.reads_weights:
            self.reads_weights = reads_weights
            self._shards, self._negatives = [], OrderedDict()

    @property
    def weighs_words(self) -> bool:
        return self.reads_weights and type(self._pipe).__name__ in WEIGHS_WORDS

    def parts(self, *texts: str) -> int:
        """How many parts, each as long as the encoders read at once, the longest of the texts has."""
        return max(len(self._parts(text)) for text in texts) if self.weighs_words else 1

    def filled(self, encoded: Encoded, parts: int) -> Encoded:
        """With empty parts behind it, so that a prompt and what it is guided away from are of one length."""
        rows, empty = encoded.tensors, self.prompt("").tensors if self.weighs_words else {}
        missing = parts - len(rows[EMBEDDINGS]) // len(empty[EMBEDDINGS]) if empty else 0
        if not missing:
            return encoded
        filler = empty if rows[EMBEDDINGS].any() else {EMBEDDINGS: torch.zeros_like(empty[EMBEDDINGS])}
        return Encoded(joined([rows, *[filler] * missing]), encoded.truncated)

    def _parts(self, text: str) -> list[Part]:
        tokenizers = [tokenizer for _, tokenizer, _ in self._limits]
        least = min(limit for _, _, limit in self._limits) - tokenizers[0].num_special_tokens_to_add()
        return parts(text, tokenizers, least, self.worded)

    def worded(self, text: str) -> str:
        """The text as the pipeline is given it."""
        if self.reads_weights and not self.weighs_words:
            text = words_of(text)
        for word, instead in self._words.items():
            text = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", instead, text)
        return text

    def prepare(self, prompts: Sequence[str]) -> None:
        """One bad prompt costs only itself: its error waits until it is asked for.

        Raises DeviceMemoryError and DeviceLostError.
        """
        distinct = list(dict.fromkeys(prompts))
        encoded: dict[str, Encoded | SampleError] = {}
        for start in range(0, len(distinct), CHUNK):
            encoded |= self._encode_chunk(distinct[start : start + CHUNK])
        self._shards = [encoded, *self._shards[: SHARDS_KEPT - 1]]

    def prompt(self, text: str) -> Encoded:
        """Encoded now if it was not prepared. Raises SampleError for a prompt that cannot be encoded."""
        for shard in self._shards:
            if text in shard:
                return _or_raise(shard[text])
        late = self._encode_chunk([text])
        self._shards = [late | (self._shards[0] if self._shards else {}), *self._shards[1:]]
        return _or_raise(late[text])

    def negative(self, text: str) -> Encoded:
        if text in self._negatives:
            self._negatives.move_to_end(text)
            return self._negatives[text]
        if text == "" and self._zeros_for_empty:  # as Stable Diffusion XL does when it is given no negative prompt
            encoded = Encoded({name: torch.zeros_like(value) for name, value in self._encode([""])[0].items()})
        else:
            encode = self._encode_all if self.weighs_words else self._encode
            row = guarded(lambda: encode([text])[0], True, "generation")
            encoded = Encoded(row, self._cut(text))
        self._negatives[text] = encoded
        if len(self._negatives) > NEGATIVES_KEPT:
            self._negatives.popitem(last=False)
        return encoded

    def _encode_chunk(self, texts: list[str]) -> dict[str, Encoded | SampleError]:
        def encode() -> dict[str, Encoded | SampleError]:
            rows = self._encode_all(texts) if self.weighs_words else self._encode_filled(texts)
            return {text: Encoded(row, self._cut(text)) for text, row in zip(texts, rows, strict=False)}

        try:
            return guarded(encode, False, "generation")
        except (DeviceMemoryError, DeviceLostError):
            raise
        except WorkerError as error:
            if len(texts) == 1:
                return {texts[0]: SampleError("generation", describe(error.__cause__ or error))}
            return {text: row for single in texts for text, row in self._encode_chunk([single]).items()}

    def _encode_all(self, texts: list[str]) -> list[Rows]:
        """Texts with weights, part by part; each part's passes have the shape that those of plain texts have."""
        read = [self._parts(text) for text in texts]
        distinct = list(dict.fromkeys(["", *(part.text for parts in read for part in parts)]))
        rows: dict[str, Rows] = {}
        for start in range(0, len(distinct), CHUNK):
            some = distinct[start : start + CHUNK]
            rows |= zip(some, self._encode_filled(some), strict=False)
        return [joined([weighed(rows[part.text], part, rows[""]) for part in parts]) for parts in read]

    def _encode_filled(self, texts: list[str]) -> list[Rows]:
        """One pass, filled up; of the fillers too."""
        return self._encode(texts + texts[-1:] * (CHUNK - len(texts)))

    def _encode(self, texts: list[str]) -> list[dict[str, torch.Tensor]]:
        if self._outputs is None:
            return [{} for _ in texts]
        offered = {
            "device": self._pipe._execution_device,
            "num_images_per_prompt": 1,
            "do_classifier_free_guidance": False,
            "max_sequence_length": call_default(self._pipe, "max_sequence_length"),
            "clean_caption": False,
            "prompt_2": None,  # Stable Diffusion 3 has no defaults for these; None is the first prompt again
            "prompt_3": None,
        }
        taken = inspect.signature(self._pipe.encode_prompt).parameters
        arguments = {name: value for name, value in offered.items() if name in taken}
        with torch.inference_mode():
            returned = self._pipe.encode_prompt(prompt=[self.worded(text) for text in texts], **arguments)
        named = {name: value.cpu() for name, value in zip(self._outputs, returned, strict=True) if name is not None}
        return [{name: value[row] for name, value in named.items()} for row in range(len(texts))]

    def _cut(self, text: str) -> tuple[str, ...]:
        if self.weighs_words:  # in as many parts as it needs
            return ()
        text = self.worded(text)
        cut = [
            encoder
            for encoder, tokenizer, limit in self._limits
            if len(tokenizer(text, truncation=False, verbose=False).input_ids) > limit
        ]
        return ("",) if cut and len(cut) == len(self._limits) else tuple(f":{encoder}" for encoder in cut)


def token_limits(pipe: Any) -> list[tuple[str, Any, int]]:
    """Each text encoder's name, its tokenizer, and the number of tokens, start and end included, that it sees."""
    limits = []
    for name, part in pipe.components.items():
        encoder_name = re.sub(r"^(tokenizer|processor)", "text_encoder", name)
        encoder = getattr(pipe, encoder_name, None) or getattr(pipe, "bert", None)  # as LDM calls it
        # A processor of images and text has one; the `tokenizer` of ChatGLM's is what splits words for it.
        tokenizer = part if hasattr(part, "model_max_length") else getattr(part, "tokenizer", part)
        sequence = _sequence_length(pipe)
        # What a processor reads is not cut unless the pipeline says where.
        if encoder_name == name or part is None or encoder is None or (tokenizer is not part and sequence is None):
            continue
        limit = tokenizer.model_max_length
        if sequence is not None and not encoder.config.model_type.startswith("clip"):
            limit = sequence
        positions = getattr(encoder.config, "max_position_embeddings", None)
        limits.append((encoder_name, tokenizer, min(limit, positions or limit)))
    return limits


def _sequence_length(pipe: Any) -> int | None:
    """Tokens that the pipeline's call lets through; None where it leaves that to the tokenizers."""
    named = (
        call_default(pipe, "max_sequence_length"),
        getattr(pipe, "default_max_sequence_length", None),
        pipe.config.get("prompt_max_tokens"),
    )
    return next((length for length in named if isinstance(length, int)), None)


def call_default(pipe: Any, name: str) -> Any:
    """Default of a parameter of the pipeline's call; None where there is no such parameter."""
    parameter = inspect.signature(pipe.__call__).parameters.get(name)
    return None if parameter is None or parameter.default is inspect.Parameter.empty else parameter.default


def _or_raise(found: Encoded | SampleError) -> Encoded:
    if isinstance(found, SampleError):
        raise found
    return found
