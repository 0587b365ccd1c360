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

from promptmill.pipeline.models.catalog.families import TEXT_ALONE

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


def scheduler_tree(scheduler: str) -> ast.Module:
    module = scheduler_modules().get(scheduler)
    return _parse(package_root("diffusers") / "schedulers" / f"{module}.py") if module else ast.Module([], [])


@cache
def scheduler_methods(scheduler: str) -> frozenset[str]:
    body = scheduler_tree(scheduler).body
    classes = (node for node in body if isinstance(node, ast.ClassDef) and node.name == scheduler)
    return frozenset(each.name for node in classes for each in node.body if isinstance(each, ast.FunctionDef))


@cache
def scheduler_defaults(scheduler: str) -> dict[str, Any]:
    """Of the parameters that make a scheduler, those that are plain values."""
    for node in scheduler_tree(scheduler).body:
        if isinstance(node, ast.ClassDef) and node.name == scheduler:
            init = next(part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__")
            names = [argument.arg for argument in init.args.args][-len(init.args.defaults) :]
            pairs = zip(names, init.args.defaults, strict=True)
            return {name: default.value for name, default in pairs if isinstance(default, ast.Constant)}
    return {}


@cache
def exported() -> frozenset[str]:
    """Names that `diffusers` itself has, its classes among them."""
    constants = (node for node in ast.walk(_parse(package_root("diffusers") / "__init__.py")))
    return frozenset(node.value for node in constants if isinstance(node, ast.Constant) and isinstance(node.value, str))


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


def call_nodes(class_name: str) -> Iterator[ast.AST]:
    """Of the body of a pipeline's call."""
    tree = class_tree(class_name)
    for method in tree[1].body if tree else []:
        if isinstance(method, ast.FunctionDef) and method.name == "__call__":
            yield from ast.walk(method)


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


@cache
def missing_package(class_name: str) -> str | None:
    """A package that the pipeline cannot do without and that is not installed here: diffusers then stands a class in
    its place that raises ImportError, and the constructor makes one of it."""
    tree = class_tree(class_name)
    for node in tree[0].body if tree else ():
        if isinstance(node, ast.If) and "_available()" in ast.unparse(node.test):
            there = [each for each in node.body if isinstance(each, ast.ImportFrom) and each.module]
            stand_ins = [each.name for each in node.orelse if isinstance(each, ast.ClassDef)]
            made = any(f"{name}()" in ast.unparse(tree[1]) for name in stand_ins) if tree else False
            if made and there and find_spec(str(there[0].module).partition(".")[0]) is None:
                return there[0].module
    return None


def makes_images_from_text(class_name: str) -> bool:
    """Conservative: a class is let in when its name and the parameters of its call both say so."""
    if class_name in TEXT_ALONE:
        return True
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
