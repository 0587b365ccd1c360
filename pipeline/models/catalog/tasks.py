"""Which pipeline class does a task for a model, and what its call takes: read from the installed source."""

from __future__ import annotations

from collections.abc import Mapping

from promptmill.pipeline.models.catalog.installed import call_parameters
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.plan import ResolvedModel

CALLED: Mapping[str, tuple[str, ...]] = {
    "num_inference_steps": ("num_inference_steps",),
    "guidance_scale": ("guidance_scale", "true_cfg_scale"),
    "width": ("width",),
    "height": ("height",),
}
"""Fields of `generation` that are arguments of a pipeline's call, and the names, of which it must take one."""


def check_arguments(model: ResolvedModel, asked: Mapping[str, str]) -> None:
    """`asked` maps the fields that a job sets itself to where it sets them; a default asks for nothing.

    Raises JobError for each that the model's pipeline does not take.
    """
    taken = call_parameters(model.pipeline_class)
    problems = [
        Problem(
            where, f"a field that {model.pipeline_class} takes", f"`{field}`, which its call does not know",
            f"Remove it, or leave this combination out: {model.path} would be drawn without it.",
        )
        for field, where in asked.items()
        if taken and not taken & {*CALLED[field]}
    ]  # fmt: skip
    if problems:
        raise JobError(*problems)
