"""The parts that model_index.json lists, each held against what lies in the folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from promptmill.pipeline.models.catalog import installed
from promptmill.pipeline.models.catalog.weights import (
    HASHED_SUFFIXES,
    PICKLES,
    ModelFolder,
    missing_shards,
    read_json,
    select_weights,
    weights_problem,
)
from promptmill.schemas.errors import Problem

WITHOUT_WEIGHTS = re.compile(r"Tokenizer|Processor|FeatureExtractor|Scheduler|Guider|TokenizersBackend")
NO_CUSTOM_CODE = "Code from model folders is never run."


def components(index: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Name, library and class of each part that is there (parts left out are listed as [null, null])."""
    for name, value in index.items():
        if isinstance(value, list) and len(value) == 2 and value[0] is not None:
            yield name, str(value[0]), str(value[1])


def component_weights(folder: ModelFolder, index: dict[str, Any]) -> list[str]:
    """Safetensors files that will be loaded, relative to the folder."""
    return [
        f"{name}/{file}"
        for name, _, class_name in components(index)
        if not WITHOUT_WEIGHTS.search(class_name)
        for file in select_weights(folder.names(name))[1]
    ]


def hashed_files(folder: ModelFolder, index: dict[str, Any]) -> list[str]:
    """What the images depend on: configuration, tokenizers and the weights that will be loaded."""
    weights = set(component_weights(folder, index))
    names = {name for name, _, _ in components(index)}
    small = {
        file
        for file in folder.files
        if file.split("/")[0] in names and file.endswith(HASHED_SUFFIXES) and not file.endswith(".safetensors")
    }
    return sorted({"model_index.json"} | small | weights)


def check_components(folder: ModelFolder, index: dict[str, Any], pipeline_class: str, where: str) -> list[Problem]:
    problems: list[Problem] = []
    if not index.get("scheduler") or not index["scheduler"][0]:
        problems.append(Problem(where, f"a scheduler in {folder.root / 'model_index.json'}", "none"))
    for name, library, class_name in components(index):
        problems += _check_component(folder, name, library, class_name, where)
    scripts = sorted(file for file in folder.files if file.endswith(".py"))
    named = [file for file in scripts if file.split("/")[0] in {name for name, _, _ in components(index)}]
    if named and not problems:
        problems.append(Problem(where, "a model without code of its own", ", ".join(named[:3]), NO_CUSTOM_CODE))
    return problems


def _check_component(folder: ModelFolder, name: str, library: str, class_name: str, where: str) -> list[Problem]:
    place = folder.root / name
    if library not in ("diffusers", "transformers") and not _is_diffusers_module(library):
        return [Problem(where, f"{name} from diffusers or transformers", f"{library}.{class_name}", NO_CUSTOM_CODE)]
    if not folder.names(name):
        return [Problem(where, f"the part {name} ({class_name})", f"no folder {place}", "The copy is not complete.")]
    if name == "scheduler" or class_name.endswith("Scheduler"):
        return _check_config(folder, f"{name}/scheduler_config.json", where)
    if WITHOUT_WEIGHTS.search(class_name):
        return _check_every_json(folder, name, where)
    problems = _check_config(folder, f"{name}/config.json", where)
    return problems or _check_weights(folder, name, where)


def _is_diffusers_module(library: str) -> bool:
    """Such as `stable_diffusion` for its safety checker."""
    return library in set(installed.pipeline_modules().values())


def _check_config(folder: ModelFolder, file: str, where: str) -> list[Problem]:
    if file not in folder.files:
        return [Problem(where, file, f"no such file in {folder.root}", "The copy is not complete.")]
    return _check_every_json(folder, file.split("/", maxsplit=1)[0], where)


def _check_every_json(folder: ModelFolder, name: str, where: str) -> list[Problem]:
    problems = []
    for file in sorted(folder.names(name)):
        path = folder.root / name / file
        if not file.endswith(".json") or not path.is_file() or file in ("tokenizer.json", "vocab.json"):
            continue  # Vocabularies of tens of megabytes: their tokenizer will say when they are broken.
        try:
            content = read_json(path)
        except ValueError as error:
            problems.append(Problem(where, f"JSON in {path}", str(error)))
        else:
            if "auto_map" in content:
                problems.append(
                    Problem(where, "a model without code of its own", f"`auto_map` in {path}", NO_CUSTOM_CODE)
                )
    return problems


def _check_weights(folder: ModelFolder, name: str, where: str) -> list[Problem]:
    place = folder.root / name
    _, present = select_weights(folder.names(name))
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
