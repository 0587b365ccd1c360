"""Types inside types: what Parquet's readers can follow, and what has no type yet."""

from __future__ import annotations

import pyarrow as pa

from promptmill.schemas.errors import Problem

MAX_LEVELS = 90
"""Arrow's Parquet reader stops at 100, of which the dataset's own wrapping takes some."""


def typed(kind: pa.DataType) -> pa.DataType:
    """The type with text in place of null at any depth: null in every row, it has no type, and text holds all.

    Arrow 25 loses count of the null children of a struct that is sliced.
    """
    if pa.types.is_null(kind):
        return pa.string()
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(typed(field.type)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(typed(kind.key_type), typed(kind.item_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(typed(kind.value_type)), kind.list_size)
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(typed(kind.value_type)))
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(typed(kind.value_type)))
    return kind


def levels(kind: pa.DataType) -> int:
    """As Parquet counts them: a struct is one, a list or map two."""
    deepest = 0
    todo = [(kind, 1)]
    while todo:
        inner, depth = todo.pop()
        deepest = max(deepest, depth)
        below = depth + (1 if pa.types.is_struct(inner) else 2)
        todo += [(inner.field(i).type, below) for i in range(inner.num_fields)]
    return deepest


TOO_DEEP = f"at most {MAX_LEVELS} levels of lists and objects within each other"


def depth_problems(schema: pa.Schema, where: str) -> list[Problem | str]:
    """A problem for each column that the Parquet files of the dataset could hold and nobody could read."""
    return [
        Problem(
            f"{where}: column {field.name!r}",
            TOO_DEEP,
            f"{levels(field.type)} (a list counts as two)",
            "Leave the column out, or write it as text",
        )
        for field in schema
        if levels(field.type) > MAX_LEVELS
    ]
