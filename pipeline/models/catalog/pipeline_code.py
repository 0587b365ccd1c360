"""What a pipeline of the installed diffusers says of itself in its source: its own size, and what sizes must divide by.

The few expressions that decide (`height or self.default_sample_size * self.vae_scale_factor`) are worked out with the
settings of the model's parts in place of the parts. What is not understood is no answer, and never run.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from promptmill.pipeline.models.catalog.diffusers_source import class_tree, defaults_of, init_annotations

LARGEST_MULTIPLE: Final = 1024
LARGEST_SIDE: Final = 1 << 16
_DEEPEST: Final = 20
_OPERATORS: Final[dict[type, Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.Pow: lambda base, power: base**power if 0 <= power <= 16 else _give_up(),
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.Eq: operator.eq,
    ast.Gt: operator.gt,
    ast.Lt: operator.lt,
}
_FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {"len": len, "int": int, "max": max, "min": min, "sum": sum}


class UnknownError(Exception):
    """An expression that is not understood."""


def _give_up() -> Any:
    raise UnknownError


@dataclass(frozen=True)
class _Part:
    """A part of the pipeline, by its settings."""

    settings: Mapping[str, Any]


@dataclass
class PipelineCode:
    """`index` is model_index.json; `settings` are those of the parts that are there, by name."""

    class_name: str
    index: Mapping[str, Any]
    settings: Mapping[str, Mapping[str, Any]]
    assumed: Mapping[str, Any] = field(default_factory=dict)
    """Attributes of the pipeline as a call would set them."""
    _depth: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._parts = init_annotations(self.class_name)
        tree = class_tree(self.class_name)
        self._module = tree[0].body if tree else []
        methods = [node for node in (tree[1].body if tree else []) if isinstance(node, ast.FunctionDef)]
        self._methods = {method.name: method for method in methods}

    def own_side(self, side: str) -> int | None:
        """`height` or `width` that the call takes where it is given none; None where that is not understood."""
        call = self._methods.get("__call__")
        if call is None:
            return None
        for node in ast.walk(call):
            if isinstance(node, ast.Assign) and _assigns(node, side) and isinstance(node.value, ast.BoolOp):
                first, *others = node.value.values
                if isinstance(first, ast.Name) and first.id == side and len(others) == 1:
                    value = self.value(others[0], call)
                    if isinstance(value, int) and 8 <= value <= LARGEST_SIDE:
                        return value
        default = defaults_of(call).get(side)
        return default.value if isinstance(default, ast.Constant) and isinstance(default.value, int) else None

    def multiple(self) -> int:
        """The least common multiple of all that heights are divided by, so far as it is understood."""
        found = [1]
        for name in ("check_inputs", "__call__", "prepare_latents"):
            if name in self._methods:
                found += [value for value in self._divisors(self._methods[name], "height", {}) if value > 0]
        whole = math.lcm(*found)
        return whole if whole <= LARGEST_MULTIPLE else 1

    def guides(self, scale: float) -> bool | None:
        """Whether the pipeline guides away from a negative prompt at this scale; None where it does not say."""
        try:
            return bool(replace(self, assumed={"_guidance_scale": scale})._answer("do_classifier_free_guidance"))
        except (UnknownError, ArithmeticError, TypeError, ValueError, LookupError):
            return None

    def kept_pixels(self) -> int | None:
        """Of a pipeline that scales every size to about one number of pixels (HiDream)."""
        call = self._methods.get("__call__")
        for node in ast.walk(call) if call else ():
            if call and isinstance(node, ast.Assign) and _assigns(node, "S_max"):
                value = self.value(node.value, call)
                return value if isinstance(value, int) else None
        return None

    def resolutions(self) -> list[list[int]]:
        """Width and height of each size that the pipeline draws, where it has a list of them (Kandinsky 5)."""
        found = self.value(ast.parse("self.resolutions", mode="eval").body, self._methods["__init__"])
        return found if isinstance(found, list) else []

    def _divisors(self, function: ast.FunctionDef, side: str, bound: Mapping[str, Any]) -> Iterator[int]:
        for node in ast.walk(function):
            if (
                isinstance(node, ast.BinOp)
                and isinstance(node.op, ast.Mod | ast.FloorDiv)
                and _is_side(node.left, side)
            ):
                value = self.value(node.right, function, bound)
                if isinstance(value, int):
                    yield value
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                yield from self._divisors_within(node, function, side)

    def _divisors_within(self, call: ast.Call, function: ast.FunctionDef, side: str) -> Iterator[int]:
        """Of a function of the module that is given the side."""
        name = call.func.id if isinstance(call.func, ast.Name) else ""
        inner = next((node for node in self._module if isinstance(node, ast.FunctionDef) and node.name == name), None)
        places = [place for place, given in enumerate(call.args) if isinstance(given, ast.Name) and given.id == side]
        if inner is None or not places:
            return
        names = [argument.arg for argument in inner.args.args]
        bound = {name: self.value(given, function) for name, given in zip(names, call.args, strict=False)}
        yield from self._divisors(inner, names[places[0]], {key: value for key, value in bound.items() if value})

    def value(self, node: ast.expr, within: ast.FunctionDef, bound: Mapping[str, Any] | None = None) -> Any:
        """None for what is not understood."""
        try:
            return self._value(node, within, bound or {})
        except (UnknownError, ArithmeticError, TypeError, ValueError, LookupError):
            return None
        finally:
            self._depth = 0

    def _value(self, node: ast.expr, within: ast.FunctionDef, bound: Mapping[str, Any]) -> Any:
        self._depth += 1
        if self._depth > _DEEPEST * 10:
            raise UnknownError

        def of(inner: ast.expr) -> Any:
            return self._value(inner, within, bound)

        match node:
            case ast.Constant(value=value):
                return value
            case ast.List(elts=parts) | ast.Tuple(elts=parts):
                return [of(part) for part in parts]
            case ast.Name(id=name):
                return bound[name] if name in bound else self._local(name, within, bound)
            case ast.Attribute():
                return self._attribute(node, within, bound)
            case ast.BinOp(left=left, op=op, right=right):
                return _OPERATORS[type(op)](of(left), of(right))
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                return _OPERATORS[type(op)](of(left), of(right))
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return of(body) if of(test) else of(orelse)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return not of(operand)
            case ast.BoolOp(op=ast.And(), values=values):
                return all(of(value) for value in values)
            case ast.BoolOp(values=values):
                return next((value for value in map(of, values) if value), None)
            case ast.Subscript(value=whole, slice=place):
                return of(whole)[of(place)]
            case ast.Call(
                func=ast.Name(id="getattr" | "hasattr" as asks), args=[owner, ast.Constant(value=str(name)), *_]
            ):
                found = self._has(owner, name, within, bound)
                return found if asks == "getattr" else found is not None
            case ast.Call(func=ast.Attribute(value=ast.Name(id="self"), attr=name), args=[], keywords=[]):
                return self._answer(name)
            case ast.Call(func=ast.Name(id=name), args=args) if name in _FUNCTIONS:
                return _FUNCTIONS[name](*map(of, args))
        raise UnknownError

    def _has(self, owner: ast.expr, name: str, within: ast.FunctionDef, bound: Mapping[str, Any]) -> Any:
        try:
            return self._attribute(ast.Attribute(owner, name), within, bound)
        except (UnknownError, LookupError):
            return None

    def _attribute(self, node: ast.Attribute, within: ast.FunctionDef, bound: Mapping[str, Any]) -> Any:
        if isinstance(node.value, ast.Name) and node.value.id == "self":
            return self._own(node.attr)
        owner = self._value(node.value, within, bound)
        if not isinstance(owner, _Part):
            raise UnknownError
        return owner if node.attr == "config" else owner.settings[node.attr]

    def _own(self, name: str) -> Any:
        """`self.name`: a part, the pipeline's settings, a property, or what its constructor made of them."""
        if name in self.assumed:
            return self.assumed[name]
        if name in self.settings:
            return _Part(self.settings[name])
        if name in self._methods:
            return self._answer(name)
        init = self._methods["__init__"]
        if name == "config":
            plain = {key: each.value for key, each in defaults_of(init).items() if isinstance(each, ast.Constant)}
            return _Part({**plain, **self.index})
        for node in ast.walk(init):
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == f"self.{name}":
                return self._value(node.value, init, {})
        if name in self._parts:
            return None  # a part that this folder lacks
        raise UnknownError

    def _answer(self, name: str) -> Any:
        """What a method without arguments returns, if it is made of conditions alone."""
        method = self._methods[name]
        waiting = list(method.body)
        while waiting:
            match waiting.pop(0):
                case ast.Return(value=ast.expr() as value):
                    return self._value(value, method, {})
                case ast.If(test=test, body=body, orelse=orelse):
                    waiting = [*(body if self._value(test, method, {}) else orelse), *waiting]
        raise UnknownError

    def _local(self, name: str, within: ast.FunctionDef, bound: Mapping[str, Any]) -> Any:
        """A variable of the function: one that is assigned once, or an argument's default, of `__init__` as saved."""
        made = [node for node in ast.walk(within) if isinstance(node, ast.Assign) and _assigns(node, name)]
        if len(made) == 1:
            return self._value(made[0].value, within, bound)
        if not made and within.name == "__init__" and name in self.index:
            return self.index[name]
        defaults = defaults_of(within)
        if made or name not in defaults:
            for node in self._module:  # a constant of the module
                if not made and isinstance(node, ast.Assign) and _assigns(node, name):
                    return self._value(node.value, within, bound)
            raise UnknownError
        return self._value(defaults[name], within, bound)


def _assigns(node: ast.Assign, name: str) -> bool:
    return len(node.targets) == 1 and isinstance(node.targets[0], ast.Name) and node.targets[0].id == name


def _is_side(node: ast.expr, side: str) -> bool:
    """The side itself, or `int(side)`."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "int" and len(node.args) == 1:
        node = node.args[0]
    return isinstance(node, ast.Name) and node.id == side
