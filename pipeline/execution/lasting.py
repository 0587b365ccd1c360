"""Errors that are the same on every worker and at every try: a shard that ends in one is not tried again."""

from __future__ import annotations

import errno

import pyarrow as pa

from promptmill.schemas.errors import PromptmillError

_TYPES = (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, pa.ArrowKeyError, pa.ArrowCapacityError)
_NUMBERS = frozenset({errno.EINVAL, errno.ENAMETOOLONG, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EROFS})


def lasts(error: BaseException) -> bool:
    """Whether trying again cannot help: what Arrow says of the same rows, and what the system says of the same call."""
    if isinstance(error, OSError) and not isinstance(error, pa.ArrowException):
        return error.errno in _NUMBERS
    return isinstance(error, (PromptmillError, OverflowError, *_TYPES))
