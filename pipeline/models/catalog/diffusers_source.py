"""What the installed diffusers and open_clip offer, read from their source.

Importing them takes 12 s on a slow machine; `validate` and `plan` answer in under a second.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

NOT_TEXT_TO_IMAGE = re.compile(
    r"Img2Img|ImageToImage|ImageVariation|Inpaint|Upscale|SuperResolution|Video|Audio|Music|Speech|Edit|Pix2Pix"
    r"|ControlNet|Control(?=Pipeline)|Adapter|Prior|Decoder|Kontext|Fill|Redux|Depth|Combined|3D|Shap|Motion|Animate|Onnx|UnCLIP"
)
"""In a pipeline's class name: it wants another input than text, gives no image, or hides its scheduler in a part."""
_OTHER_INPUTS = {
    "num_frames", "video_length", "audio_length_in_s", "mask_image", "control_image", "image_embeds", "strength"
}  # fmt: skip


@cache
def package_root(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    return Path(spec.submodule_search_locations[0])


@cache
def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes())


def _exports(init: Path) -> dict[str, str]:
    """Class → submodule, from the relative imports of a package."""
    return {
        alias.name: node.module.split(".")[0]
        for node in ast.walk(_parse(init))
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module
        for alias in node.names
    }


@cache
def scheduler_modules() -> dict[str, str]:
    """Scheduler class → module in `diffusers.schedulers`."""
    exports = _exports(package_root("diffusers") / "schedulers" / "__init__.py")
    return {name: module for name, module in exports.items() if name.endswith("Scheduler")}


@cache
def scheduler_parameters(scheduler: str, method: str) -> frozenset[str]:
    path = package_root("diffusers") / "schedulers" / f"{scheduler_modules()[scheduler]}.py"
    return _method_parameters(_parse(path), scheduler, method) or frozenset()


@cache
def scheduler_methods(scheduler: str) -> frozenset[str]:
    module = scheduler_modules().get(scheduler)
    tree = _parse(package_root("diffusers") / "schedulers" / f"{module}.py") if module else ast.Module([], [])
    classes = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == scheduler)
    return frozenset(each.name for node in classes for each in node.body if isinstance(each, ast.FunctionDef))


@cache
def scheduler_defaults(scheduler: str) -> dict[str, Any]:
    """Of the parameters that make a scheduler, those that are plain values."""
    module = scheduler_modules().get(scheduler)
    tree = _parse(package_root("diffusers") / "schedulers" / f"{module}.py") if module else ast.Module([], [])
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == scheduler:
            init = next(part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__")
            names = [argument.arg for argument in init.args.args][-len(init.args.defaults) :]
            pairs = zip(names, init.args.defaults, strict=True)
            return {name: default.value for name, default in pairs if isinstance(default, ast.Constant)}
    return {}


@cache
def pipeline_modules() -> dict[str, str]:
    """Pipeline class → subpackage of `diffusers.pipelines`."""
    exports = _exports(package_root("diffusers") / "pipelines" / "__init__.py")
    return {name: module for name, module in exports.items() if "Pipeline" in name}


@cache
def text_to_image_classes() -> frozenset[str]:
    """Classes that `AutoPipelineForText2Image` can choose."""
    return frozenset(auto_classes("TEXT2IMAGE").values())


@cache
def auto_classes(kind: str) -> dict[str, str]:
    """Family → class of diffusers' automatic pipelines; `kind` is TEXT2IMAGE, IMAGE2IMAGE or INPAINT."""
    found: dict[str, str] = {}
    for node in ast.walk(_parse(package_root("diffusers") / "pipelines" / "auto_pipeline.py")):
        if isinstance(node, ast.Assign) and f"AUTO_{kind}_PIPELINES_MAPPING" in ast.unparse(node.targets[0]):
            pairs = (part.elts for part in ast.walk(node.value) if isinstance(part, ast.Tuple) and len(part.elts) == 2)
            found |= {ast.literal_eval(key): value.id for key, value in pairs if isinstance(value, ast.Name)}
    return found


@cache
def pipeline_source(class_name: str) -> Path | None:
    module = pipeline_modules().get(class_name)
    if module is None:
        return None
    folder = package_root("diffusers") / "pipelines"
    files = [folder / f"{module}.py", *sorted((folder / module).glob("*.py"))]
    return next((path for path in files if path.is_file() and f"class {class_name}(" in path.read_text("utf-8")), None)


@cache
def class_tree(class_name: str) -> tuple[ast.Module, ast.ClassDef] | None:
    """The module of a pipeline class and the class in it; None where its source is not found."""
    source = pipeline_source(class_name)
    module = _parse(source) if source else ast.Module([], [])
    classes = (node for node in module.body if isinstance(node, ast.ClassDef) and node.name == class_name)
    return next(((module, node) for node in classes), None)


@cache
def call_parameters(class_name: str) -> frozenset[str]:
    """Names that the call of a pipeline class takes; empty where they cannot be read."""
    source = pipeline_source(class_name)
    return (source and _method_parameters(_parse(source), class_name, "__call__")) or frozenset()


def _call_nodes(class_name: str) -> Iterator[ast.AST]:
    """Of the body of a pipeline's call."""
    tree = class_tree(class_name)
    for method in tree[1].body if tree else []:
        if isinstance(method, ast.FunctionDef) and method.name == "__call__":
            yield from ast.walk(method)


@cache
def scheduler_calls(class_name: str) -> frozenset[str]:
    """Methods of a scheduler that the pipeline's call needs, of those that not every scheduler has."""
    called = (node.func for node in _call_nodes(class_name) if isinstance(node, ast.Call))
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
    for node in _call_nodes(class_name):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "sigmas":
            found |= {"sigmas"} if not (isinstance(node.value, ast.Constant) and node.value.value is None) else set()
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("set_timesteps", "retrieve_timesteps")):
            direct = ast.unparse(node.func).endswith("set_timesteps")
            names = {each.arg for each in node.keywords if each.arg}
            found |= names - {"num_inference_steps", "device", "timesteps", "mu", *(() if direct else ("sigmas",))}
    return frozenset(found)


@cache
def sigmas_are_arrays(class_name: str) -> bool:
    """Whether the sigmas that a pipeline works out are an array of numpy."""
    made = (node for node in _call_nodes(class_name) if isinstance(node, ast.Assign))
    return any(ast.unparse(node.targets[0]) == "sigmas" and "np." in ast.unparse(node.value) for node in made)


@cache
def step_by(class_name: str) -> frozenset[str]:
    """Arguments that a pipeline gives `step` by name."""
    calls = (node for node in _call_nodes(class_name) if isinstance(node, ast.Call))
    steps = [node for node in calls if ast.unparse(node.func) == "self.scheduler.step"]
    return frozenset(each.arg for node in steps for each in node.keywords if each.arg)


@cache
def call_defaults(class_name: str) -> dict[str, Any]:
    """Of the parameters of a pipeline's call, those that are plain values."""
    tree = class_tree(class_name)
    methods = [each for each in (tree[1].body if tree else []) if isinstance(each, ast.FunctionDef)]
    calls = [defaults_of(each) for each in methods if each.name == "__call__"]
    return {
        name: default.value for call in calls for name, default in call.items() if isinstance(default, ast.Constant)
    }


def defaults_of(function: ast.FunctionDef) -> dict[str, ast.expr]:
    names = [argument.arg for argument in function.args.args]
    values = function.args.defaults
    plain = dict(zip(names[len(names) - len(values) :], values, strict=True))
    named = zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
    return {**plain, **{argument.arg: value for argument, value in named if value is not None}}


@cache
def parts(class_name: str) -> frozenset[str]:
    """What a pipeline class is made of, such as `unet` and `vae`; empty where its source is not found."""
    source = pipeline_source(class_name)
    return (source and _method_parameters(_parse(source), class_name, "__init__")) or frozenset()


@cache
def init_annotations(class_name: str) -> dict[str, str]:
    """Type of each part of a pipeline class as its source writes it; empty where that is not found."""
    source = pipeline_source(class_name)
    for node in _parse(source).body if source else ():
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            inits = [each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"]
            return {arg.arg: ast.unparse(arg.annotation) for each in inits for arg in each.args.args if arg.annotation}
    return {}


@cache
def has_loader(class_name: str, kind: str) -> bool:
    """Whether a pipeline class has diffusers' loader of this kind: `Lora`, `TextualInversion`, `IPAdapter`."""
    source = pipeline_source(class_name)
    classes = (node for node in (_parse(source).body if source else ()) if isinstance(node, ast.ClassDef))
    return any(kind in ast.unparse(base) for node in classes if node.name == class_name for base in node.bases)


@cache
def rounds_steps_down(class_name: str) -> bool:
    """Whether an image-to-image class makes the whole number below steps × strength; the others make one more."""
    source = pipeline_source(class_name)
    return source is not None and "int(num_inference_steps * strength)" in source.read_text("utf-8")


def makes_images_from_text(class_name: str) -> bool:
    """Conservative: a class is let in when its name and the parameters of its call both say so."""
    if NOT_TEXT_TO_IMAGE.search(class_name):
        return False
    parameters = call_parameters(class_name)
    if not parameters:
        return class_name in text_to_image_classes()
    if parameters & _OTHER_INPUTS or not {"prompt", "height", "width", "num_inference_steps"} <= parameters:
        return False
    images = {name for name in parameters if "image" in name and "ip_adapter" not in name}
    return class_name in text_to_image_classes() or images <= {"num_images_per_prompt"}


@cache
def samples_tokens(class_name: str) -> bool:
    """Whether a pipeline seeds the process itself, for a language model that draws a part of the image: one a call."""
    source = pipeline_source(class_name)
    return source is not None and "manual_seed(" in source.read_text("utf-8")


def _method_parameters(module: ast.Module, class_name: str, method: str) -> frozenset[str] | None:
    for node in module.body:
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            for part in node.body:
                if isinstance(part, ast.FunctionDef) and part.name == method:
                    return frozenset(arg.arg for arg in [*part.args.args, *part.args.kwonlyargs])
    return None


@cache
def clip_tags() -> dict[str, tuple[str, ...]]:
    """open_clip architecture → tags of its published weights.

    Weights trained with QuickGELU are offered under a second architecture too, as open_clip does when it is imported.
    """
    tables: dict[str, dict[str, bool]] = {}
    for node in _parse(package_root("open_clip") / "pretrained.py").body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name == "_PRETRAINED" and isinstance(node.value, ast.Dict):
                return _with_quick_gelu({key: _tags(value, tables) for key, value in _pairs(node.value)})
            tables[name] = _tags(node.value, tables)
    return {}


def _with_quick_gelu(architectures: dict[str, dict[str, bool]]) -> dict[str, tuple[str, ...]]:
    found = {name: tuple(tags) for name, tags in architectures.items()}
    for name, tags in architectures.items():
        if quick := tuple(tag for tag, is_quick in tags.items() if is_quick):
            found[f"{name}-quickgelu"] = quick
    return found


def _tags(table: ast.expr, tables: dict[str, dict[str, bool]]) -> dict[str, bool]:
    """Tag → whether its entry says `quick_gelu=True`."""
    if isinstance(table, ast.Name):
        return tables.get(table.id, {})
    return {tag: "quick_gelu=True" in ast.unparse(entry) for tag, entry in _pairs(table)}


def _pairs(table: ast.expr) -> list[tuple[str, ast.expr]]:
    """Entries of `{…}` or `dict(…)`."""
    if isinstance(table, ast.Dict):
        return [(ast.literal_eval(k), v) for k, v in zip(table.keys, table.values, strict=True) if k is not None]
    if isinstance(table, ast.Call) and ast.unparse(table.func) == "dict":
        return [(keyword.arg, keyword.value) for keyword in table.keywords if keyword.arg]
    return []
