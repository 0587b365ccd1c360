"""What a model's folder may hold: weights and settings. Never code, pickles, places elsewhere, or other classes.

One door for every loader. It is looked through at `validate`, where nothing of torch is imported, and again on the
worker before it loads: the folder may have changed in between, and the worker is where credentials are. `closed.py`
beside the loaders is the bolt behind it, should a library open what this page forgot.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from promptmill.pipeline.models.catalog.weights import ModelFolder, read_json
from promptmill.schemas.errors import Problem
from promptmill.schemas.json_text import leaves

NO_CODE: Final = "Code from model folders is never run."
NO_PLACES: Final = "A model's folder is read alone: put copies of the files into it."

_RUNS_CODE: Final = frozenset(
    {
        *("auto_map", "trust_remote_code", "code_revision", "custom_generate"),
        *("custom_pipeline", "custom_pipelines", "custom_revision", "model_file", "module_file", "pipeline_file"),
    }
)
_READS_ELSEWHERE: Final = frozenset(
    {
        *("transformers_weights", "use_pretrained_backbone", "audio_tokenizer", "gguf_file"),
        *("hf_model_name", "timm_model_pretrained"),
    }
)
"""Keys that make a loader take weights or settings that nobody looked at, in this folder or another."""
_BARE_NAMES: Final = frozenset(
    {
        *("attn_implementation", "_attn_implementation", "_attn_implementation_internal", "experts_implementation"),
        *("backbone", "timm_model_name"),
    }
)
"""With a slash or a colon these name a repository of the hub, of kernels (which are programs) or of weights."""
_CLASS_NAMES: Final = re.compile(
    r"\w*(Tokenizer|TokenizerFast|Backend|Processor|ProcessorFast|ProcessorPil|FeatureExtractor)"
)
_NAMES_A_CLASS: Final = frozenset(
    {"tokenizer_class", "processor_class", "feature_extractor_type", "image_processor_type", "slow_tokenizer_class"}
)
_QUANTIZED_BY: Final = frozenset({"bitsandbytes", "quanto", "torchao"})
"""Others fetch their kernels from the hub, or unpack weights by pickle."""
_ONLY_A_MEMORY: Final = frozenset({"_name_or_path", "name_or_path", "special_tokens_map_file", "chat_template"})
"""Where a model was once saved; what reads the folder writes over it or passes it by."""
_NOT_SETTINGS: Final = frozenset({"tokenizer.json", "vocab.json", "added_tokens.json"})
"""Vocabularies, up to tens of megabytes: their tokenizer will say when they are broken."""
_REDIRECTS: Final = frozenset({"adapter_config.json"})
"""Makes transformers load the model that it names instead of the one beside it."""

_MOST: Final = (
    (re.compile(r"layers|blocks|depth|levels|stages"), 10_000),
    (re.compile(r"timesteps|steps"), 1_000_000),
    (re.compile(r"size|dim|channels|embed|hidden|width|height|heads|length|position|quer|inputs|features"), 1 << 24),
)
"""The largest number under keys like these: so many layers, or tensors so large, are made before weights are read."""
_MOST_OF_ALL: Final = 1 << 53
_MAY_BE_INFINITE: Final = re.compile(r"clip|limit|threshold|_min|_max|min_|max_")  # DPM-Solver's lambda_min_clipped is
_LONGEST_LIST: Final = 10_000
_WITHOUT_BOUNDS: Final = frozenset({"tokenizer_config.json", "special_tokens_map.json", "generation_config.json"})
"""`model_max_length` is 10^30 where a tokenizer has no limit; none of these makes anything."""

_OTHER_CLASSES: Final = re.compile(r"Pipeline|Onnx|FlashPack|Retriever|^Auto(?!encoder)")
"""Of diffusers and transformers, but they load further models, from pickles too, or run graphs that are programs."""
_INDEX: Final = re.compile(r"\.safetensors\.index(?:\.\w+)?\.json$|\.safetensors\.\w+\.index\.json$")


def folder_problems(folder: ModelFolder, names: Iterable[str], where: str) -> list[Problem]:
    """What may not be loaded among these files, relative to the folder."""
    return [problem for name in sorted(names) for problem in _file_problems(folder, name, where)]


def class_problem(name: str, library: str, class_name: str, libraries: Container[str], where: str) -> Problem | None:
    """Of a part of model_index.json: whether its class is one that loads itself and nothing more."""
    named = f"{library}.{class_name}"
    if library not in libraries or not class_name.isidentifier():
        return Problem(where, f"{name} from diffusers or transformers", named[:100], NO_CODE)
    if _OTHER_CLASSES.search(class_name):
        return Problem(where, f"a model, tokenizer, processor or scheduler as {name}", named[:100], NO_CODE)
    return None


def _file_problems(folder: ModelFolder, name: str, where: str) -> Iterator[Problem]:
    path = folder.root / name
    if name.endswith(".py") and "/" in name:
        yield Problem(where, "a model without code of its own", name, NO_CODE)
    if name.rpartition("/")[2] in _REDIRECTS:
        yield Problem(where, "a model that is whole by itself", name, "Merge the adapter into the model's weights.")
    if not os.path.lexists(path):  # of a hub model only the settings are here to look at
        return
    if not inside(folder.root, path):
        yield Problem(where, f"files of {folder.root} alone", f"{name}, a link out of it", NO_PLACES)
    elif name.endswith(".json") and name.rpartition("/")[2] not in _NOT_SETTINGS:
        yield from _json_problems(path, name, where)


def inside(root: Path, path: Path) -> bool:
    """Whether a file lies in the folder, links followed. Those of a Hugging Face cache lead to the blobs beside it."""
    home = os.path.realpath(root)
    real = os.path.realpath(path)
    blobs = Path(home).parent.parent / "blobs"
    homes = [home, str(blobs)] if Path(home).parent.name == "snapshots" and not blobs.is_symlink() else [home]
    return any(os.path.commonpath([real, one]) == one for one in homes)


def _json_problems(path: Path, name: str, where: str) -> Iterator[Problem]:
    try:
        content = read_json(path)
    except ValueError as error:
        yield Problem(where, f"JSON in {path}", str(error))
        return
    if _INDEX.search(name):
        yield from _index_problems(content, path, where)
        return
    told: set[str] = set()
    bounded = path.name not in _WITHOUT_BOUNDS
    for keys, value in [*_keys_of_objects(content), *leaves(content)]:
        problem = _setting_problem(keys, value, path, where) or (
            _bound_problem(keys, value, path, where) if bounded else None
        )
        if problem and keys[-1] not in told:
            told.add(keys[-1])
            yield problem


def _keys_of_objects(content: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Keys whose value is an object or list, which have no leaf where that is empty."""
    waiting: list[tuple[tuple[str, ...], Any]] = [((), content)]
    while waiting:
        keys, item = waiting.pop()
        if keys and isinstance(item, dict | list):
            yield keys, item
        inner = item.items() if isinstance(item, dict) else ()
        waiting.extend(((*keys, key), value) for key, value in inner)
        waiting.extend((keys, value) for value in (item if isinstance(item, list) else ()) if isinstance(value, dict))


def _setting_problem(keys: tuple[str, ...], value: Any, path: Path, where: str) -> Problem | None:
    key = keys[-1] if keys else ""
    place = f"`{key}` in {path}"
    if value is None or value is False:
        return None
    if key in _RUNS_CODE:
        return Problem(where, "a model without code of its own", place, NO_CODE)
    if key in _READS_ELSEWHERE:
        return Problem(where, "a model that is whole by itself", place, NO_PLACES)
    if key == "quant_method" and value not in _QUANTIZED_BY:
        return Problem(where, f"weights as they are, or made small by {', '.join(sorted(_QUANTIZED_BY))}", place)
    if not isinstance(value, str):
        return None
    if key in _BARE_NAMES and not re.fullmatch(r"[\w.-]*", value):
        return Problem(where, "a name without a place in it", place, NO_CODE)
    if key in _NAMES_A_CLASS and not _CLASS_NAMES.fullmatch(value):
        return Problem(where, "a class of tokenizers or processors", place, NO_CODE)
    if (
        leads_out(value)
        and not _ONLY_A_MEMORY & {*keys}
        and not any("token" in one and one != key for one in keys[:-1])
    ):
        return (
            None
            if "token" in key and not key.endswith("_file")
            else Problem(where, "no places elsewhere", place, NO_PLACES)
        )
    return None


def _bound_problem(keys: tuple[str, ...], value: Any, path: Path, where: str) -> Problem | None:
    place = f"`{keys[-1] if keys else ''}` in {path}"
    if isinstance(value, list) and len(value) > _LONGEST_LIST:
        return Problem(where, f"lists of at most {_LONGEST_LIST:,}", f"{len(value):,} in {place}")
    if isinstance(value, float) and not math.isfinite(value) and not (keys and _MAY_BE_INFINITE.search(keys[-1])):
        return Problem(where, "numbers that are finite", f"another, {place}")
    if type(value) is not int or not keys:
        return None
    most = next((most for pattern, most in _MOST if pattern.search(keys[-1])), _MOST_OF_ALL)
    return Problem(where, f"numbers up to {most:,}", f"a larger one, {place}") if abs(value) > most else None


def leads_out(text: str) -> bool:
    """Whether a relative name would leave the folder that it is looked up in."""
    return text.startswith(("/", "\\", "~/", "file:")) or ".." in re.split(r"[/\\]", text)


def _index_problems(content: Mapping[str, Any], path: Path, where: str) -> Iterator[Problem]:
    """Loaders open what an index names by its ending, and what is no safetensors by `torch.load`."""
    names = content.get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        yield Problem(where, f"`weight_map`, from tensors to files, in {path}", type(names).__name__)
        return
    strange = sorted({name for name in names.values() if not re.fullmatch(r"[\w.-]+\.safetensors", name)})
    if strange:
        got = f"{strange[0][:80]!r}" + (f" and {len(strange) - 1} more" if len(strange) > 1 else "")
        yield Problem(where, f"safetensors beside {path}", got, "Pickles can run code and are never loaded.")
