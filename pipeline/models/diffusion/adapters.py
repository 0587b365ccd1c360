"""LoRA adapters on a pipeline that is loaded: added once, then switched without touching the base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from promptmill.pipeline.models.catalog.adapters import adapter_file
from promptmill.pipeline.models.catalog.weights import hash_files
from promptmill.pipeline.models.diffusion.closed import closed
from promptmill.pipeline.models.diffusion.errors import describe
from promptmill.schemas.errors import ModelLoadError
from promptmill.schemas.plan import ResolvedAdapter

KEPT = 8
"""Adapters of a long sweep that stay in memory; the one used longest ago goes first."""


class Adapters:
    """Never fused: after unfusing, the weights are not the bits they were. Switched off, they are."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._loaded: dict[str, None] = {}
        self._in_use: tuple[ResolvedAdapter, ...] = ()

    def use(self, adapters: Sequence[ResolvedAdapter]) -> bool:
        """Whether anything changed. Raises ModelLoadError where a file is not what the plan looked at."""
        if tuple(adapters) == self._in_use:
            return False
        for adapter in adapters:
            self._load(adapter)
        if adapters:
            self._pipe.enable_lora()
            self._pipe.set_adapters([_name(each) for each in adapters], [each.weight for each in adapters])
        else:
            self._pipe.disable_lora()
        self._in_use = tuple(adapters)
        self._forget()
        return True

    def _load(self, adapter: ResolvedAdapter) -> None:
        name = _name(adapter)
        if name in self._loaded:
            self._loaded[name] = self._loaded.pop(name)  # used last
            return
        path = adapter_file(adapter.path if adapter.path.startswith("builtin:") else adapter.location)
        if not path.is_file() or hash_files(path.parent, [path.name])[0] != adapter.sha:
            raise ModelLoadError(f"adapter {adapter.name}: {path} is not the file it was when the job was planned")
        try:
            with closed():
                self._pipe.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=name)
        except Exception as error:
            raise ModelLoadError(f"adapter {adapter.name} ({path}) does not load. {describe(error)}") from error
        changed = sum(name in getattr(module, "lora_A", ()) for module in self._modules())
        if changed != adapter.modules:
            raise ModelLoadError(f"adapter {adapter.name} changes {changed} modules, and its file {adapter.modules}")
        self._loaded[name] = None

    def _forget(self) -> None:
        spare = [name for name in self._loaded if name not in {_name(each) for each in self._in_use}]
        for name in spare[: max(0, len(self._loaded) - KEPT)]:
            self._pipe.delete_adapters(name)
            del self._loaded[name]

    def _modules(self) -> list[torch.nn.Module]:
        parts = self._pipe.components.values()
        return [module for part in parts if isinstance(part, torch.nn.Module) for module in part.modules()]


def _name(adapter: ResolvedAdapter) -> str:
    """Of the content: the same name in two cells may be two files."""
    return f"lora_{adapter.sha[:16]}"
