"""Whether an ONNX file has all its weights in itself. Read without onnx, which is no requirement: of the wire format
only where tensors lie, nothing of what they hold.

A tensor may name another file, which onnxruntime, given bytes, looks for in the folder that the process works in.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

TENSOR: Final = "TensorProto"
HOLDS: Final[dict[str, dict[int, str]]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: TENSOR, 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        **{5: TENSOR, 10: TENSOR, 6: "GraphProto", 11: "GraphProto"},
        **{22: "SparseTensorProto", 23: "SparseTensorProto"},
    },
    "SparseTensorProto": {1: TENSOR, 2: TENSOR},
    TENSOR: {},
}
"""The messages on the way to a tensor, by the number of their field (onnx.proto3, IR version 12)."""
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_WHOLE, _LONG, _TEXT, _SHORT = 0, 1, 2, 5
_DEEPEST: Final = 100
"""As protobuf itself."""


def is_whole(data: bytes) -> bool:
    """Whether no tensor says that its values lie elsewhere. Raises ValueError for what is no ONNX file."""
    left: list[tuple[memoryview, str, int]] = [(memoryview(data), "ModelProto", 0)]
    while left:
        message, kind, depth = left.pop()
        if depth > _DEEPEST:
            raise ValueError("graphs within graphs, deeper than any reader goes")
        for number, wire, start, stop in _fields(message):
            if kind == TENSOR and (number == _EXTERNAL_DATA or (number == _DATA_LOCATION and stop)):
                return False
            if wire == _TEXT and (inner := HOLDS[kind].get(number)):
                left.append((message[start:stop], inner, depth + 1))
    return True


def _fields(message: memoryview) -> Iterator[tuple[int, int, int, int]]:
    """Number and wire type of each field, and where its bytes begin and end; of a number 0 and the number."""
    at = 0
    while at < len(message):
        tag, at = _number(message, at)
        if tag >> 32:  # a reader that takes 32 bits of it sees another field
            raise ValueError("a broken number")
        number, wire = tag >> 3, tag & 7
        if wire == _WHOLE:
            value, at = _number(message, at)
            yield number, wire, 0, value
            continue
        if wire == _TEXT:
            length, at = _number(message, at)
        elif wire in (_LONG, _SHORT):
            length = 8 if wire == _LONG else 4
        else:
            raise ValueError(f"a field of wire type {wire}")
        if at + length > len(message):
            raise ValueError("a field that ends behind the file's end")
        yield number, wire, at, at + length
        at += length


def _number(message: memoryview, at: int) -> tuple[int, int]:
    """A varint, and where it ends."""
    found = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte, at = message[at], at + 1
        found |= (byte & 127) << shift
        if byte < 128:
            return found, at
    raise ValueError("a broken number")
