"""The file of `promptmill finetune` as typed, frozen values; `schemas/finetune.schema.json` is generated from here."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import InitErrorDetails

from promptmill.schemas.generation import Model, Size
from promptmill.schemas.prompts import MAX_SEED
from promptmill.schemas.rules import StrictModel, Text, broken_rule, raise_all

Method = Literal["lora", "dreambooth", "textual_inversion"]
Share = Annotated[float, Field(ge=0, le=1)]


class TuningImages(StrictModel):
    source: Text
    """Images to learn from: a folder by class, an image folder, Parquet files or a dataset of ours."""
    caption: Text | None = None
    """What each image is called in training, with `{label}` and `{caption}` filled in. Null is its own caption, else
    its class."""
    exclude: Annotated[tuple[Text, ...], Field(strict=False, max_length=16)] = ()
    """Validation and test sets: an image that is also one of these is refused, re-encoded ones too."""
    classes: Annotated[tuple[Text, ...], Field(strict=False)] | None = None
    """Only images of these classes. Null is all."""


class Finetune(StrictModel):
    method: Method = "lora"
    """`lora`; `dreambooth` is LoRA with a rare token for a subject and samples of the model itself beside it;
    `textual_inversion` learns the embeddings of a new word and nothing else."""
    each: Literal["all", "class", "image"] = "all"
    """One adapter of all images, or a small one of each class or image, made side by side."""
    token: Text | None = None
    """The new word of `dreambooth` and `textual_inversion`: adapters carry it as their trigger."""
    class_word: Text | None = None
    """What the subject is (`dog`). `dreambooth` calls images "a {token} {class_word}" where `caption` is null;
    `textual_inversion` begins from this word's embedding."""
    prior_images: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Of `dreambooth`: samples of the untuned model for `class_word`, drawn first, that keep the class what it was."""
    prior_weight: Annotated[float, Field(ge=0, le=100)] = 1.0
    """Of their loss beside that of the images."""
    vectors: Annotated[int, Field(ge=1, le=64)] = 1
    """Of `textual_inversion`: embeddings that the new word has."""
    rank: Annotated[int, Field(ge=1, le=1024)] = 16
    alpha: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """Scale of the change is alpha / rank; it is in the weights that are written. Null is `rank`."""
    targets: Literal["attention", "all"] | Annotated[tuple[Text, ...], Field(strict=False, min_length=1)] = "all"
    """Modules that get an adapter: `attention`, `all` (attention, projections, feed-forward and convolutions), or ends
    of their names, such as `to_q`."""
    optimizer: Literal["adamw", "prodigy"] = "adamw"
    """`prodigy` finds its own rate: leave `learning_rate` null. It needs the package `prodigyopt`."""
    learning_rate: Annotated[float, Field(gt=0, le=10)] | None = None
    """Null is 1e-4 with `adamw` (1e-3 for the built-in model and for `textual_inversion`), 1 with `prodigy`."""
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.01
    warmup_steps: Annotated[int, Field(ge=0, le=100_000)] = 20
    steps: Annotated[int, Field(ge=1, le=10_000_000)] = 500
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 8
    width: Size | None = None
    """Pixels; null is the model's own."""
    height: Size | None = None
    """Pixels; null is the model's own."""
    flip: bool = False
    """Each image also mirrored. Off: mirrored letters, digits and faces are others."""
    caption_dropout: Share = 0.1
    """Share of images that are learnt with an empty caption, so that guidance still works."""
    min_snr: Annotated[float, Field(gt=0, le=1000)] | None = 5.0
    """Min-SNR weighting (Hang et al. 2023) for models that predict noise or v; null is none. Flow models have none."""
    timesteps: Literal["auto", "uniform", "logit_normal"] = "auto"
    """`auto` is logit-normal for flow models (Esser et al. 2024), uniform for others."""
    gradient_checkpointing: bool = False
    """Less memory, a third more time."""
    checkpoint_every: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    """Steps after which the state is written; a crash costs at most so many."""
    command: Annotated[tuple[Text, ...], Field(strict=False, min_length=1)] | None = None
    """A trainer of your own in place of ours: its program and arguments, in which `{images}` is a folder of images with
    `metadata.jsonl`, `{output}` an empty folder for its one .safetensors file, `{model}` the model's path."""
    command_timeout_s: Annotated[float, Field(gt=0)] = 86_400.0

    @property
    def scale(self) -> float:
        return (self.alpha or float(self.rank)) / self.rank


class TuningOutput(StrictModel):
    folder: Text
    """Local folder of the adapter, its cache and its checkpoints."""
    keep_cache: bool = True
    """Latents and text embeddings stay for the next training."""


class TuningCompute(StrictModel):
    workers: Annotated[int, Field(ge=1, le=4096)] = 1
    """Adapters that are made at once, each a Ray task; with 1 in this process, without Ray. Changes no weights."""
    threads_per_worker: Annotated[int, Field(ge=1, le=256)] = 1
    """On CPU; part of the result, since it changes last bits."""
    device: Literal["auto", "cpu", "cuda"] = "auto"


class Tuning(StrictModel):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    """What the adapter is called; letters, digits, `-` and `_`."""
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0
    model: Model = Model()
    images: TuningImages
    finetune: Finetune = Finetune()
    output: TuningOutput
    compute: TuningCompute = TuningCompute()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        raise_all(list(self._broken()))
        return self

    def _broken(self) -> list[InitErrorDetails]:
        how, found = self.finetune, []
        if how.method != "lora" and how.token is None:
            hint = "A word that the model does not use, such as sks."
            found.append(broken_rule(("finetune", "token"), f"a word for {how.method}", None, hint, "finetune.token"))
        if how.method != "lora" and how.class_word is None:
            hint = "What the subject is, such as dog."
            fields = "finetune.class_word"
            found.append(broken_rule(("finetune", "class_word"), f"a word for {how.method}", None, hint, fields))
        if self.model.quantization is not None or self.model.device_map is not None or self.model.offload != "none":
            got, hint = "small, spread or offloaded weights", "Leave quantization, offload and device_map out."
            found.append(broken_rule(("model",), "whole weights on one device", got, hint, "model"))
        if self.model.adapters or self.model.controlnets or self.model.ip_adapter:
            hint = "An adapter is learnt on the bare model."
            found.append(broken_rule(("model",), "a model without additions", "additions", hint, "model"))
        return found
