"""How many steps a scheduler can make: some refuse the number, others fail or give NaN when the images are drawn."""

from __future__ import annotations

from typing import Any, Final

from promptmill.pipeline.models.catalog import diffusers_source
from promptmill.pipeline.models.catalog.resolve import settings_folder
from promptmill.pipeline.models.catalog.scheduler_needs import gives_estimate, takes_estimate
from promptmill.pipeline.models.catalog.schedulers import find_scheduler
from promptmill.pipeline.models.catalog.weights import read_json
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.resolved import ResolvedModel

DISTILLED: Final = frozenset({"LCMScheduler", "TCDScheduler"})
"""Take their steps from those of a schedule of `original_inference_steps`."""
BY_INDEX: Final = frozenset(
    {"DDIMScheduler", "DDIMParallelScheduler", "DDPMScheduler", "DDPMParallelScheduler", "PNDMScheduler"}
)
"""Look a timestep up in a table of as many as the model was trained with."""
BETWEEN: Final = frozenset(
    {"DEISMultistepScheduler", "DPMSolverMultistepScheduler", "SASolverScheduler", "UniPCMultistepScheduler"}
)
"""Make one interval more than steps, so that as many steps as timesteps meet one twice: NaN (ran)."""


def check_steps(name: str | None, steps: int, model: ResolvedModel, where: str) -> None:
    """Raises JobError where images cannot be drawn in so many steps, so far as the model's configuration tells."""
    _check_own_steps(steps, model, where)
    found = find_scheduler(name) if name else (model.scheduler, {})
    if found is None:
        return
    if steps == 1 and takes_estimate(model.pipeline_class) and not gives_estimate(found[0]):
        got, hint = "1", "Raise it, or take a scheduler that estimates the image, such as ddim or lcm."
        expected = f"at least 2 steps with {name or found[0]} in a {model.pipeline_class}"
        raise JobError(Problem(where, expected, got, hint))
    if "Flow" in found[0]:
        return
    most = _most_steps(found[0], _own_config(model))
    if steps > most:
        got, hint = f"{steps:,}", "Lower it, or take another scheduler, such as euler"
        raise JobError(Problem(where, f"at most {most:,} steps with {name or found[0]}", got, hint))


def _check_own_steps(steps: int, model: ResolvedModel, where: str) -> None:
    """A model may bring the times of its steps (Qwen-Image 2.1), and its pipeline then asks for no number of them."""
    root = settings_folder(model)
    own = read_json(root / "model_index.json").get("sample_sigmas") if root else None
    if isinstance(own, list) and own and len(own) != steps:
        hint = f"Set generation.num_inference_steps: {len(own)}."
        expected = f"{len(own)} steps, of which {model.path} brings the times (`sample_sigmas`)"
        raise JobError(Problem(where, expected, f"{steps:,}", hint))


def _most_steps(class_name: str, own: dict[str, Any]) -> int:
    said = {**diffusers_source.scheduler_defaults(class_name), **own}
    trained, offset, original = (
        value if isinstance(value := said.get(key), int) else otherwise
        for key, otherwise in (("num_train_timesteps", 1000), ("steps_offset", 0), ("original_inference_steps", 50))
    )
    spacing = said.get("timestep_spacing", "leading")
    if class_name in DISTILLED:
        return min(trained, original)
    if class_name in BY_INDEX and spacing == "leading":
        return next((steps for steps in range(trained, 0, -1) if _last(steps, trained) + offset < trained), 1)
    if class_name in BETWEEN and spacing in ("leading", "linspace"):
        return max(1, trained - 1 - (offset if spacing == "leading" else 0))
    return trained if class_name in BY_INDEX else 1000


def _last(steps: int, trained: int) -> int:
    return (steps - 1) * (trained // steps)


def _own_config(model: ResolvedModel) -> dict[str, Any]:
    root = settings_folder(model)
    path = root / "scheduler" / "scheduler_config.json" if root else None
    return read_json(path) if path is not None and path.is_file() else {}
