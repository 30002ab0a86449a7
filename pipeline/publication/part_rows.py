"""Rows of the parts of a catalog, as a publication reads them: with columns that fit together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hiwl_core.errors import UserError, words_of
from pipeline import storage
from pipeline.catalog.parts import making_in
from pipeline.shards.parquet_rows import check_row_count
from pipeline.shards.sky_positions import wrapped

__all__ = ["conform", "positions", "read_coordinates", "read_rows", "unified"]


def read_rows(path: str, making: str = "") -> pa.Table:
    """The rows of a part.

    Parameters
    ----------
    path : str
    making : str
        What it must have been made by; see `pipeline.catalog.parts.making_of`. Empty: by anything.

    Raises
    ------
    UserError
        If it is damaged, or was made by another model or with other settings.
    """
    with _readable(path):
        parquet = pq.ParquetFile(pa.BufferReader(storage.read_bytes(path)))
        table = parquet.read(use_threads=False)
        check_row_count(parquet.metadata.num_rows, table.num_rows)
    if making and making_in(table.schema.metadata) != making:
        raise UserError(
            f"{path} was made by another model or with other settings than its catalog: `hiwl verify` tells "
            "which parts were; remove them and classify again"
        )
    return _wrapped(table.replace_schema_metadata(None))


def read_coordinates(path: str) -> pa.Table:
    """The columns ``ra`` and ``dec`` of a part; for errors see `read_rows`."""
    with _readable(path), storage.open_input(path) as file:
        return _wrapped(pq.ParquetFile(file).read(columns=["ra", "dec"]))


def positions(table: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Right ascensions and declinations, NaN where they are null, and whether they are a place on the sky.

    A place has 0 <= ra <= 360 and -90 <= dec <= 90.
    """
    ra, dec = (
        pc.fill_null(table[name].cast(pa.float64()), float("nan")).to_numpy() for name in ("ra", "dec")
    )
    return ra, dec, (ra >= 0) & (ra <= 360) & (np.abs(dec) <= 90)


def unified(schemas: Sequence[pa.Schema], places: Sequence[str]) -> pa.Schema:
    """The schema that the rows of all schemas fit in.

    Raises
    ------
    UserError
        If a column has types that do not go together; object ids that are integers here and text there become
        text.
    """
    merged = schemas[0]
    for schema, place in zip(schemas[1:], places[1:], strict=True):
        if schema.equals(merged):
            continue
        for name in set(merged.names) & set(schema.names):
            old, new = merged.field(name), schema.field(name)
            if name == "object_id" and old.type != new.type:
                text = old.with_type(pa.string())
                merged = merged.set(merged.get_field_index(name), text)
                schema = schema.set(schema.get_field_index(name), text)
        try:
            merged = pa.unify_schemas([merged, schema], promote_options="permissive")
        except pa.ArrowException as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{place} has a column of another type than {places[0]} ({reason}): classify its shard again "
                "with a column of one type"
            ) from None
    return merged.remove_metadata()


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table's rows with the columns of a schema; those it does not have are null."""
    columns = []
    for field in schema:
        if field.name not in table.column_names:
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        try:
            columns.append(table[field.name].cast(field.type))
        except pa.ArrowInvalid as error:
            raise UserError(
                f"column {field.name!r} is {table[field.name].type} in some parts, {field.type} in others, "
                f"and cannot become the latter without loss ({error}): classify with columns of one type"
            ) from None
    return pa.table(columns, schema=schema)


def _wrapped(table: pa.Table) -> pa.Table:
    """With 0 <= ra < 360: parts of earlier versions have the right ascensions of their shards."""
    index = table.schema.get_field_index("ra")
    if index < 0 or not pa.types.is_float64(table.schema.field(index).type):
        return table
    return table.set_column(index, table.schema.field(index), wrapped(table["ra"]))


@contextmanager
def _readable(path: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowKeyError, KeyError) as error:
        reason = words_of(error, 200)
        raise UserError(
            f"{path} is not a whole part of a catalog ({reason}): remove it and classify its shard again"
        ) from None
