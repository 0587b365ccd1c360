"""Whether an ONNX file has all its weights in itself.

A tensor may name another file, which onnxruntime, given bytes, looks for in the folder that the process works in.
"""

from __future__ import annotations

from typing import Any


def is_whole(data: bytes) -> bool:
    """Whether no tensor says that its values lie elsewhere. Raises ValueError for what is no ONNX file."""
    import onnx
    from google.protobuf.message import DecodeError, Message

    try:
        left: list[Any] = [onnx.load_model_from_string(data)]
    except DecodeError as error:
        raise ValueError(f"no ONNX file ({error})") from None
    while left:
        message = left.pop()
        if isinstance(message, onnx.TensorProto):
            if message.external_data or message.data_location != onnx.TensorProto.DEFAULT:
                return False
            continue
        for field, value in message.ListFields():
            if field.message_type is not None:
                left += [value] if isinstance(value, Message) else value
    return True
