"""`model:` and `generation:` of the job file, whose fields `sweep:` has too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal, Self

from pydantic import Field

from promptmill.schemas.additions import Adapter, ControlNet, IpAdapter
from promptmill.schemas.inputs import TaskName
from promptmill.schemas.rules import StrictModel, Text

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Quantization = Literal[
    "torchao_int8", "torchao_float8", "quanto_int8", "quanto_float8", "bitsandbytes_int8", "bitsandbytes_nf4"
]
Offload = Literal["none", "model", "sequential"]
Fit = Literal["cover", "contain", "stretch"]
Size = Annotated[int, Field(ge=8, le=16384)]
INPUT_FIELDS: Final = frozenset({"strength", "fit"})
"""Fields of `generation` that say something of input images."""
MASK_FIELDS: Final = frozenset({"mask_blur", "mask_crop"})
"""And of masks."""
ASPECT: Final = "aspect"
"""Beside fields of `generation` in what a row sets: width by height, at as many pixels as the job has."""
WHERE_IT_LIES: Final = frozenset({"offload", "device_map", "license", "mirror"})
"""Fields of `model` that change no row: where weights come from, on which device they wait, what may be done with
them."""
_UNSAID: Final = {"license": None}
CONTROL_TIMES: Final = ("control_start", "control_end")
CONTROL_FIELDS: Final = frozenset({"control_scale", *CONTROL_TIMES})
"""Fields of `generation` that say something of ControlNets."""
REFERENCE_FIELDS: Final = frozenset({"reference_scale"})
"""Fields of `generation` that say something of reference images."""


class Model(StrictModel):
    path: Text = "builtin:shapes"
    """A diffusers folder, a hub id such as `stabilityai/sdxl-turbo`, or `builtin:shapes`. Safetensors only."""
    revision: Text | None = None
    """Commit of a hub id; required for hub ids, so that a resumed job cannot meet other weights."""
    dtype: Dtype = "auto"
    """`auto` is bfloat16 on a GPU that has it, else float16 on a GPU, float32 on CPU."""
    quantization: Quantization | None = None
    """Makes the denoiser's weights small while they are loaded, by this library and in this format. Other images than
    without; null is the weights as they are. Those of `bitsandbytes` need a GPU."""
    offload: Offload = "none"
    """For a GPU that cannot hold the model: `model` keeps one part at a time on it, `sequential` one layer (many times
    slower). Enters no fingerprint: the same operations run."""
    device_map: Literal["balanced"] | None = None
    """`balanced` spreads the parts of the model over the GPUs of a worker (`compute.gpus_per_worker` of 2 and more).
    Enters no fingerprint: the same operations run."""
    license: Text | None = None
    """Licence of the weights, as model cards name it (`apache-2.0`, `creativeml-openrail-m`). Null is what the card in
    the model's folder says. It stands in the dataset's card; enters no fingerprint."""
    mirror: Annotated[str, Field(pattern=r"^[^?#\s]+$")] | None = None
    """Folder or URL (`s3://bucket/models`) that hub ids are fetched from instead of the hub: it holds
    `org/name/COMMIT/` with the files of the repository and their `SHA256SUMS`. Enters no fingerprint."""
    adapters: Annotated[tuple[Adapter, ...], Field(strict=False, max_length=32)] = ()
    """LoRA adapters, all at once. To sweep them, sweep `model`: its weights are loaded once for all."""
    controlnets: Annotated[tuple[ControlNet, ...], Field(strict=False, max_length=8)] = ()
    """ControlNets, all at once, steered by `prompts.columns.control_image`."""
    ip_adapter: IpAdapter | None = None
    """An IP-Adapter, for the reference images of `prompts.columns.reference_image`."""

    @property
    def as_drawn(self) -> Self:
        """Without what changes no row: two models of which this is the same make the same images."""
        said = {name: type(self).model_fields[name].default for name in WHERE_IT_LIES}
        looks = self.ip_adapter and self.ip_adapter.model_copy(update=_UNSAID)
        adapters, nets = (tuple(p.model_copy(update=_UNSAID) for p in ps) for ps in (self.adapters, self.controlnets))
        return self.model_copy(update={**said, "adapters": adapters, "controlnets": nets, "ip_adapter": looks})


class Generation(StrictModel):
    num_inference_steps: Annotated[int, Field(ge=1, le=1000)] = 20
    """Denoising steps."""
    guidance_scale: Annotated[float, Field(ge=0, le=1000)] = 5.0
    """Classifier-free guidance; at 1 and below the negative prompt has no effect."""
    negative_prompt: str = ""
    """What the image should not show."""
    scheduler: Text | None = None
    """A diffusers scheduler class or a short name (`ddim`, `dpm++`, `euler`, `euler_a`, `unipc`, `lcm`).

    Null keeps the pipeline's own."""
    width: Size | None = None
    """Pixels; null is the model's own."""
    height: Size | None = None
    """Pixels; null is the model's own."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 16
    """Images per forward pass. Part of the result: batch size changes last bits."""
    images_per_prompt: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Images for each prompt and variant, each with its own seed."""
    mode: TaskName | None = None
    """What the job must be. Null is what follows from what it gives: `inpainting` with masks, with images
    `image-to-image`, or `edit` where the model changes them as the prompt says."""
    image_guidance_scale: Annotated[float, Field(ge=1, le=1000)] | None = None
    """How closely an edit keeps to its image, in models that have such a scale. Null is the pipeline's own."""
    strength: Annotated[float, Field(gt=0, le=1)] | None = None
    """How far an input image is left behind: this share of the steps is made. Null is 0.6, with a mask 1."""
    fit: Fit | None = None
    """How input images come to `width` × `height`: `cover` cuts, `contain` adds black, `stretch`.

    Null is `cover`; without `width` and `height` too each image keeps its own size, to the nearest that the model can
    draw."""
    mask_blur: Annotated[float, Field(ge=0, le=1000)] | None = None
    """Pixels by which the mask's edge is blurred (Gaussian) when what is drawn comes onto the image.

    Within the blur pixels are mixtures of both; outside the blurred mask they are the image's exactly. Null is 0."""
    mask_crop: Annotated[int, Field(ge=0, le=16384)] | None = None
    """The region around the mask, with so many pixels beside it, is drawn alone at `width` × `height` (null is the
    model's own) and pasted back, so that a small mask gets all of the model's detail. Null draws the whole image.

    `width`, `height` and `fit` bring the image itself to that size first; leave them out to keep the photo's own."""
    control_scale: Annotated[float, Field(ge=0, le=10)] | None = None
    """How strongly ControlNets act; 0 is without them. Null is 1."""
    control_start: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of the steps after which ControlNets begin to act. Null is 0."""
    control_end: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the steps after which they act no more. Null is 1."""

    reference_scale: Annotated[float, Field(ge=0, le=10)] | None = None
    """How strongly reference images act; 0 is without them. Null is 1."""

    def steering(self, own: Mapping[str, float]) -> tuple[float, float, float]:
        """How strongly ControlNets act, and from which share of the steps to which, with the values that null is.

        `own` are those of STEERING that a row sets itself.
        """
        scale, start, end = (own.get(name, getattr(self, name)) for name in ("control_scale", *CONTROL_TIMES))
        return 1.0 if scale is None else scale, start or 0.0, 1.0 if end is None else end

    def looking(self, own: Mapping[str, float]) -> float:
        """How strongly reference images act."""
        scale = own.get("reference_scale", self.reference_scale)
        return 1.0 if scale is None else scale
