"""Adapters held against the model they are for, before anything is loaded: LoRA files and textual inversions.

diffusers loads a LoRA with a wrong prefix without effect, leaves halves that are misspelt as memory was (NaN), and says
neither. So each key is taken apart here and its module looked up in the base's own weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from promptmill.pipeline.models.catalog import keys
from promptmill.pipeline.models.catalog.components import component_weights
from promptmill.pipeline.models.catalog.diffusers_source import has_loader
from promptmill.pipeline.models.catalog.gguf import GGUF
from promptmill.pipeline.models.catalog.headers import tensor_shapes
from promptmill.pipeline.models.catalog.hub import COMMIT, HUB_ID, asking, cached_snapshot, download
from promptmill.pipeline.models.catalog.licenses import CARD, license_of_file
from promptmill.pipeline.models.catalog.resolve import settings_folder
from promptmill.pipeline.models.catalog.shipped import BUILTIN, shipped
from promptmill.pipeline.models.catalog.weights import hash_files, identity_of, list_folder, read_json
from promptmill.pipeline.storage.homes import at_home
from promptmill.pipeline.storage.local import read_regular_file
from promptmill.schemas.additions import Adapter
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.json_text import parse_object
from promptmill.schemas.resolved import ResolvedAdapter, ResolvedModel

_EMBEDDING_KEYS: Final = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}
_MOST_VECTORS: Final = 256
TUNED: Final = "tuning.json"
"""Beside what `promptmill finetune` trained, of what."""
_CLAIM_BYTES: Final = 1 << 20
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
    if not any(has_loader(base.pipeline_class, kind) for kind in ("Lora", "TextualInversion")):
        raise JobError(Problem(where, "a model that takes LoRA adapters", f"{base.path}, a {base.pipeline_class}"))
    path = _file(adapter, base.mirror, where)
    try:
        shapes = tensor_shapes(path)
    except (ValueError, OSError) as error:
        raise JobError(Problem(f"{where}.path", f"whole safetensors in {path}", str(error))) from None
    if is_embedding(shapes):
        on_text, changed = True, _hold_embedding(adapter, shapes, base, path, where)
    else:
        changes = _lora(shapes, base, path, where)
        on_text, changed = any(name.startswith("text_encoder") for name in changes), len(changes)
    digest, _ = identity_of(path.parent, [path.name], f"{where}.path")
    return ResolvedAdapter(
        name=adapter.name,
        path=adapter.path,
        location=str(path),
        sha=digest,
        weight=adapter.weight,
        modules=changed,
        kind="embedding" if is_embedding(shapes) else "lora",
        on_text=on_text,
        trigger=adapter.trigger,
        revision=adapter.revision,
        mirror=base.mirror if adapter.revision is not None else None,
        license=adapter.license or license_of_file(adapter.path, path),
        images=_trained_on(path.parent / TUNED),
    )


def _trained_on(claim: Path) -> str | None:
    try:
        said = parse_object(read_regular_file(claim, _CLAIM_BYTES)).get("images")
    except (OSError, ValueError):
        return None
    return said if isinstance(said, str) and re.fullmatch(r"[0-9a-f]{64}", said) else None


def adapter_file(adapter: ResolvedAdapter) -> Path:
    """Where the weights of a resolved adapter lie here; of the hub they are fetched."""
    if adapter.path.startswith(BUILTIN):
        return _shipped(adapter.path)
    if adapter.revision is None:
        return Path(adapter.location)
    hub_id, _ = _hub_name(adapter.path)
    name = Path(adapter.location).name
    return download(hub_id, adapter.revision, [name], adapter.mirror) / name


def is_adapter(adapter: ResolvedAdapter, path: Path) -> bool:
    """Whether the file there is the one of the plan."""
    return path.is_file() and hash_files(path.parent, [path.name])[0] == adapter.sha


def embedding_part(key: str, width: int, widths: Mapping[str, int]) -> str | None:
    """The text encoder that a tensor of a textual inversion is for: by its key, else the first of its width."""
    named = _EMBEDDING_KEYS.get(key)
    if named is not None:
        return named if widths.get(named) == width else None
    return next((part for part, its in widths.items() if its == width), None)


def is_embedding(shapes: Mapping[str, Shape]) -> bool:
    """Whether this is a textual inversion: one tensor of vectors, or one for each of SDXL's encoders."""
    one = len(shapes) == 1 or (bool(shapes) and shapes.keys() <= _EMBEDDING_KEYS.keys())
    return one and all(len(shape) in (1, 2) and not keys.parse(key, 2) for key, shape in shapes.items())


def _shipped(path: str) -> Path:
    return shipped(f"adapters/{path.removeprefix(BUILTIN)}.safetensors")


def _hub_name(path: str) -> tuple[str, str | None]:
    """Id and file of `organisation/name[/file.safetensors]`."""
    hub_id, _, name = path.rpartition("/")
    return (hub_id, name) if name.endswith(".safetensors") else (path, None)


def _file(adapter: Adapter, mirror: str | None, where: str) -> Path:
    path = _shipped(adapter.path) if adapter.path.startswith(BUILTIN) else at_home(adapter.path).absolute()
    hub_id, name = _hub_name(adapter.path)
    if not path.exists() and HUB_ID.match(hub_id) and not hub_id.startswith("."):
        if adapter.revision is not None or name is None:
            path = _from_hub(hub_id, name, adapter.revision, mirror, where)
    elif adapter.revision is not None:
        raise JobError(Problem(f"{where}.revision", "no revision for a file", adapter.revision))
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
        hint = "Files, folders or hub ids with a revision; pickles (.bin, .pt) are never opened."
        raise JobError(Problem(f"{where}.path", "a .safetensors file, a folder with one, or builtin:…", got, hint))
    return path


def _from_hub(hub_id: str, name: str | None, revision: str | None, mirror: str | None, where: str) -> Path:
    if revision is None or not COMMIT.match(revision):
        hint = f"See https://huggingface.co/{hub_id}/commits; a path is looked for first."
        raise JobError(Problem(f"{where}.revision", "a commit of 40 hex digits for a hub id", repr(revision), hint))
    root = cached_snapshot(hub_id, revision, mirror)
    if root is None or not any(root.glob(name or "*.safetensors")):
        with asking(hub_id, where):
            root = download(hub_id, revision, [name or "*.safetensors"], mirror)
        with suppress(JobError), asking(hub_id, where):  # for its licence, which nothing else waits for
            download(hub_id, revision, [CARD], mirror)
    return root / name if name else root


def _lora(shapes: Mapping[str, Shape], base: ResolvedModel, path: Path, where: str) -> dict[str, Change]:
    if not has_loader(base.pipeline_class, "Lora"):
        raise JobError(Problem(where, "a model that takes LoRA adapters", f"{base.path}, a {base.pipeline_class}"))
    changes, strange = _changes(shapes, _layers_per_block(base))
    if strange or not changes:
        got = f"{_some(strange)} in {path.name}" if strange else f"{len(shapes)} tensors in {path.name}"
        hint = "Convert it with diffusers' `save_lora_weights`."
        raise JobError(Problem(f"{where}.path", "keys of a LoRA, as diffusers or kohya write them", got, hint))
    if halves := [name for name, change in changes.items() if not change.whole]:
        raise JobError(Problem(f"{where}.path", "both halves of each change", f"one alone of {_some(halves)}"))
    if base.is_local:
        _hold_against(changes, base_shapes(base), base, where)
    return changes


def _changes(shapes: Mapping[str, Shape], layers_per_block: int) -> tuple[dict[str, Change], list[str]]:
    """By part and module, such as `unet.mid_block_attentions_0…`; and keys of another form."""
    changes: dict[str, Change] = {}
    strange = []
    for key, shape in shapes.items():
        found = keys.parse(key, layers_per_block)
        if found is None:
            strange.append(key)
            continue
        change = changes.setdefault(found.module, Change())
        if found.half != "alpha":
            change.halves[found.half] = shape
    return changes, strange


def _layers_per_block(base: ResolvedModel) -> int:
    found = _settings(base, "unet").get("layers_per_block", 2)
    return found if isinstance(found, int) else 2


def _settings(base: ResolvedModel, part: str) -> dict[str, object]:
    root = settings_folder(base)
    path = root / part / "config.json" if root else None
    return read_json(path) if path is not None and path.is_file() else {}


def base_shapes(base: ResolvedModel) -> dict[str, Shape]:
    """Weights of the base by part and module. Raises JobError for a base that has some as GGUF."""
    root = settings_folder(base)
    assert root is not None  # of a local model
    folder = list_folder(root)
    found: dict[str, Shape] = {}
    for name in component_weights(folder, read_json(folder.root / "model_index.json")):
        part = name.split("/")[0]
        if name.endswith(GGUF):
            hint = "Names and shapes in it need not be those of diffusers: take the folder with the whole weights."
            raise JobError(Problem("model.path", "safetensors to hold what is added against", name, hint))
        for key, shape in tensor_shapes(folder.root / name).items():
            if key.endswith(".weight"):
                found[keys.name(part, key.removesuffix(".weight"))] = shape
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


def text_widths(base: ResolvedModel) -> dict[str, int]:
    """Width of the embeddings of each CLIP text encoder, by its part."""
    found: dict[str, int] = {}
    for part in ("text_encoder", "text_encoder_2", "text_encoder_3"):
        settings = _settings(base, part)
        if settings:
            is_clip = str(settings.get("model_type", "")).startswith("clip")
            found[part] = int(str(settings.get("hidden_size", 0))) if is_clip else 0
    return found


def _hold_embedding(adapter: Adapter, shapes: Mapping[str, Shape], base: ResolvedModel, path: Path, where: str) -> int:
    """How many vectors it adds. Every text encoder must get its own, since all read the same words."""
    widths = text_widths(base)
    if not has_loader(base.pipeline_class, "TextualInversion") or 0 in widths.values():
        raise JobError(Problem(where, "a model that takes textual inversions", f"{base.path}, a {base.pipeline_class}"))
    if adapter.weight != 1.0:
        raise JobError(Problem(f"{where}.weight", "1 for a textual inversion: it is a word", f"{adapter.weight:g}"))
    parts = [embedding_part(key, shape[-1], widths) for key, shape in shapes.items()]
    if sorted(filter(None, parts)) != sorted(widths):
        expected = " and ".join(f"vectors of {width} for {part}" for part, width in widths.items())
        got = _some([f"{key} {list(shape)}" for key, shape in shapes.items()])
        raise JobError(Problem(f"{where}.path", expected, f"{got} in {path.name}", "Is it for another base model?"))
    vectors = sum(shape[0] if len(shape) == 2 else 1 for shape in shapes.values())
    if not 1 <= vectors <= _MOST_VECTORS:
        raise JobError(Problem(f"{where}.path", f"1 to {_MOST_VECTORS} vectors", f"{vectors}"))
    return vectors


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
