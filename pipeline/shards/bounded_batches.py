"""Batches of a Parquet file that take no more memory than planned, whatever its writer did.

A footer says how many bytes a column has as it is encoded. A dictionary holds a value once, however often its
rows refer to it: one image of 8 MB in 256 rows is 8 MB there, and 2 GB as rows. And compression makes 2 GB of
zeros a file of some kB. So columns that could grow are read as dictionaries, and become rows a few at a time;
and what is packed as no images are is refused before it is unpacked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

__all__ = ["check_packing", "growing_columns", "small_batches"]

BATCH_BYTES = 64 * 2**20
GROWN_BYTES = 256 * 2**20
"""What a column of a row group may become without being looked at."""
MOST_PACKED = 50
"""Times that a large column may be smaller than what it holds. Images are packed already; raw FITS with much
empty sky comes to ten."""


def growing_columns(metadata: pq.FileMetaData, names: Iterable[str]) -> list[str]:
    """The paths of columns whose rows may take far more bytes than the footer says.

    Parameters
    ----------
    metadata : pyarrow.parquet.FileMetaData
    names : iterable of str
        The columns that are to be read.

    Returns
    -------
    list of str
        For ``pyarrow.parquet.ParquetFile(read_dictionary=...)``.
    """
    found: list[str] = []
    for index in _inside(metadata, names):
        kind = metadata.schema.column(index)
        # A list's values are no rows.
        if kind.physical_type != "BYTE_ARRAY" or kind.max_repetition_level:
            continue
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            if not group.num_rows:
                continue
            column = group.column(index)
            if column.has_dictionary_page and group.num_rows * column.total_uncompressed_size > GROWN_BYTES:
                found.append(kind.path)
                break
    return found


def check_packing(metadata: pq.FileMetaData, names: Iterable[str]) -> None:
    """Check that no column which is to be read unpacks to what no column of images does.

    Raises
    ------
    pyarrow.ArrowInvalid
        What pyarrow raises for damaged files.
    """
    inside = _inside(metadata, names)
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for index in inside if group.num_rows else ():
            column = group.column(index)
            large, packed = column.total_uncompressed_size, max(1, column.total_compressed_size)
            if large > GROWN_BYTES and large > MOST_PACKED * packed:
                raise pa.ArrowInvalid(
                    f"column {column.path_in_schema!r} of row group {number} would unpack from "
                    f"{packed / 1e6:,.1f} to {large / 1e6:,.0f} MB, which no cutouts do; it is not read"
                )


def small_batches(batches: Iterable[pa.RecordBatch], growing: Iterable[str]) -> Iterator[pa.RecordBatch]:
    """Batches with the columns that were read as dictionaries as rows, of no more than `BATCH_BYTES`.

    Parameters
    ----------
    batches : iterable of pyarrow.RecordBatch
    growing : iterable of str
        From `growing_columns`.

    Yields
    ------
    pyarrow.RecordBatch
        The same rows in the same order; one larger row is a batch of its own.
    """
    names = {path.split(".")[0] for path in growing}
    for batch in batches:
        numbers = [index for index, name in enumerate(batch.schema.names) if name in names]
        if not numbers or not batch.num_rows:
            yield _with_rows(batch, numbers)
            continue
        sizes = np.sum([_row_bytes(batch.column(index)) for index in numbers], axis=0)
        start = held = 0
        for row, size in enumerate(sizes.tolist()):
            if row > start and held + size > BATCH_BYTES:
                yield _with_rows(batch.slice(start, row - start), numbers)
                start, held = row, 0
            held += size
        yield _with_rows(batch.slice(start), numbers)


def _inside(metadata: pq.FileMetaData, names: Iterable[str]) -> list[int]:
    wanted = set(names)
    paths = (metadata.schema.column(index).path for index in range(metadata.num_columns))
    return [index for index, path in enumerate(paths) if path.split(".")[0] in wanted]


def _row_bytes(array: pa.Array) -> np.ndarray:
    if pa.types.is_struct(array.type):
        return sum((_row_bytes(field) for field in array.flatten()), np.zeros(len(array), np.int64))
    if not pa.types.is_dictionary(array.type):
        return np.zeros(len(array), np.int64)
    lengths = pc.binary_length(array.dictionary).cast(pa.int64())
    return np.asarray(pc.fill_null(lengths.take(array.indices), 0))


def _with_rows(batch: pa.RecordBatch, numbers: Iterable[int]) -> pa.RecordBatch:
    for index in numbers:
        array = _as_rows(batch.column(index))
        batch = batch.set_column(index, batch.schema.field(index).with_type(array.type), array)
    return batch


def _as_rows(array: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(array.type):
        return array.cast(array.type.value_type)
    if pa.types.is_struct(array.type):
        fields = [array.type.field(index) for index in range(array.type.num_fields)]
        values = [_as_rows(value) for value in array.flatten()]
        kinds = [field.with_type(value.type) for field, value in zip(fields, values, strict=True)]
        return pa.StructArray.from_arrays(values, fields=kinds, mask=pc.is_null(array))
    return array
