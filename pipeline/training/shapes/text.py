"""Stage "text": the text encoder learns to parse captions before the U-Net learns to draw them.

Stable Diffusion's encoder is trained contrastively beforehand and so tells apart which colour belongs to which shape.
Here the captions' claims are known exactly, so the encoder is trained to say them: each of the last positions (which
hold padding in every caption of the grammar) answers for one attribute through a linear head, with the objects of a
pair in canonical order, the left or upper one first. The heads are thrown away; the positions stay as registers.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from promptmill.pipeline.shapes import captions
from promptmill.pipeline.shapes.world import (
    COLOURS,
    GROUNDS,
    PLACES,
    SHAPES,
    SIZES,
    Claims,
    ObjectClaim,
    sample_scene,
)
from promptmill.pipeline.training.loop import Stage, StepRandom, autocast
from promptmill.pipeline.training.shapes.settings import MAX_TOKENS, TextSettings
from promptmill.pipeline.training.shapes.tokens import build_tokenizer

# What each register answers; class 0 is "not said".
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "layout": ("one", "left of", "above", "two"),
    "ground": tuple(GROUNDS),
    "colour 0": tuple(COLOURS),
    "shape 0": SHAPES,
    "size 0": SIZES,
    "place 0": PLACES,
    "colour 1": tuple(COLOURS),
    "shape 1": SHAPES,
}


class Parser(nn.Module):
    """The encoder and one linear head for each attribute, read at position MAX_TOKENS - 1 - index."""

    def __init__(self, settings: TextSettings, encoder: CLIPTextModel | None = None) -> None:
        super().__init__()
        self.encoder = encoder or build(settings)
        self.heads = nn.ModuleList(nn.Linear(settings.hidden, 1 + len(v)) for v in ATTRIBUTES.values())

    def forward(self, ids: Tensor) -> list[Tensor]:
        """Logits [n, 1 + classes] for each attribute."""
        states = self.encoder(input_ids=ids).last_hidden_state
        return [head(states[:, MAX_TOKENS - 1 - i]) for i, head in enumerate(self.heads)]


def build(settings: TextSettings) -> CLIPTextModel:
    tokenizer = shared_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden,
        intermediate_size=4 * settings.hidden,
        projection_dim=settings.hidden,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    # The fused attention's backward pass took a third of a step on a CPU: the plain one is faster there.
    model: CLIPTextModel = CLIPTextModel._from_config(config, attn_implementation="eager")
    return model


@cache
def shared_tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


def tokenize(texts: list[str]) -> Tensor:
    """int64 [n, MAX_TOKENS]."""
    encoded = shared_tokenizer()(texts, padding="max_length", truncation=True, max_length=MAX_TOKENS)
    return torch.tensor(encoded["input_ids"], dtype=torch.int64)


def labels(claims: Claims | None) -> list[int]:
    """The class of each attribute; None stands for the empty caption."""
    said: dict[str, str | None] = {}
    if claims is not None:
        if claims.relation in ("right of", "below"):
            claims = captions.flip(claims)
        said = {"layout": claims.relation or ("one" if len(claims.objects) == 1 else "two"), "ground": claims.ground}
        for i, thing in enumerate(claims.objects):
            said |= {f"{k} {i}": getattr(thing, k) for k in ("colour", "shape", "size", "place")}
    values = [(options, said.get(name)) for name, options in ATTRIBUTES.items()]
    return [0 if value is None else 1 + options.index(value) for options, value in values]


def sample_captions(now: StepRandom, n: int) -> tuple[list[str], Tensor]:
    """`n` captions of training scenes, two in three of pairs, a few empty, and their labels [n, attributes]."""
    rng, texts, classes = now.numpy, [], []
    for i in range(n):
        if rng.random() < 0.03:
            texts.append("")
            classes.append(labels(None))
            continue
        claims = captions.claims_at_random(sample_scene(rng, "train", 1 if i % 3 == 0 else 2), rng)
        text = captions.write(claims, rng)
        if rng.random() < 0.05:
            text += str(rng.choice([".", " please", " , photo", " 4k"]))
        texts.append(text)
        classes.append(labels(claims))
    return texts, torch.tensor(classes)


def train(stage: Stage, settings: TextSettings) -> CLIPTextModel:
    def losses(now: StepRandom) -> dict[str, Tensor]:
        texts, classes = sample_captions(now, stage.batch)
        with autocast(stage.device):
            logits = stage.module(tokenize(texts).to(stage.device))
        classes = classes.to(stage.device)
        loss = torch.stack([functional.cross_entropy(x.float(), classes[:, i]) for i, x in enumerate(logits)]).sum()
        return {"loss": loss}

    parser = stage.run(losses, lambda m: measure(m, stage.device))
    assert isinstance(parser, Parser)
    return parser.encoder


def measure(parser: nn.Module, device: torch.device, n: int = 500) -> dict[str, float]:
    """The share of captions of never-trained combinations that are parsed right in every attribute."""
    row = {}
    for count, name in ((1, "one"), (2, "two")):
        rng = np.random.default_rng([23, count])
        said = [captions.claims_at_random(sample_scene(rng, "held_out", count), rng) for _ in range(n)]
        said = [c for c in said if c.objects[0] != ObjectClaim()]
        logits = parser(tokenize([captions.write(c, rng) for c in said]).to(device))
        truth = torch.tensor([labels(c) for c in said])
        right = torch.stack([x.argmax(-1).cpu() == truth[:, i] for i, x in enumerate(logits)]).all(0)
        row[f"parsed_{name}"] = round(float(right.float().mean()), 4)
    return row
