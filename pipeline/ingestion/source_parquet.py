"""Parquet sources of `ingest`: the rows' ids on the driver, the images by row from a worker."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hiwl_core.errors import UserError
from pipeline import storage
from pipeline.shards.bounded_batches import check_packing, growing_columns, small_batches
from pipeline.shards.cutout_shards import ROW_GROUP_ROWS, Columns, check_columns
from pipeline.shards.parquet_footer import check_not_encrypted, column_bytes, schema_of
from pipeline.shards.parquet_rows import check_row_count, is_number_type
from pipeline.shards.plain_columns import (
    class_names,
    is_bytes,
    is_text,
    plain_type,
    standard_ids,
    texts,
    with_class_names,
)

__all__ = ["ParquetColumns", "describe_tables", "gather_rows", "iter_objects"]

OPTIONAL = ("ra", "dec", "pixel_scale")
BATCH_ROWS = 65_536
# Of the rows of a shard, by whose footer they are an eighth of it.
MOST_BYTES = 512 * 2**20


@dataclass(frozen=True)
class ParquetColumns:
    """The columns of a Parquet source that its shards will need.

    Parameters
    ----------
    image : str
        The file's name of the image column.
    optional : tuple of (contract name, file's name)
        Those of ra, dec and pixel_scale that the files have.
    carried : tuple of (str, pyarrow.DataType)
        The carried columns that the files have.
    has_label : bool
    """

    image: str = ""
    optional: tuple[tuple[str, str], ...] = ()
    carried: tuple[tuple[str, pa.DataType], ...] = ()
    has_label: bool = False


def describe_tables(files: Sequence[str], columns: Columns, carry: Iterable[str]) -> ParquetColumns:
    """What the Parquet files of a source have, from their footers.

    Raises
    ------
    UserError
        If a file is not Parquet, a column is missing or of a wrong type, or the files do not agree.
    """
    check_columns(files, columns, ["object_id", "image"])
    first: ParquetColumns | None = None
    for file, schema in zip(files, storage.in_threads(_schema, files), strict=True):
        described = _describe(file, schema, columns, carry)
        if first is not None and described != first:
            raise UserError(f"{file} has other columns or types than {files[0]}: ingest them one by one")
        first = first or described
    if first is None:
        raise ValueError("no file to describe")
    return first


def iter_objects(files: Sequence[str], columns: Columns, has_label: bool) -> Iterator[tuple[pa.Table, bool]]:
    """The objects of Parquet files, some at a time, from their footers, id and label columns.

    Yields
    ------
    objects : pyarrow.Table
        See `pipeline.ingestion.inventory.OBJECTS_SCHEMA`; sizes are averages over a row group.
    integers : bool
        Whether the ids are integers by the file's type: strings of digits stay strings.

    Raises
    ------
    UserError
        If an id is null, if there is no row, or not as many as a file's footer says.
    """
    read = [columns.id, *([columns.label] if has_label else [])]
    rows = 0
    for file in files:
        start = 0
        with storage.open_input(file) as handle:
            parquet = pq.ParquetFile(handle)
            classes = class_names(parquet.schema_arrow)
            for group, (count, held) in enumerate(column_bytes(parquet.metadata, [columns.image])):
                if not count:
                    continue
                size = held // count
                for batch in parquet.iter_batches(BATCH_ROWS, row_groups=[group], columns=read):
                    ids = standard_ids(batch.column(columns.id))
                    if ids.null_count:
                        row = start + pc.index(pc.is_null(ids), True).as_py()
                        raise UserError(f"row {row + 1} of {file} has no {columns.id}: give each row an id")
                    label = pa.nulls(len(ids), pa.string())
                    if has_label:
                        named = with_class_names(
                            pa.table({columns.label: batch.column(columns.label)}), classes
                        )
                        label = texts(named[columns.label]).combine_chunks()
                    objects = {
                        "object_id": ids.cast(pa.string()),
                        "file": pa.repeat(file, len(ids)),
                        "row": pa.array(np.arange(start, start + len(ids), dtype=np.int64)),
                        "size": pa.repeat(pa.scalar(size, pa.int64()), len(ids)),
                        "mark": pa.nulls(len(ids), pa.string()),
                        "label": label,
                    }
                    yield pa.table(objects), pa.types.is_integer(ids.type)
                    start += len(ids)
            _check_rows(file, parquet, start)
        rows += start
    if not rows:
        raise UserError(f"no row in {files[0]}" + (f" and {len(files) - 1} more files" if files[1:] else ""))


def _check_rows(file: str, parquet: pq.ParquetFile, there: int) -> None:
    try:
        check_row_count(int(parquet.metadata.num_rows), there)
    except pa.ArrowInvalid as error:
        raise UserError(f"{file}: {error}") from None


def gather_rows(objects: pa.Table, columns: ParquetColumns) -> pa.Table:
    """The images and other columns of some rows, reading only the row groups that hold them.

    Parameters
    ----------
    objects : pyarrow.Table
        ``file`` and ``row`` in the source's order, which is the order of what returns.
    columns : ParquetColumns

    Returns
    -------
    pyarrow.Table
        ``image`` (binary), then the optional columns by their contract names and the carried ones.
    """
    names = {"image": columns.image, **dict(columns.optional)}
    read = list(dict.fromkeys([*names.values(), *(name for name, _ in columns.carried)]))
    files, rows = np.array(objects["file"].to_pylist(), dtype=object), objects["row"].to_numpy()
    pieces: list[pa.Table] = []
    for file in dict.fromkeys(files):
        with storage.open_input(file) as handle:
            wanted = rows[files == file]
            parquet = pq.ParquetFile(handle)
            check_packing(parquet.metadata, read)
            growing = growing_columns(parquet.metadata, read)
            if growing:
                parquet = pq.ParquetFile(handle, metadata=parquet.metadata, read_dictionary=growing)
            batches = _batches_with(parquet, wanted, read, growing)
            if (there := sum(map(len, batches))) != len(wanted):
                raise ValueError(f"{there} of {len(wanted)} rows could be read of {file}")
            pieces += [_under_contract_names(batch, names, columns) for batch in batches]
    return pa.concat_tables(pieces)


def _batches_with(
    parquet: pq.ParquetFile, wanted: np.ndarray, columns: list[str], growing: list[str]
) -> list[pa.RecordBatch]:
    """The wanted rows, sorted, in small batches: a row group may be larger than the memory.

    Raises
    ------
    ValueError
        If they take more than a shard may, as one image of a dictionary can in all rows.
    """
    held = 0
    batches: list[pa.RecordBatch] = []
    start = 0
    for group in range(parquet.metadata.num_row_groups):
        end = start + parquet.metadata.row_group(group).num_rows
        inside = wanted[(wanted >= start) & (wanted < end)]
        if len(inside):
            offset = start
            read = parquet.iter_batches(ROW_GROUP_ROWS, row_groups=[group], columns=columns)
            for batch in small_batches(read, growing):
                here = inside[(inside >= offset) & (inside < offset + len(batch))] - offset
                if len(here):
                    batches.append(batch if len(here) == len(batch) else batch.take(pa.array(here)))
                    held += batches[-1].nbytes
                    if held > MOST_BYTES:
                        raise ValueError(
                            f"{len(wanted)} rows take more than {MOST_BYTES / 1e6:.0f} MB, which the footer "
                            "does not say: one image in many rows"
                        )
                offset += len(batch)
                if offset > inside[-1]:
                    break
        start = end
    return batches


def _under_contract_names(batch: pa.RecordBatch, names: dict[str, str], columns: ParquetColumns) -> pa.Table:
    arrays = {standard: batch.column(name) for standard, name in names.items()}
    if pa.types.is_dictionary(arrays["image"].type):
        arrays["image"] = arrays["image"].cast(arrays["image"].type.value_type)
    if pa.types.is_struct(arrays["image"].type):
        arrays["image"] = pc.struct_field(arrays["image"], "bytes")
    arrays["image"] = arrays["image"].cast(pa.binary())
    carried = {f"carry:{name}": batch.column(name).cast(kind) for name, kind in columns.carried}
    return pa.table({**arrays, **carried})


def _describe(file: str, schema: pa.Schema, columns: Columns, carry: Iterable[str]) -> ParquetColumns:
    names = columns.standard_names()
    optional = tuple((standard, names[standard]) for standard in OPTIONAL if names[standard] in schema.names)
    for standard, name in optional:
        kind = schema.field(name).type
        if not is_number_type(kind):
            raise UserError(f"column {name!r} in {file} is {kind}: numbers are wanted for {standard}")
    has_label = columns.label in schema.names
    if has_label:
        kind = schema.field(columns.label).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        named = pa.types.is_integer(kind) and columns.label in class_names(schema)
        if not (named or is_bytes(kind) or is_text(kind) or pa.types.is_null(kind)):
            raise UserError(
                f"column {columns.label!r} in {file} is {kind}: class names are wanted; name their column "
                "with --label-column"
            )
    check_not_encrypted(file, schema, [columns.label, *(name for _, name in optional), *carry])
    carried = tuple((name, plain_type(schema.field(name).type)) for name in carry if name in schema.names)
    return ParquetColumns(columns.image, optional, carried, has_label)


def _schema(file: str) -> pa.Schema:
    with storage.open_input(file) as handle:
        return schema_of(pq.ParquetFile(handle), handle)
