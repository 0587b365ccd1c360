"""LoRA files held against the model they are for, before anything is loaded.

diffusers loads a file with a wrong prefix without effect, leaves halves that are misspelt as memory was (NaN), and says
neither. So each key is taken apart here and its module looked up in the base's own weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Final

from promptmill.pipeline.models.catalog.components import component_weights
from promptmill.pipeline.models.catalog.headers import tensor_shapes
from promptmill.pipeline.models.catalog.installed import loads_lora
from promptmill.pipeline.models.catalog.weights import hash_files, list_folder, read_json
from promptmill.schemas.additions import Adapter
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.plan import ResolvedAdapter, ResolvedModel

BUILTIN: Final = "builtin:"
_SHIPPED: Final = "shapes/weights/adapters"
_PEFT: Final = re.compile(r"(?P<part>\w+)\.(?P<module>.+)\.(?P<half>lora_[AB])\.weight")
_KOHYA: Final = re.compile(
    r"lora_(?P<part>unet|te|te1|te2|transformer)_(?P<module>\w+)\.(?P<half>lora_down|lora_up|alpha)(\.weight)?"
)
_PARTS: Final = {"te": "text_encoder", "te1": "text_encoder", "te2": "text_encoder_2"}
_DOWN: Final = ("lora_A", "lora_down")
_SHOWN: Final = 3

Shape = tuple[int, ...]


@dataclass
class Change:
    """The two halves that are added to one module: [rank, in, …] and [out, rank, …]."""

    halves: dict[str, Shape] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        return self.halves.keys() >= {"down", "up"}


def resolve_adapter(adapter: Adapter, base: ResolvedModel, where: str) -> ResolvedAdapter:
    """Raises JobError, by name and with the first keys, for a file that would not change `base` as it says."""
    if not loads_lora(base.pipeline_class):
        raise JobError(Problem(where, "a model that takes LoRA adapters", f"{base.path}, a {base.pipeline_class}"))
    path = _file(adapter, where)
    try:
        shapes = tensor_shapes(path)
    except (ValueError, OSError) as error:
        raise JobError(Problem(f"{where}.path", f"whole safetensors in {path}", str(error))) from None
    changes, strange = _changes(shapes)
    if strange or not changes:
        got = f"{_some(strange)} in {path.name}" if strange else f"{len(shapes)} tensors in {path.name}"
        hint = "Convert it with diffusers' `save_lora_weights`."
        raise JobError(Problem(f"{where}.path", "keys of a LoRA, as diffusers or kohya write them", got, hint))
    if halves := [name for name, change in changes.items() if not change.whole]:
        raise JobError(Problem(f"{where}.path", "both halves of each change", f"one alone of {_some(halves)}"))
    if base.is_local:
        _hold_against(changes, _base_shapes(base), base, where)
    digest, _ = hash_files(path.parent, [path.name])
    return ResolvedAdapter(adapter.name, adapter.path, str(path), digest, adapter.weight, len(changes))


def adapter_file(path: str) -> Path:
    """Where the weights of a resolved adapter lie as installed here."""
    if not path.startswith(BUILTIN):
        return Path(path).expanduser().absolute()
    return Path(str(files("promptmill.pipeline"))) / _SHIPPED / f"{path.removeprefix(BUILTIN)}.safetensors"


def _file(adapter: Adapter, where: str) -> Path:
    path = adapter_file(adapter.path)
    if path.is_dir():
        found = sorted(path.glob("*.safetensors"))
        if len(found) != 1:
            raise JobError(Problem(f"{where}.path", f"one .safetensors file in {path}", f"{len(found)}"))
        path = found[0]
    if adapter.path.startswith(BUILTIN) and not path.is_file():
        known = ", ".join(sorted(BUILTIN + each.stem for each in path.parent.glob("*.safetensors"))) or "none"
        raise JobError(Problem(f"{where}.path", f"one of {known}", adapter.path))
    if not path.is_file() or path.suffix != ".safetensors":
        got = f"nothing at {path}" if not path.exists() else f"{path.name}"
        hint = "Adapters are files or folders here; pickles (.bin, .pt) are never opened."
        raise JobError(Problem(f"{where}.path", "a .safetensors file, a folder with one, or builtin:…", got, hint))
    return path


def _changes(shapes: Mapping[str, Shape]) -> tuple[dict[str, Change], list[str]]:
    """By part and module, such as `unet.mid_block.attentions.0…`; and keys of another form."""
    changes: dict[str, Change] = {}
    strange = []
    for key, shape in shapes.items():
        match = _PEFT.fullmatch(key) or _KOHYA.fullmatch(key)
        if match is None:
            strange.append(key)
            continue
        part = _PARTS.get(match["part"], match["part"])
        module = match["module"].replace(".", "_")
        change = changes.setdefault(f"{part}.{module}", Change())
        if match["half"] != "alpha":
            change.halves["down" if match["half"] in _DOWN else "up"] = shape
    return changes, strange


def _base_shapes(base: ResolvedModel) -> dict[str, Shape]:
    """Weights of the base by part and module, dots of the module as underscores, as kohya writes them."""
    folder = list_folder(Path(base.location))
    found: dict[str, Shape] = {}
    for name in component_weights(folder, read_json(folder.root / "model_index.json")):
        part = name.split("/")[0]
        for key, shape in tensor_shapes(folder.root / name).items():
            if key.endswith(".weight"):
                found[f"{part}.{key.removesuffix('.weight').replace('.', '_')}"] = shape
    return found


def _hold_against(changes: Mapping[str, Change], there: Mapping[str, Shape], base: ResolvedModel, where: str) -> None:
    place, hint = f"{where}.path", "Is it for another base model?"
    if missing := [name for name in changes if name not in there]:
        got = f"{len(missing)} of {len(changes)} for modules it lacks: {_some(missing)}"
        raise JobError(Problem(place, f"changes to modules of {base.path}", got, hint))
    for name, change in changes.items():
        down, up, whole = change.halves["down"], change.halves["up"], there[name]
        rank = down[0] if down else 0
        if rank < 1 or len(down) < 2 or len(up) < 2:
            raise JobError(Problem(place, "a rank of at least 1", f"{down} and {up} for {name}"))
        if up[1] != rank or up[0] != whole[0] or down[1] != whole[1]:
            got = f"{list(up)} × {list(down)} for {name}"
            raise JobError(Problem(place, f"halves that make {list(whole)}, as in {base.path}", got, hint))


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
