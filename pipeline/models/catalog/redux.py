"""Flux Redux: an image as words beside those of the prompt. As black-forest-labs/FLUX.1-Redux-dev lies in a folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from promptmill.pipeline.models.catalog import keys
from promptmill.pipeline.models.catalog.adapters import Shape, base_shapes
from promptmill.pipeline.models.catalog.diffusers_source import call_parameters
from promptmill.pipeline.models.catalog.tasks import class_for
from promptmill.pipeline.models.catalog.weights import ModelFolder
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.inputs import ControlKind, TaskName
from promptmill.schemas.resolved import REDUX_FOLDER, ResolvedModel

_CLASS: Final = "ReduxImageEncoder"
_BASES: Final = ("FluxPipeline",)
"""Whose text is a list of vectors that images can lengthen, and whose transformer was taught to read them."""
PROCESSOR: Final = "feature_extractor"


def redux_weights(folder: ModelFolder) -> str | None:
    """The one file of weights of what makes words of images; None where the folder is not one of Redux."""
    if f"{REDUX_FOLDER}/config.json" not in folder.files:
        return None
    found = [name for name in folder.names(REDUX_FOLDER) if name.endswith(".safetensors")]
    return f"{REDUX_FOLDER}/{found[0]}" if len(found) == 1 else None


def redux_files(folder: ModelFolder) -> list[str]:
    """What is loaded beside the weights and the image encoder."""
    settings = (f"{REDUX_FOLDER}/config.json", f"{PROCESSOR}/preprocessor_config.json")
    return [name for name in settings if name in folder.files]


def takes_redux(base: str, task: TaskName, control: ControlKind = "") -> bool:
    return base in _BASES and "prompt_embeds" in call_parameters(class_for(task, base, control) or "")


def check_redux_base(base: ResolvedModel, task: TaskName, control: ControlKind, where: str) -> None:
    if not takes_redux(base.pipeline_class, task, control):
        got = f"{base.path}, a {base.pipeline_class}"
        raise JobError(Problem(where, f"a Flux model for {task}, as Flux Redux needs", got))


def hold_redux(
    shapes: Mapping[str, Shape],
    config: Mapping[str, Any],
    encoder: Mapping[str, Any],
    base: ResolvedModel,
    where: str,
) -> None:
    """Raises JobError where its words are not as wide as the encoder's or the base's, or weights are missing."""
    place = f"{where}.path"
    if config.get("_class_name") != _CLASS:
        raise JobError(Problem(place, f"a {_CLASS} in {REDUX_FOLDER}", repr(config.get("_class_name"))))
    seen, words = config.get("redux_dim", 1152), config.get("txt_in_features", 4096)
    if seen != encoder.get("hidden_size"):
        expected = f"one that makes vectors of {seen}"
        raise JobError(Problem(f"{where}.image_encoder", expected, str(encoder.get("hidden_size"))))
    wanted: dict[str, Shape] = {
        **{"redux_up.weight": (3 * words, seen), "redux_up.bias": (3 * words,)},
        **{"redux_down.weight": (words, 3 * words), "redux_down.bias": (words,)},
    }
    if {key: tuple(shape) for key, shape in shapes.items()} != wanted:
        expected = ", ".join(f"{key} {list(shape)}" for key, shape in wanted.items())
        got = ", ".join(f"{key} {list(shape)}" for key, shape in sorted(shapes.items())[:4]) or "none"
        raise JobError(Problem(place, expected, got))
    width = base_shapes(base).get(keys.name("transformer", "context_embedder")) if base.is_local else None
    if width is not None and width[1] != words:
        expected = f"words of {width[1]}, as {base.path} reads"
        raise JobError(Problem(place, expected, str(words), "Is it for another base model?"))
