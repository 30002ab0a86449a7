"""Columns of Parquet files in the few types that all that follows can read, whoever wrote them.

Polars writes all text as views, astropy text as bytes without a mark that it is text, and Hugging Face's
`datasets` classes as integers with their names in the schema's metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from hiwl_core.errors import UserError

__all__ = [
    "class_names",
    "is_bytes",
    "is_text",
    "plain",
    "plain_type",
    "standard_ids",
    "texts",
    "with_class_names",
]

HUGGING_FACE = b"huggingface"


def is_bytes(kind: pa.DataType) -> bool:
    """Whether a type is bytes of any layout."""
    return (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def is_text(kind: pa.DataType) -> bool:
    """Whether a type is text of any layout."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type that a carried column has in a catalog: views are plain, half precision is single."""
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    # DuckDB knows no such numbers, and could not even count the rows.
    return pa.float32() if pa.types.is_float16(kind) else kind


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column in its `plain_type`."""
    kind = plain_type(column.type)
    return column if kind == column.type else column.cast(kind)


def texts(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """A column as strings; bytes are UTF-8, and those that are not become escapes."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not is_bytes(column.type):
        return column.cast(pa.string())
    try:
        return column.cast(pa.binary()).cast(pa.string())
    except pa.ArrowInvalid:
        words = [
            None if one is None else one.decode("utf-8", "backslashreplace") for one in column.to_pylist()
        ]
        return pa.array(words, pa.string())


def standard_ids(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Object ids as int64 where they are integers of any type, whole decimals too, and as strings elsewhere.

    Raises
    ------
    UserError
        If an integer does not fit.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_decimal(kind)):
        return texts(column)
    try:
        return column.cast(pa.int64())
    except pa.ArrowInvalid:
        largest = pc.max(column).as_py()
        raise UserError(
            f"object id {largest} is no signed integer of 64 bits: write the ids as text"
        ) from None


def class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """The columns that Hugging Face's metadata say are numbers of classes, with the names of these."""
    try:
        features = json.loads((schema.metadata or {})[HUGGING_FACE])["info"]["features"]
        return {
            name: [str(one) for one in feature["names"]]
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and "names" in feature
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def with_class_names(table: pa.Table, names: Mapping[str, Sequence[str]]) -> pa.Table:
    """A table with names where it has numbers of classes; -1 is no class.

    Parameters
    ----------
    table : pyarrow.Table
    names : mapping of str to sequence of str
        See `class_names`.

    Raises
    ------
    UserError
        If a number has no name.
    """
    for column in set(names) & set(table.column_names):
        numbers = table[column]
        if not pa.types.is_integer(numbers.type):
            continue
        numbers = pc.if_else(pc.equal(numbers, -1), None, numbers.cast(pa.int64()))
        bounds = pc.min_max(numbers).as_py()
        for number in bounds.values():
            if number is not None and not 0 <= number < len(names[column]):
                last = len(names[column]) - 1
                raise UserError(f"column {column!r} has the class number {number}, and names for 0 to {last}")
        named = pc.take(pa.array(names[column], pa.string()), numbers)
        table = table.set_column(table.schema.get_field_index(column), column, named)
    return table
