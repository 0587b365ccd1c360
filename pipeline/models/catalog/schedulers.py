"""Scheduler names of a job file, held against the installed diffusers without importing it."""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from promptmill.pipeline.models.catalog import diffusers_source, scheduler_needs
from promptmill.pipeline.models.catalog.weights import read_json
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.resolved import ResolvedModel

SHORT_NAMES: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "deis": ("DEISMultistepScheduler", {}),
    "dpm++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "dpm++_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "dpm++_single": ("DPMSolverSinglestepScheduler", {"algorithm_type": "dpmsolver++"}),
    "dpm2": ("KDPM2DiscreteScheduler", {}),
    "dpm2_a": ("KDPM2AncestralDiscreteScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "flow_euler": ("FlowMatchEulerDiscreteScheduler", {}),
    "flow_heun": ("FlowMatchHeunDiscreteScheduler", {}),
    "flow_lcm": ("FlowMatchLCMScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "pndm": ("PNDMScheduler", {}),
    "sa": ("SASolverScheduler", {}),
    "tcd": ("TCDScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
}
"""Name → diffusers class and settings beyond the pipeline's own."""

SYNONYMS = {
    "dpmsolver++": "dpm++",
    "dpm++_2m": "dpm++",
    "dpmsolver": "dpm++",
    "dpm++_2m_sde": "dpm++_sde",
    "sde_dpmsolver++": "dpm++_sde",
    "dpm++_2s": "dpm++_single",
    "euler_ancestral": "euler_a",
    "dpm2_ancestral": "dpm2_a",
    "plms": "pndm",
    "flow_match": "flow_euler",
    "flow_match_euler": "flow_euler",
    "flow_match_heun": "flow_heun",
    "flow_match_lcm": "flow_lcm",
}

FOR_NOISE = frozenset(class_name for class_name, _ in SHORT_NAMES.values() if "Flow" not in class_name) | {
    "DDIMParallelScheduler",
    "DDPMParallelScheduler",
}
"""Work on models that predict noise, velocity or the image (each is run in the tests)."""
FOR_FLOW = frozenset({"FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler"})
FOR_BOTH = frozenset(
    {
        "DEISMultistepScheduler",
        "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler",
        "SASolverScheduler",
        "UniPCMultistepScheduler",
    }
)
"""Follow a flow when told so (`use_flow_sigmas`)."""
UNREPEATABLE = {"DPMSolverSDEScheduler": "dpm++_sde", "CosineDPMSolverMultistepScheduler": "dpm++_sde"}
"""Draw their noise from a process of their own and not from the sample's generator → what to take instead."""


def find_scheduler(name: str) -> tuple[str, dict[str, Any]] | None:
    """Class and settings for a short name (case, `-` and blanks do not matter) or a diffusers class."""
    if name in diffusers_source.scheduler_modules():
        return name, {}
    key = re.sub(r"[-\s]+", "_", name.strip().lower())
    return SHORT_NAMES.get(SYNONYMS.get(key, key))


def check_scheduler(name: str | None, model: ResolvedModel, where: str) -> str:
    """The class that will run; null is the model's own.

    Raises JobError for an unknown name (did you mean), for one that cannot repeat its noise, and for one that does not
    fit what the model predicts, so far as its configuration tells.
    """
    if name is None and model.scheduler not in UNREPEATABLE:
        return model.scheduler
    found = find_scheduler(name or model.scheduler)
    if found is None:
        raise JobError(_unknown(str(name), where))
    class_name = found[0]
    if class_name in UNREPEATABLE:
        hint = f"Use {UNREPEATABLE[class_name]}."
        raise JobError(
            Problem(
                where, "a scheduler whose noise can be repeated", f"{name or class_name}, which draws its own", hint
            )
        )
    if class_name != model.scheduler and not _fits(class_name, model):
        kind = "flow matching" if is_flow(model) else "noise prediction"
        known = ", ".join(key for key, (value, _) in SHORT_NAMES.items() if _fits(value, model))
        expected = f"a scheduler for {kind} ({model.pipeline_class})"
        raise JobError(Problem(where, expected, str(name), f"These fit: {known}."))
    return class_name


def fitting_schedulers(model: ResolvedModel) -> frozenset[str]:
    return frozenset(name for name in FOR_NOISE | FOR_FLOW | FOR_BOTH if _fits(name, model))


def _fits(scheduler: str, model: ResolvedModel) -> bool:
    flows = is_flow(model)
    if scheduler not in (FOR_FLOW | FOR_BOTH if flows else FOR_NOISE):
        return False
    # DeepFloyd IF draws the variance beside the noise.
    learned = str(_own_config(model).get("variance_type")).startswith("learned")
    if learned and "variance_type" not in diffusers_source.scheduler_defaults(scheduler):
        return False
    # OmniGen's time runs from 0 to 1.
    if _own_config(model).get("invert_sigmas") and "invert_sigmas" not in diffusers_source.scheduler_defaults(
        scheduler
    ):
        return False
    return _takes_all(scheduler, model.pipeline_class, flows)


def _takes_all(scheduler: str, base: str, flows: bool) -> bool:
    """Whether it has every method and argument that the pipeline's call uses."""
    given = scheduler_needs.timesteps_by(base) - (frozenset() if flows else {"sigmas"})
    if "sigmas" in given and not scheduler_needs.sigmas_are_arrays(base) and scheduler not in FOR_FLOW:
        return False  # Z-Image has them in a list, ERNIE in a tensor, which UniPC does not take
    if "mu" in given and scheduler not in FOR_FLOW:
        return scheduler in scheduler_needs.asked_for_by_name(base)  # others stop at a `mu` (HiDream)
    if "original_inference_steps" in given and scheduler == "TCDScheduler":
        return False  # an LCM pipeline gives None, to which it has no answer
    return (
        given <= diffusers_source.scheduler_parameters(scheduler, "set_timesteps")
        and scheduler_needs.step_by(base) <= diffusers_source.scheduler_parameters(scheduler, "step")
        and scheduler_needs.scheduler_calls(base) <= diffusers_source.scheduler_methods(scheduler)
    )


def is_flow(model: ResolvedModel) -> bool:
    return "Flow" in model.scheduler or is_flow_config(_own_config(model))


def _own_config(model: ResolvedModel) -> dict[str, Any]:
    path = Path(model.location) / "scheduler" / "scheduler_config.json"
    return read_json(path) if model.is_local and path.is_file() else {}


def is_flow_config(config: dict[str, Any]) -> bool:
    return bool(config.get("use_flow_sigmas")) or config.get("prediction_type") == "flow_prediction"


def _unknown(name: str, where: str) -> Problem:
    classes = sorted(FOR_NOISE | FOR_FLOW | FOR_BOTH)
    lowered = {
        known.lower(): known for known in [*SHORT_NAMES, *SYNONYMS, *classes, *diffusers_source.scheduler_modules()]
    }
    close = [lowered[match] for match in get_close_matches(name.lower(), lowered, n=3, cutoff=0.6)]
    hint = f"Did you mean {' or '.join(close)}?" if close else f"Short names: {', '.join(SHORT_NAMES)}."
    return Problem(where, "a scheduler of diffusers or a short name", repr(name), hint)
