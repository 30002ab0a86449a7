"""Rows as FITS and VOTable files, with the units, UCDs and descriptions of their columns."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from astropy.io import fits
from astropy.table import Column, MaskedColumn, Table

from hiwl_core.errors import UserError
from pipeline.catalog.catalog_schema import column_notes

__all__ = ["fits_bytes", "votable_bytes"]

# What stands for null in a FITS column of integers: no id of a survey, where astropy's 999999 may be one.
NULL_INTEGER = {2: np.iinfo(np.int16).min, 4: np.iinfo(np.int32).min, 8: np.iinfo(np.int64).min}


def fits_bytes(rows: pa.Table) -> bytes:
    """A FITS file with one binary table.

    Nulls are NaN, the empty string, or TNULL for integers. The UCD of a column is in TUCD, its description in
    TCOMM, as TOPCAT writes them.

    Raises
    ------
    UserError
        If FITS cannot hold a column.
    """
    table = _table(rows)
    for column in table.columns.values():
        if isinstance(column, MaskedColumn):
            column.fill_value = NULL_INTEGER[column.dtype.itemsize]
    ucds = [column.meta.pop("ucd", "") for column in table.columns.values()]
    descriptions = [column.description or "" for column in table.columns.values()]
    for column in table.columns.values():
        column.description = None
    try:
        unit = fits.table_to_hdu(table)
    except (ValueError, TypeError, UnicodeError) as error:
        raise UserError(f"FITS cannot hold the answer: {error}") from None
    unit.header["EXTNAME"] = "catalog"
    for index, (ucd, description) in enumerate(zip(ucds, descriptions, strict=True), start=1):
        if ucd:
            unit.header[f"TUCD{index}"] = ucd
        if description:
            unit.header[f"TCOMM{index}"] = description
    buffer = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), unit]).writeto(buffer)
    return buffer.getvalue()


def votable_bytes(rows: pa.Table) -> bytes:
    """A VOTable, in its binary serialization.

    Raises
    ------
    UserError
        If a VOTable cannot hold a column.
    """
    buffer = io.BytesIO()
    try:
        _table(rows).write(buffer, format="votable", tabledata_format="binary2")
    except (ValueError, TypeError, UnicodeError) as error:
        raise UserError(f"a VOTable cannot hold the answer: {error}") from None
    return buffer.getvalue()


def _table(rows: pa.Table) -> Table:
    columns = []
    for field, chunks in zip(rows.schema, rows.columns, strict=True):
        column = _column(field.name, chunks.combine_chunks())
        notes = column_notes(field)
        column.unit = notes.get("unit") or column.unit
        column.description = notes.get("description") or None
        if notes.get("ucd"):
            column.meta["ucd"] = notes["ucd"]
        columns.append(column)
    return Table(columns)


def _column(name: str, values: pa.Array) -> Column:
    """A column of the nearest type that both formats have; nulls are NaN, empty or masked."""
    kind = values.type
    rows = _rows_of_numbers(values)
    if rows is not None:
        return Column(rows, name)
    if pa.types.is_nested(kind) or pa.types.is_binary(kind):
        raise UserError(f"column {name!r} is {kind}, which FITS and VOTable tables do not hold: leave it out")
    if pa.types.is_decimal(kind):
        # DuckDB's sums of integers are such; those that an int64 holds stay exact.
        values = _as_integer(values) if kind.scale == 0 else values.cast(pa.float64())
    elif pa.types.is_unsigned_integer(kind):
        values = _as_integer(values)
    elif pa.types.is_int8(kind) or pa.types.is_boolean(kind):
        values = values.cast(pa.int16()) if pa.types.is_int8(kind) or values.null_count else values
    elif pa.types.is_duration(kind) or kind == pa.month_day_nano_interval():
        return Column(_seconds(name, values), name, unit="s")
    elif pa.types.is_null(kind):
        values = values.cast(pa.float64())
    kind = values.type
    if pa.types.is_boolean(kind):
        return Column(values.to_numpy(zero_copy_only=False), name)
    if pa.types.is_integer(kind):
        filled = pc.fill_null(values, 0).to_numpy(zero_copy_only=False)
        if not values.null_count:
            return Column(filled, name)
        return MaskedColumn(filled, name, mask=pc.is_null(values).to_numpy(zero_copy_only=False))
    if pa.types.is_floating(kind):
        return Column(pc.fill_null(values, float("nan")).to_numpy(zero_copy_only=False), name)
    try:
        words = pc.fill_null(values.cast(pa.string()), "").to_pylist()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise UserError(
            f"column {name!r} is {kind}, which FITS and VOTable tables do not hold: leave it out"
        ) from None
    return Column(np.array(words, dtype=str) if words else np.array([], dtype="U1"), name)


def _rows_of_numbers(values: pa.Array) -> np.ndarray | None:
    """Lists of numbers that are all of one length, NaN where they are null; None for other columns."""
    kind = values.type
    if not (pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)):
        return None
    lengths = pc.unique(pc.list_value_length(values).drop_null()).to_pylist()
    if not pa.types.is_floating(kind.value_type) or len(lengths) != 1:
        return None
    found = np.full((len(values), lengths[0]), np.nan, kind.value_type.to_pandas_dtype())
    found[values.is_valid().to_numpy(zero_copy_only=False)] = (
        pc.list_flatten(values).to_numpy(zero_copy_only=False).reshape(-1, lengths[0])
    )
    return found


def _seconds(name: str, values: pa.Array) -> np.ndarray:
    """Durations in seconds, NaN where they are null; DuckDB gives them as months, days and nanoseconds."""
    if pa.types.is_duration(values.type):
        return np.array([np.nan if one is None else one.total_seconds() for one in values.to_pylist()])
    found = []
    for one in values.to_pylist():
        if one is not None and one.months:
            raise UserError(f"column {name!r} has an interval of months, which is no time: leave it out")
        found.append(np.nan if one is None else one.days * 86400 + one.nanoseconds / 1e9)
    return np.array(found, dtype=float)


def _as_integer(values: pa.Array) -> pa.Array:
    try:
        return values.cast(pa.int64())
    except pa.ArrowInvalid:
        return values.cast(pa.string())
