"""The few settings of models that we read ourselves, with bounds, so that a wrong one costs no more than a message."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

_Side = Annotated[int, Field(ge=1, le=1 << 16)]
_Patch = Annotated[int, Field(ge=1, le=1024)]
_Width = Annotated[int, Field(ge=1, le=1 << 16)]
_Layers = Annotated[int, Field(ge=1, le=1000)]
_Levels = Annotated[list[_Width], Field(min_length=1, max_length=16)] | None
_Ratio = Annotated[float, Field(gt=0, le=64)]


class _Foreign(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class Denoiser(_Foreign):
    sample_size: _Side | Annotated[list[_Side], Field(min_length=2, max_length=2)] | None = None
    patch_size: _Patch | Annotated[list[_Patch], Field(min_length=1, max_length=4)] | None = 1


class Autoencoder(_Foreign):
    block_out_channels: _Levels = None
    encoder_block_out_channels: _Levels = None
    dim_mult: Annotated[list[Annotated[int | float, Field(gt=0, le=1024)]], Field(max_length=16)] | None = None


class Scheduler(_Foreign):
    class_name: str | None = Field(None, alias="_class_name", max_length=100)


class VisionTower(_Foreign):
    """As open_clip's `CLIPVisionCfg`."""

    layers: _Layers | Annotated[list[_Layers], Field(min_length=4, max_length=4)] = 12
    width: _Width = 768
    head_width: _Width = 64
    mlp_ratio: _Ratio = 4.0
    patch_size: _Patch = 16
    image_size: _Side | Annotated[list[_Side], Field(min_length=2, max_length=2)] = 224
    timm_model_name: str | None = None


class TokenizerOptions(BaseModel):
    """All that open_clip's own tokenizers take; it hands everything else to `AutoTokenizer.from_pretrained`."""

    model_config = ConfigDict(extra="forbid")

    clean: str | None = None
    strip_sep_token: bool | None = None
    language: str | None = None
    lower: bool | None = None
    additional_special_tokens: list[str] | None = None
    reduction_mask: str | None = None


class TextTower(_Foreign):
    """As open_clip's `CLIPTextCfg`."""

    context_length: Annotated[int, Field(ge=1, le=8192)] = 77
    vocab_size: Annotated[int, Field(ge=1, le=1 << 24)] = 49408
    width: _Width = 512
    heads: Annotated[int, Field(ge=1, le=1024)] = 8
    layers: _Layers = 12
    mlp_ratio: _Ratio = 4.0
    tokenizer_kwargs: TokenizerOptions | None = None
    hf_tokenizer_name: str | None = None
    tokenizer_mode: Literal["", "clips"] | None = None


class ClipModel(_Foreign):
    embed_dim: _Width
    vision_cfg: VisionTower
    text_cfg: TextTower

    @property
    def least_parameters(self) -> int:
        """Of the towers that open_clip builds from these numbers before it looks into any file of weights."""
        vision, text = self.vision_cfg, self.text_cfg
        parameters = _tower(text.width, text.layers, text.mlp_ratio)
        parameters += text.width * (text.vocab_size + text.context_length + self.embed_dim)
        if vision.timm_model_name is None and isinstance(vision.layers, int):
            side = vision.image_size if isinstance(vision.image_size, int) else min(vision.image_size)
            pieces = (side // vision.patch_size) ** 2
            parameters += _tower(vision.width, vision.layers, vision.mlp_ratio)
            parameters += vision.width * (pieces + 3 * vision.patch_size**2 + self.embed_dim)
        return parameters


class ClipSettings(_Foreign):
    model_cfg: ClipModel


def _tower(width: int, layers: int, ratio: float) -> int:
    """Attention has four square matrices a layer, and two of `ratio` times that size follow it."""
    return int(layers * (4 + 2 * ratio) * width**2)


_S = TypeVar("_S", bound=_Foreign)
_SHOWN: Final = 3


def read_settings(kind: type[_S], content: Any) -> _S:
    """Raises ValueError that names the keys that are wrong, and not what they hold."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        places = {".".join(str(part) for part in each["loc"])[:80]: each["msg"][:100] for each in found}
        text = "; ".join(f"`{place}`: {message}" for place, message in list(places.items())[:_SHOWN])
        raise ValueError(text) from None
