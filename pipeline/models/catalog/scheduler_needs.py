"""What the call of a pipeline asks of its scheduler, read from its source: not every scheduler has it."""

from __future__ import annotations

import ast
from functools import cache

from promptmill.pipeline.models.catalog.diffusers_source import call_nodes, scheduler_tree


@cache
def scheduler_calls(class_name: str) -> frozenset[str]:
    """Methods of a scheduler that the pipeline's call needs, of those that not every scheduler has."""
    called = (node.func for node in call_nodes(class_name) if isinstance(node, ast.Call))
    named = {
        each.attr for each in called if isinstance(each, ast.Attribute) and ast.unparse(each.value) == "self.scheduler"
    }
    return frozenset(named & {"scale_model_input", "scale_noise"})


@cache
def timesteps_by(class_name: str) -> frozenset[str]:
    """Arguments that a pipeline gives its scheduler's `set_timesteps`, of those that not every scheduler takes.

    `sigmas` are named by many calls and given by those that work them out (Flux and its kin).
    """
    found: set[str] = set()
    for node in call_nodes(class_name):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "sigmas":
            found |= {"sigmas"} if not (isinstance(node.value, ast.Constant) and node.value.value is None) else set()
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("set_timesteps", "retrieve_timesteps")):
            direct = ast.unparse(node.func).endswith("set_timesteps")
            names = {each.arg for each in node.keywords if each.arg}
            found |= {name for each in node.keywords if not each.arg for name in _named_in(class_name, each.value)}
            found |= names - {"num_inference_steps", "device", "timesteps", "mu", *(() if direct else ("sigmas",))}
    return frozenset(found)


def _named_in(class_name: str, handed_on: ast.expr) -> list[str]:
    """Keys of the dictionary that is handed on as `**name`, where the call writes it whole."""
    whole = ast.unparse(handed_on)
    made = (node for node in call_nodes(class_name) if isinstance(node, ast.Assign))
    dicts = (node.value for node in made if ast.unparse(node.targets[0]) == whole and isinstance(node.value, ast.Dict))
    return [str(key.value) for each in dicts for key in each.keys if isinstance(key, ast.Constant)]


@cache
def asked_for_by_name(class_name: str) -> frozenset[str]:
    """Schedulers that the call knows and has another way for: `isinstance(self.scheduler, …)`."""
    asked = (node for node in call_nodes(class_name) if isinstance(node, ast.Call))
    tests = (node.args for node in asked if ast.unparse(node.func) == "isinstance" and len(node.args) == 2)
    return frozenset(ast.unparse(kind) for part, kind in tests if ast.unparse(part) == "self.scheduler")


@cache
def sigmas_are_arrays(class_name: str) -> bool:
    """Whether the sigmas that a pipeline works out are an array of numpy."""
    made = (node for node in call_nodes(class_name) if isinstance(node, ast.Assign))
    return any(ast.unparse(node.targets[0]) == "sigmas" and "np." in ast.unparse(node.value) for node in made)


@cache
def step_by(class_name: str) -> frozenset[str]:
    """Arguments that a pipeline gives `step` by name."""
    calls = (node for node in call_nodes(class_name) if isinstance(node, ast.Call))
    steps = [node for node in calls if ast.unparse(node.func) == "self.scheduler.step"]
    return frozenset(each.arg for node in steps for each in node.keywords if each.arg)


@cache
def takes_estimate(class_name: str) -> bool:
    """Whether a single step is answered by what it estimates of the image (PixArt-α): `step(…)[1]`."""
    taken = (node for node in call_nodes(class_name) if isinstance(node, ast.Subscript))
    return any(
        isinstance(node.value, ast.Call)
        and ast.unparse(node.value.func) == "self.scheduler.step"
        and isinstance(node.slice, ast.Constant)
        and node.slice.value == 1
        for node in taken
    )


@cache
def gives_estimate(scheduler: str) -> bool:
    """Whether every answer of `step` as a tuple holds more than the next latents."""
    steps = [node for node in ast.walk(scheduler_tree(scheduler)) if isinstance(node, ast.FunctionDef)]
    tuples = [
        node.value.elts
        for step in steps
        if step.name.startswith("step")
        for node in ast.walk(step)
        if isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple)
    ]
    return bool(tuples) and all(len(elements) > 1 for elements in tuples)
