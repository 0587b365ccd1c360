"""Keys of LoRA files as tools write them, taken apart: which module of which part a tensor belongs to.

Modules are named with underscores for dots, as kohya does, since from its names the dots cannot be told.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_PEFT: Final = re.compile(r"(?P<part>\w+)\.(?P<module>.+)\.(?P<half>lora_[AB])\.weight")
_KOHYA: Final = re.compile(
    r"lora_(?P<part>unet|te|te1|te2|transformer)_(?P<module>\w+)\.(?P<half>lora_down|lora_up|alpha)(\.weight)?"
)
_PARTS: Final = {"te": "text_encoder", "te1": "text_encoder", "te2": "text_encoder_2"}
_DOWN: Final = ("lora_A", "lora_down")
_BLOCK: Final = re.compile(r"(input|middle|output)_blocks?_(\d+)_(?:(\d+)_)?(.+)")
_SINGLE: Final = {
    **{"time_embed_0": "time_embedding_linear_1", "time_embed_2": "time_embedding_linear_2", "out_2": "conv_out"},
    **{"label_emb_0_0": "add_embedding_linear_1", "label_emb_0_2": "add_embedding_linear_2"},
    "input_blocks_0_0": "conv_in",
}
_RESNET: Final = {
    **{"in_layers_2": "conv1", "out_layers_3": "conv2", "emb_layers_1": "time_emb_proj"},
    "skip_connection": "conv_shortcut",
}


class Key(NamedTuple):
    """`half` is down, up, or alpha, which scales both."""

    module: str
    half: str


def parse(key: str, layers_per_block: int) -> Key | None:
    """None for a key that is neither diffusers' nor kohya's. `layers_per_block` is the U-Net's."""
    match = _PEFT.fullmatch(key) or _KOHYA.fullmatch(key)
    if match is None:
        return None
    part, module = _PARTS.get(match["part"], match["part"]), match["module"].replace(".", "_")
    if part == "unet":
        module = _of_diffusers(module, layers_per_block)
    half = "alpha" if match["half"] == "alpha" else "down" if match["half"] in _DOWN else "up"
    return Key(name(part, module), half)


def name(part: str, module: str) -> str:
    """The same for a module of a text encoder with and without `text_model` before it: transformers 5 writes none."""
    module = module.replace(".", "_")
    return f"{part}.{module.removeprefix('text_model_') if part.startswith('text_encoder') else module}"


def _of_diffusers(module: str, layers_per_block: int) -> str:
    """A module of a U-Net as Stability's code names it (`input_blocks_4_1_…`), as diffusers does."""
    if module in _SINGLE:
        return _SINGLE[module]
    match = _BLOCK.fullmatch(module)
    if match is None:
        return module
    where, number, inner, rest = match[1], int(match[2]), int(match[3] or 0), match[4]
    if where == "middle":
        kind = "attentions_0" if number == 1 else f"resnets_{number // 2}"
        return f"mid_block_{kind}_{_RESNET.get(rest, rest)}"
    first = number - 1 if where == "input" else number
    block, layer = divmod(first, layers_per_block + 1)
    side = "down" if where == "input" else "up"
    if rest in ("op", "conv"):
        sampler = "downsamplers" if side == "down" else "upsamplers"
        return f"{side}_blocks_{block}_{sampler}_0_conv"
    kind = "resnets" if inner == 0 else "attentions"
    return f"{side}_blocks_{block}_{kind}_{layer}_{_RESNET.get(rest, rest)}"
