"""Classifiers of images that a job judges its own images with: a folder of transformers, its weights as safetensors or
as one ONNX file. Looked up without torch."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from promptmill.pipeline.display import first_line
from promptmill.pipeline.models.catalog.clips import LOCAL, ResolvedClip, clip_files, clip_folder
from promptmill.pipeline.models.catalog.door import folder_problems
from promptmill.pipeline.models.catalog.features import PREPROCESSOR, SETTINGS, check_vision_folder
from promptmill.pipeline.models.catalog.licenses import license_of_folder
from promptmill.pipeline.models.catalog.onnx_files import is_whole
from promptmill.pipeline.models.catalog.weights import (
    BY_HASH,
    ONNX,
    ModelFolder,
    identity_of,
    list_folder,
    onnx_name,
    read_json,
)
from promptmill.pipeline.storage.homes import at_home
from promptmill.pipeline.storage.local import read_regular_file
from promptmill.schemas.errors import JobError, Problem

MOST_ONNX_BYTES: Final = (2 << 30) - 1
"""More the format itself holds only in further files, and those are not read."""
_KIND = "ForImageClassification"


def resolve_classifier(spec: str, where: str) -> ResolvedClip:
    """A folder that `AutoModelForImageClassification` loads, or one as Optimum exports it to ONNX; the path of the ONNX
    file names its folder. Raises JobError with all problems.
    """
    root = at_home(spec.removeprefix(LOCAL)).absolute()
    if root.suffix == ONNX and root.is_file():
        root, spec = root.parent, str(Path(spec).parent)
    if not (root / SETTINGS).is_file():
        got = f"none at {root}" if root.is_dir() else f"nothing at {root}"
        raise JobError(Problem(where, f"a classifier's folder, with {SETTINGS}", got))
    folder = list_folder(root)
    check_classifier_folder(folder, where)
    size = sum(folder.files[name] for name in folder.files if name.endswith((".safetensors", ONNX)) and "/" not in name)
    whole, files = identity_of(root, clip_files(folder), where)
    return ResolvedClip(spec, f"{LOCAL}{root}", None, f"{BY_HASH}{whole}", size, files)


def check_classifier_folder(folder: ModelFolder, where: str) -> None:
    """Asked when a job is planned, and again by whoever loads the folder. Raises JobError with all problems."""
    if (name := onnx_name(folder)) is not None:
        check_onnx_folder(folder, name, where)
        return
    check_vision_folder(folder, where)
    path = folder.root / SETTINGS
    names = read_json(path).get("architectures")
    if not (isinstance(names, list) and any(isinstance(name, str) and name.endswith(_KIND) for name in names)):
        raise JobError(Problem(where, f"a model `…{_KIND}` in `architectures` of {path}", repr(names)[:100]))
    if not classifier_labels(folder.root):
        raise JobError(Problem(where, f"`id2label`, the names of its classes from 0 on, in {path}", "none"))


def check_onnx_folder(folder: ModelFolder, name: str, where: str) -> None:
    """As `check_classifier_folder`. What onnxruntime makes of the file is known when it is loaded."""
    problems = folder_problems(folder, (name for name in folder.files if "/" not in name), where)
    lacking = [package for package in ("onnx", "onnxruntime") if importlib.util.find_spec(package) is None]
    if lacking:
        expected = f"{' and '.join(lacking)}, without which {name} does not run"
        problems.append(Problem(where, expected, "not installed", "pip install 'promptmill[onnx]'"))
    if folder.files[name] > MOST_ONNX_BYTES:
        problems.append(Problem(where, "an ONNX file below 2 GiB", f"{folder.files[name]:,} bytes"))
    elif not problems:
        problems += _elsewhere(folder.root / name, where)
    if PREPROCESSOR not in folder.files:
        hint = "It says how images are resized: save it with `AutoImageProcessor`"
        problems.append(Problem(where, f"{PREPROCESSOR} in {folder.root}", "no such file", hint))
    if not classifier_labels(folder.root):
        path = folder.root / SETTINGS
        problems.append(Problem(where, f"`id2label`, the names of its classes from 0 on, in {path}", "none"))
    if problems:
        raise JobError(*problems)


def _elsewhere(path: Path, where: str) -> Iterator[Problem]:
    expected = f"an ONNX file with all its weights in {path}"
    try:
        if not is_whole(read_regular_file(path, MOST_ONNX_BYTES)):
            hint = "Save it as one file: `onnx.save(onnx.load(path), path)` takes them in"
            yield Problem(where, expected, "weights in another file", hint)
    except (OSError, ValueError) as error:
        yield Problem(where, expected, first_line(error))


def classifier_folder(model: ResolvedClip) -> Path:
    """As of a CLIP: what is called as one that is built in is that one, wherever a plan says it lies."""
    return clip_folder(model)


def classifier_labels(root: Path) -> list[str]:
    """In the order of its outputs; none where the folder does not say them."""
    found = read_json(root / SETTINGS).get("id2label")
    if not isinstance(found, dict):
        return []
    labels = [found.get(str(number)) for number in range(len(found))]
    return [label for label in labels if isinstance(label, str)] if None not in labels else []


def outputs_of(labels: Sequence[str], classes: Sequence[str], where: str) -> list[int]:
    """Which output of a classifier each class is, by its `plain_name`.

    Raises JobError where it does not know one.
    """
    numbers = {plain_name(label): number for number, label in enumerate(labels)}
    unknown = [name for name in classes if plain_name(name) not in numbers]
    if unknown:
        known = ", ".join(labels[:10]) + (f" and {len(labels) - 10} more" if len(labels) > 10 else "")
        hint = "Name the classes as it does, with their wording: `classes: {its_name: a wording}`"
        raise JobError(Problem(where, f"a classifier that knows {unknown[0]!r}", f"one of {known}", hint))
    return [numbers[plain_name(name)] for name in classes]


def plain_name(name: str) -> str:
    """Equal for the names of one class: case, blanks, `_` and `-` do not count."""
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def license_notice(model: ResolvedClip) -> str:
    name = license_of_folder(model.path, classifier_folder(model))
    return f"classifier {model.path}: {f'its licence is {name}' if name else 'its card names no licence'}"
