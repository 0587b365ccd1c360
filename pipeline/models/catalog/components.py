"""The parts that model_index.json lists, each held against what lies in the folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from promptmill.pipeline.models.catalog import diffusers_source
from promptmill.pipeline.models.catalog.door import class_problem
from promptmill.pipeline.models.catalog.gguf import GGUF, gguf_problems, part_weights
from promptmill.pipeline.models.catalog.weights import (
    PICKLES,
    ModelFolder,
    missing_shards,
    small_files,
    weights_problem,
)
from promptmill.schemas.errors import Problem

WITHOUT_WEIGHTS = re.compile(
    r"(?:Tokenizer(?:Fast)?|Processor(?:Fast|Pil)?|FeatureExtractor|Scheduler|Guider|Guidance|Backend)$"
)


def components(index: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Name, library and class of each part that is there (parts left out are listed as [null, null])."""
    for name, value in index.items():
        if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str):
            yield name, str(value[0]), str(value[1])


def component_weights(folder: ModelFolder, index: dict[str, Any]) -> list[str]:
    """Files of weights that will be loaded, relative to the folder."""
    return [
        f"{name}/{file}"
        for name, _, class_name in components(index)
        if not WITHOUT_WEIGHTS.search(class_name)
        for file in part_weights(folder.names(name))
    ]


def hashed_files(folder: ModelFolder, index: dict[str, Any]) -> list[str]:
    """What the images depend on: configuration, tokenizers and the weights that will be loaded."""
    names = {name for name, _, _ in components(index)}
    below = (name for name in small_files(folder, names) if "/" in name)
    return sorted({"model_index.json", *below, *component_weights(folder, index)})


def class_problems(folder: ModelFolder, index: dict[str, Any], where: str) -> list[Problem]:
    """Whether every part is one class of diffusers or transformers that loads itself and nothing more."""
    libraries = {"diffusers", "transformers", *diffusers_source.pipeline_modules().values()}
    named = (class_problem(*part, libraries, where) or _unknown(*part, where) for part in components(index))
    return [problem for problem in [*_entry_problems(folder, index, where), *named] if problem]


def _unknown(name: str, library: str, class_name: str, where: str) -> Problem | None:
    """A class of a pipeline's own module, such as PRX' text encoder, is saved under the package's name, and diffusers
    does not find it there again."""
    if library != "diffusers" or class_name in diffusers_source.exported():
        return None
    hint = "Write the library that model_index.json of the published model names; or a newer diffusers may know it."
    return Problem(where, f"{name} from the installed diffusers", f"diffusers.{class_name}, which it lacks", hint)


def check_components(folder: ModelFolder, index: dict[str, Any], where: str) -> list[Problem]:
    """Whether the folder is whole. To be asked when nothing in it is what `door` keeps out."""
    problems: list[Problem] = []
    if not any(name == "scheduler" for name, _, _ in components(index)):
        problems.append(Problem(where, f"a scheduler in {folder.root / 'model_index.json'}", "none"))
    for name, _, class_name in components(index):
        problems += _check_component(folder, name, class_name, where)
    return problems


def part_files(folder: ModelFolder, index: dict[str, Any]) -> list[str]:
    """model_index.json and all files of the parts that it lists, at any depth."""
    parts = {name for name, _, _ in components(index)}
    return ["model_index.json", *(file for file in folder.files if "/" in file and file.split("/")[0] in parts)]


def _entry_problems(folder: ModelFolder, index: dict[str, Any], where: str) -> Iterator[Problem]:
    """Entries of two words are parts, and their folders are named as they are; the rest are numbers and words, or lists
    of numbers under the name of no folder."""
    for name, value in index.items():
        pair = isinstance(value, list) and len(value) == 2
        words = pair and all(item is None or isinstance(item, str) for item in value)
        numbers = isinstance(value, list) and value and all(type(item) in (int, float) for item in value)
        if numbers and not folder.names(name):
            continue  # such as the `sample_sigmas` of Qwen-Image 2.1
        if isinstance(value, list | dict) and not (words and re.fullmatch(r"\w+", name)):
            expected = "library and class of each part in model_index.json, and its folder's name"
            yield Problem(where, expected, f"another form at `{name[:80]}`")


def _check_component(folder: ModelFolder, name: str, class_name: str, where: str) -> list[Problem]:
    place = folder.root / name
    if not folder.names(name):
        got = f"{place}, a link out of the folder" if place.is_symlink() else f"no folder {place}"
        return [Problem(where, f"the part {name} ({class_name})", got, "The copy is not complete.")]
    if name == "scheduler" or class_name.endswith("Scheduler"):
        return _check_config(folder, f"{name}/scheduler_config.json", where)
    if WITHOUT_WEIGHTS.search(class_name):
        return []
    return _check_config(folder, f"{name}/config.json", where) or _check_weights(folder, name, class_name, where)


def _check_config(folder: ModelFolder, file: str, where: str) -> list[Problem]:
    if file not in folder.files:
        return [Problem(where, file, f"no such file in {folder.root}", "The copy is not complete.")]
    return []


def _check_weights(folder: ModelFolder, name: str, class_name: str, where: str) -> list[Problem]:
    place = folder.root / name
    present = part_weights(folder.names(name))
    if present and present[0].endswith(GGUF):
        return list(gguf_problems(name, class_name, [place / file for file in present], where))
    if not present:
        pickles = [file for file in folder.names(name) if file.endswith(PICKLES)]
        got = f"only {', '.join(pickles[:3])}" if pickles else "no weights"
        hint = (
            "Pickles can run code and are never loaded: save again with `safe_serialization=True`." if pickles else ""
        )
        return [Problem(where, f"safetensors in {place}", got, hint)]
    if missing := missing_shards(folder, name, present):
        got = f"{', '.join(missing[:3])} missing ({len(missing)} of {len(missing) + len(present)})"
        return [Problem(where, f"every file that the index in {place} names", got, "The copy is not complete.")]
    paths = [place / file for file in present if (place / file).is_file()]
    return [problem for path in paths if (problem := weights_problem(path, where))]
