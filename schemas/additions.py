"""What a job puts onto a model that is loaded: LoRA adapters, ControlNets and an IP-Adapter."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from promptmill.schemas.rules import StrictModel, Text

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Preprocess = Literal["resize", "canny", "blur", "mask_from_alpha"]


class Adapter(StrictModel):
    """A LoRA, or a textual inversion, which is told by what the file holds."""

    name: Name
    """What records call it."""
    path: Text
    """A .safetensors file as diffusers or kohya write it, a folder with one, `org/name[/file.safetensors]` of the
    hub, or `builtin:hollow`, `builtin:wide`."""
    revision: Text | None = None
    """Commit of a hub id; required for hub ids."""
    weight: Annotated[float, Field(ge=-10, le=10)] = 1.0
    """How strongly it acts; 0 is without it."""
    trigger: Text | None = None
    """Words it was trained with, put before each prompt that lacks them. A textual inversion is called by this word,
    else by its name."""
    license: Text | None = None
    """Licence of its weights, as `model.license`."""


class ControlNet(StrictModel):
    """A second network, which a control image steers: a ControlNet, or a T2I-Adapter."""

    name: Name
    """What records call it, and columns of control images that are named."""
    path: Text
    """A diffusers folder of a ControlNet or T2I-Adapter, a hub id, or `builtin:edges`."""
    revision: Text | None = None
    """Commit of a hub id."""
    scale: Annotated[float, Field(ge=0, le=10)] = 1.0
    """Times `generation.control_scale`: how strongly this one acts beside others."""
    preprocess: Preprocess = "resize"
    """What is made of the control image once it has its size: nothing (`resize`), edges (`canny`, by OpenCV), a `blur`,
    or white where it is transparent (`mask_from_alpha`)."""
    mode: Name | Annotated[int, Field(ge=0, le=1000)] | None = None
    """Of a union ControlNet, which of its kinds of maps this is: `canny`, `depth`, `pose`, …, or its number."""
    license: Text | None = None
    """Licence of its weights, as `model.license`."""


class IpAdapter(StrictModel):
    """What makes a model look at a reference image beside the prompt: an IP-Adapter, or Flux Redux."""

    path: Text
    """A folder, a .safetensors file in one, or a hub id. A folder like FLUX.1-Redux-dev is Flux Redux."""
    weight_name: Text | None = None
    """The weights below it, such as `models/ip-adapter_sd15.safetensors`, where there are several, or of a hub id; of
    Flux Redux on the hub `image_embedder/diffusion_pytorch_model.safetensors`."""
    image_encoder: Text | None = None
    """The folder below it with the image encoder. Null is `image_encoder` beside the weights."""
    revision: Text | None = None
    """Commit of a hub id."""
    scale: Annotated[float, Field(ge=0, le=10)] = 1.0
    """Times `generation.reference_scale`: how strongly it acts; 0 is without it."""
    license: Text | None = None
    """Licence of its weights, as `model.license`."""
