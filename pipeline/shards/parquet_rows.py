"""Parquet shards of anybody's making as rows under the contract's names and types, in bounded memory.

What bounds it: row groups are fetched together up to 64 MB of the columns that are read; a larger one is read
page by page through a buffer, so that it need not fit in memory, only a page of each column. A table holds
no more rows than come to 64 MB on the average of the row group with the largest rows; what a dictionary makes
of few bytes is no exception, see `pipeline.shards.bounded_batches`. A page is a MB or so
as most writers have it; pyarrow's own may hold 1,024 images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hiwl_core.errors import UserError
from pipeline import storage
from pipeline.shards.bounded_batches import check_packing, growing_columns, small_batches
from pipeline.shards.parquet_footer import check_not_encrypted, column_bytes, schema_of
from pipeline.shards.plain_columns import (
    class_names,
    is_bytes,
    is_text,
    plain,
    standard_ids,
    texts,
    with_class_names,
)

__all__ = [
    "check_row_count",
    "is_id_type",
    "is_image_type",
    "is_number_type",
    "iter_parquet",
    "whole_parquet",
]

READ_BUFFER = 4 * 2**20
FETCHED_BYTES = 64 * 2**20
TABLE_BYTES = 64 * 2**20


def iter_parquet(
    shard: str,
    names: Mapping[str, str],
    types: Mapping[str, pa.DataType],
    carry: Sequence[str],
    batch_rows: int,
) -> Iterator[pa.Table]:
    """The rows of a Parquet file, some at a time.

    Parameters
    ----------
    shard : str
        Path or URL.
    names : mapping of str to str
        From the contract's names to the file's.
    types : mapping of str to pyarrow.DataType
        The wanted columns by their contract names; an `object_id` that is no integer becomes a string.
    carry : sequence of str
        Further columns, read as they are.
    batch_rows : int
        Rows a table, at most.

    Yields
    ------
    pyarrow.Table
        At least one, which is empty if the file is.

    Raises
    ------
    pyarrow.ArrowInvalid
        If there are fewer or more rows than the footer says, before the first or after the last of them.
    """
    with storage.open_input(shard) as file:
        # Fetches what it is asked for at once, in few requests; the other one a page after the other.
        parquet = pq.ParquetFile(file, pre_buffer=True)
        paged = pq.ParquetFile(file, metadata=parquet.metadata, buffer_size=READ_BUFFER, pre_buffer=False)
        present = set(parquet.schema_arrow.names)
        read = [name for name in [*(names[standard] for standard in types), *carry] if name in present]
        read = list(dict.fromkeys(read))
        check_not_encrypted(shard, schema_of(parquet, file), read)
        classes = class_names(parquet.schema_arrow)
        sizes = list(column_bytes(parquet.metadata, read))
        check_packing(parquet.metadata, read)
        if growing := growing_columns(parquet.metadata, read):
            held: Any = {"metadata": parquet.metadata, "read_dictionary": growing}
            parquet = pq.ParquetFile(file, pre_buffer=True, **held)
            paged = pq.ParquetFile(file, buffer_size=READ_BUFFER, pre_buffer=False, **held)
        said, came = int(parquet.metadata.num_rows), 0
        check_row_count(said, sum(count for count, _ in sizes))
        rows = min([batch_rows, *(max(1, int(TABLE_BYTES * count / size)) for count, size in sizes if size)])
        for groups in _together(sizes):
            reader = parquet if sum(sizes[group][1] for group in groups) <= FETCHED_BYTES else paged
            batches = reader.iter_batches(batch_size=rows, row_groups=groups, columns=read)
            for batch in small_batches(batches, growing):
                came += batch.num_rows
                table = with_class_names(pa.Table.from_batches([batch]), classes)
                yield _standard_table(table, names, types, carry)
        # Of no columns at all there are no rows to count.
        if read:
            check_row_count(said, came)
        if said == 0:
            # One table without rows, so that an empty shard has columns and becomes an empty part.
            yield _standard_table(with_class_names(parquet.read(columns=read), classes), names, types, carry)


@contextmanager
def whole_parquet(path: str) -> Iterator[pq.ParquetFile]:
    """A user's table to read for the length of a ``with`` block.

    Raises
    ------
    UserError
        If there is none, or if it turns out to be damaged while it is read.
    """
    try:
        with storage.open_input(path) as file:
            yield pq.ParquetFile(file)
    except FileNotFoundError:
        raise UserError(f"no file {path!r}") from None
    except storage.StoreError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is not a whole Parquet file: {str(error).splitlines()[0]}") from None


def check_row_count(said: int, there: int) -> None:
    """Check that a Parquet file has the rows that its footer says.

    Raises
    ------
    pyarrow.ArrowInvalid
        With both numbers; what pyarrow raises for damaged files.
    """
    if there != said:
        raise pa.ArrowInvalid(f"the footer says {said} rows, and there are {there}: the file is damaged")


def is_image_type(image_type: pa.DataType) -> bool:
    """Whether a column can hold encoded images: bytes, or a struct with a field ``bytes``."""
    if pa.types.is_struct(image_type) and image_type.get_field_index("bytes") >= 0:
        image_type = image_type.field("bytes").type
    return is_bytes(_plain(image_type))


def is_id_type(id_type: pa.DataType) -> bool:
    """Whether a column can hold object ids: integers, decimals without a fraction, or text, also as bytes."""
    id_type = _plain(id_type)
    return (
        pa.types.is_integer(id_type)
        or (pa.types.is_decimal(id_type) and id_type.scale == 0)
        or is_bytes(id_type)
        or is_text(id_type)
    )


def is_number_type(number_type: pa.DataType) -> bool:
    """Whether a column can hold a number, or nothing but nulls."""
    number_type = _plain(number_type)
    return (
        pa.types.is_integer(number_type)
        or pa.types.is_floating(number_type)
        or pa.types.is_decimal(number_type)
        or pa.types.is_null(number_type)
    )


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _together(sizes: Sequence[tuple[int, int]]) -> Iterator[list[int]]:
    """Row groups that follow each other, as many at a time as come to `FETCHED_BYTES`; none without rows.

    An empty one ends a batch, as pyarrow reads: thousands of them would make as many tables.
    """
    groups: list[int] = []
    held = 0
    for index, (count, size) in enumerate(sizes):
        if not count:
            continue
        if groups and held + size > FETCHED_BYTES:
            yield groups
            groups, held = [], 0
        groups.append(index)
        held += size
    if groups:
        yield groups


def _standard_table(
    table: pa.Table, names: Mapping[str, str], types: Mapping[str, pa.DataType], carry: Sequence[str]
) -> pa.Table:
    arrays: dict[str, Any] = {}
    for standard, target in types.items():
        if names[standard] not in table.column_names:
            arrays[standard] = pa.nulls(table.num_rows, target)
            continue
        array = table[names[standard]]
        if standard == "object_id":
            arrays[standard] = standard_ids(array)
            continue
        if standard == "label":
            arrays[standard] = texts(array)
            continue
        if pa.types.is_struct(array.type) and standard == "image":
            array = pc.struct_field(array, "bytes")
        if pa.types.is_dictionary(array.type):
            array = array.cast(array.type.value_type)
        arrays[standard] = array.cast(target)
    for name in carry:
        arrays[name] = plain(table[name])
    return pa.table(arrays)
