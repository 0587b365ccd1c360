"""What a job names beside its prompts, as planning found it: models, adapters and ControlNets that exist and fit."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from promptmill.schemas.inputs import ControlKind, control_kind


@dataclass(frozen=True)
class ResolvedAdapter:
    """A file that fits its base. `sha` is of the file, `modules` how many modules of the base a LoRA changes, or
    how many vectors a textual inversion adds; `on_text` is whether prompts are read otherwise with it. `images` is the
    hash of the set that `promptmill finetune` trained it on, None for what it did not train."""

    name: str
    path: str
    location: str
    sha: str
    weight: float
    modules: int
    kind: Literal["lora", "embedding"] = "lora"
    on_text: bool = True
    trigger: str | None = None
    revision: str | None = None
    mirror: str | None = field(default=None, compare=False)
    license: str | None = field(default=None, compare=False)
    images: str | None = field(default=None, compare=False)

    @property
    def word(self) -> str:
        """What prompts call a textual inversion by."""
        return self.trigger or self.name


def with_triggers(text: str, adapters: Iterable[ResolvedAdapter], chosen: Collection[str] | None) -> str:
    """The prompt with the words before it that its adapters were trained with, where it lacks them; None for all."""
    used = [each for each in adapters if chosen is None or each.name in chosen]
    words = [each.trigger for each in used if each.trigger and each.trigger.lower() not in text.lower()]
    return ", ".join([*dict.fromkeys(words), text]) if text.strip() else text


@dataclass(frozen=True)
class ResolvedControl:
    """A ControlNet or T2I-Adapter that fits its base; `revision` and `files` as of a `ResolvedModel`.

    `mode` is the number of its kind of maps, of a union.
    """

    name: str
    path: str
    location: str
    revision: str
    class_name: str
    scale: float
    preprocess: str
    weights_bytes: int
    is_local: bool
    files: Mapping[str, str] = field(default_factory=dict, compare=False)
    mode: int | None = None
    mirror: str | None = field(default=None, compare=False)
    license: str | None = field(default=None, compare=False)

    @property
    def kind(self) -> ControlKind:
        return control_kind(self.class_name)


REDUX_FOLDER: Final = "image_embedder"
"""Below which FLUX.1-Redux-dev has what makes words of images."""


@dataclass(frozen=True)
class ResolvedIpAdapter:
    """An IP-Adapter, or Flux Redux, that fits its base; `revision` and `files` as of a `ResolvedModel`.

    `weights` and `encoder` are below `location`; `encoder_class` is that of transformers.
    """

    path: str
    location: str
    revision: str
    weights: str
    encoder: str
    encoder_class: str
    scale: float
    weights_bytes: int
    is_local: bool
    files: Mapping[str, str] = field(default_factory=dict, compare=False)
    mirror: str | None = field(default=None, compare=False)
    license: str | None = field(default=None, compare=False)

    @property
    def makes_words(self) -> bool:
        """Whether images become words beside those of the prompt (Flux Redux), and are not looked at by layers."""
        return self.weights.startswith(f"{REDUX_FOLDER}/")


@dataclass(frozen=True)
class ResolvedModel:
    """A model that is known to exist, read from its configuration files alone.

    `location` is what `from_pretrained` takes; `revision` is the hub commit, or a hash of the local weights. `files`
    are the hashes of each file of a folder that is loaded, by name; empty for a hub model, and in older plans.
    Models that differ in `adapters`, `controlnets` and `ip_adapter` alone are equal: those are switched on weights that
    are loaded once. So are those that differ in where weights lie.
    """

    path: str
    location: str
    revision: str
    dtype: str
    pipeline_class: str
    scheduler: str
    width: int
    height: int
    size_multiple: int
    max_size: int | None
    weights_bytes: int
    is_local: bool
    files: Mapping[str, str] = field(default_factory=dict, compare=False)
    adapters: tuple[ResolvedAdapter, ...] = field(default=(), compare=False)
    controlnets: tuple[ResolvedControl, ...] = field(default=(), compare=False)
    ip_adapter: ResolvedIpAdapter | None = field(default=None, compare=False)
    quantization: str | None = None
    offload: str = field(default="none", compare=False)
    device_map: str | None = field(default=None, compare=False)
    license: str | None = field(default=None, compare=False)
    mirror: str | None = field(default=None, compare=False)

    @property
    def control(self) -> ControlKind:
        return self.controlnets[0].kind if self.controlnets else ""
