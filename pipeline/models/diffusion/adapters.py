"""Adapters on a pipeline that is loaded: added once, then switched without touching the base."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file

from promptmill.pipeline.models.catalog.adapters import adapter_file, embedding_part, is_adapter
from promptmill.pipeline.models.diffusion.closed import closed
from promptmill.pipeline.models.diffusion.errors import loading
from promptmill.schemas.errors import ModelLoadError
from promptmill.schemas.plan import Sample
from promptmill.schemas.resolved import ResolvedAdapter

KEPT = 8
"""LoRA files of a long sweep that stay in memory; the one used longest ago goes first."""


class Adapters:
    """LoRA is never fused: after unfusing, the weights are not the bits they were. Switched off, they are.

    A textual inversion gets a word that no prompt has, which stands in for its own where it is in use: so it can stay.
    """

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._loaded: dict[str, None] = {}
        self._words: dict[str, None] = {}
        self.in_use: tuple[ResolvedAdapter, ...] = ()

    @property
    def words(self) -> dict[str, str]:
        """Words that textual inversions in use are called by, and those that stand in for them."""
        return {each.word: _name(each) for each in self.in_use if each.kind == "embedding"}

    def use(self, adapters: Sequence[ResolvedAdapter]) -> None:
        """Raises ModelLoadError where a file is not what the plan looked at."""
        if tuple(adapters) == self.in_use:
            return
        for adapter in adapters:
            self._load(adapter)
        loras = [each for each in adapters if each.kind == "lora"]
        if loras:
            self._pipe.enable_lora()
            self._pipe.set_adapters([_name(each) for each in loras], [each.weight for each in loras])
        elif self._loaded:
            self._pipe.disable_lora()
        self.in_use = tuple(adapters)
        self._forget()

    def _load(self, adapter: ResolvedAdapter) -> None:
        name = _name(adapter)
        if name in self._loaded:
            self._loaded[name] = self._loaded.pop(name)  # used last
        if name in self._loaded or name in self._words:
            return
        path = adapter_file(adapter)
        if not is_adapter(adapter, path):
            raise ModelLoadError(f"adapter {adapter.name}: {path} is not the file it was when the job was planned")
        with loading(f"adapter {adapter.name} ({path})"), closed():
            changed = self._add_words(path, name) if adapter.kind == "embedding" else self._add_lora(path, name)
        if changed != adapter.modules:
            raise ModelLoadError(f"adapter {adapter.name} changes {changed} modules, and its file {adapter.modules}")
        (self._words if adapter.kind == "embedding" else self._loaded)[name] = None

    def _add_lora(self, path: Path, name: str) -> int:
        with warnings.catch_warnings():  # several on one base is what is wanted
            warnings.filterwarnings("ignore", "Already found a `peft_config` attribute")
            self._pipe.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=name)
        return sum(name in getattr(module, "lora_A", ()) for module in self._modules())

    def _add_words(self, path: Path, name: str) -> int:
        encoders = [part for part in ("text_encoder", "text_encoder_2") if getattr(self._pipe, part, None) is not None]
        widths = {part: getattr(self._pipe, part).get_input_embeddings().weight.shape[1] for part in encoders}
        added = 0
        for key, vectors in load_file(path).items():
            part = embedding_part(key, vectors.shape[-1], widths)
            assert part is not None  # the plan looked
            tokenizer = getattr(self._pipe, part.replace("text_encoder", "tokenizer"))
            self._pipe.load_textual_inversion(
                vectors, token=name, tokenizer=tokenizer, text_encoder=getattr(self._pipe, part)
            )
            added += vectors.shape[0] if vectors.dim() == 2 else 1
        return added

    def _forget(self) -> None:
        spare = [name for name in self._loaded if name not in {_name(each) for each in self.in_use}]
        for name in spare[: max(0, len(self._loaded) - KEPT)]:
            self._pipe.delete_adapters(name)
            del self._loaded[name]

    def _modules(self) -> list[torch.nn.Module]:
        parts = self._pipe.components.values()
        return [module for part in parts if isinstance(part, torch.nn.Module) for module in part.modules()]


class Choice(NamedTuple):
    """What a row asks for that is one value a call: adapters by name (None for all), those that have a weight of the
    row's own, and the row's settings; and whether its texts have weights in them."""

    adapters: tuple[str, ...] | None
    weights: tuple[tuple[str, float], ...]
    settings: str | None
    weighs_words: bool

    def of(self, given: Sequence[ResolvedAdapter]) -> tuple[ResolvedAdapter, ...]:
        own = dict(self.weights)
        chosen = (each for each in given if self.adapters is None or each.name in self.adapters)
        return tuple(replace(each, weight=own.get(each.name, each.weight)) for each in chosen)


def by_choice(samples: Sequence[Sample]) -> list[tuple[Choice, list[Sample]]]:
    """Samples that may share a call."""
    found: dict[Choice, list[Sample]] = {}
    for sample in samples:
        chosen = None if sample.adapters is None else tuple(sorted(sample.adapters))
        own = tuple(sorted(sample.adapter_weights)), sample.settings, sample.written is not None
        found.setdefault(Choice(chosen, *own), []).append(sample)
    return list(found.items())


ALL = Choice(None, (), None, False)


def _name(adapter: ResolvedAdapter) -> str:
    """Of the content: the same name in two variants may be two files."""
    if adapter.kind == "embedding":
        return f"<ti{adapter.sha[:12]}>"
    return f"lora_{adapter.sha[:16]}"
