"""A scheduler for one batch."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import diffusers
import torch

from promptmill.pipeline.models.catalog.schedulers import FOR_BOTH, find_scheduler, is_flow_config
from promptmill.schemas.errors import JobError, Problem

SPACINGS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")

SOLVERS = ("algorithm_type", "solver_type")
"""Named by each kind of scheduler in words of its own, of which others refuse some."""

DRAWS_VARIANCE = "DDPM"
"""In the name of schedulers that draw a variance which the model learned. Others are given the noise alone: SA-Solver
draws its own in the shape of both."""

SWAPPED_IN: dict[str, dict[str, Any]] = {
    "PNDMScheduler": {"skip_prk_steps": True},  # as Stable Diffusion has it; the other way fails below 4 steps
}


def scheduler_class(own: Any, name: str | None) -> str:
    return _look_up(name)[0] if name else type(own).__name__


def build_scheduler(
    own: Any, name: str | None, on_step: Callable[[], None], generators: Sequence[torch.Generator] = ()
) -> Any:
    """A new scheduler with the settings of the pipeline's own, so that no state passes from batch to batch.

    Another class keeps what the model was trained for (betas, prediction type, flow) and drops the special spacings of
    the pipeline's own. `on_step` is called after each step. Noise of a step is drawn from `generators`, one a sample.
    """
    config = dict(own.config)
    class_name, changes = _look_up(name) if name else (type(own).__name__, {})
    if class_name != type(own).__name__:
        plain = {key: False for key in SPACINGS if key in config} | SWAPPED_IN.get(class_name, {})
        if not _share_solvers(class_name, type(own).__name__):
            config = {key: value for key, value in config.items() if key not in SOLVERS}
        if str(config.get("variance_type")).startswith("learned") and DRAWS_VARIANCE not in class_name:
            del config["variance_type"]
        changes = plain | _flow(class_name, config) | changes
    scheduler = getattr(diffusers, class_name).from_config(config, **changes)
    scheduler.step = _counted(_seeded(scheduler.step, list(generators)), on_step)
    return scheduler


def _share_solvers(one: str, other: str) -> bool:
    return one.startswith("DPMSolver") and other.startswith("DPMSolver")


def _flow(class_name: str, config: dict[str, Any]) -> dict[str, Any]:
    """What a scheduler that can do both needs to follow the flow of a model such as Stable Diffusion 3."""
    if class_name not in FOR_BOTH or not ("shift" in config or is_flow_config(config)):
        return {}
    shift = config.get("shift", config.get("flow_shift", 1.0))
    return {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": shift}


def _look_up(name: str) -> tuple[str, dict[str, Any]]:
    found = find_scheduler(name)
    if found is None:
        raise JobError(Problem("generation.scheduler", "a scheduler of the installed diffusers", repr(name)))
    return found


def _seeded(step: Callable[..., Any], generators: list[torch.Generator]) -> Callable[..., Any]:
    """Most pipelines along a flow hand `step` no generator: noise would come from the process, which nobody seeds."""
    signature = inspect.signature(step)
    if "generator" not in signature.parameters or not generators:
        return step

    @functools.wraps(step)
    def seeded(*args: Any, **options: Any) -> Any:
        if signature.bind_partial(*args, **options).arguments.get("generator") is None:
            options["generator"] = generators
        return step(*args, **options)

    return seeded


def _counted(step: Callable[..., Any], on_step: Callable[[], None]) -> Callable[..., Any]:
    @functools.wraps(step)  # pipelines look at the signature to see whether the scheduler takes a generator
    def counted(*args: Any, **options: Any) -> Any:
        result = step(*args, **options)
        on_step()
        return result

    return counted
