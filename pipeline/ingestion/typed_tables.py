"""Tables whose files say what their columns are: FITS, VOTable, ECSV and Parquet, as text like any CSV.

Text is what the reader of a CSV file begins with, and the shortest one of a number keeps all its digits, so
that ids and thresholds mean the same from each of them.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hiwl_core.errors import UserError
from hiwl_core.fits_cutouts import is_fits
from hiwl_core.fits_headers import quiet_astropy
from pipeline.shards.plain_columns import class_names, texts, with_class_names

__all__ = ["typed_table"]

PARQUET_MAGIC, ECSV_MAGIC = b"PAR1", b"# %ECSV"
SNIFFED_BYTES = 2048


def typed_table(content: bytes, path: str) -> pa.Table | None:
    """The table of a file's content, each column as strings, null where there is nothing.

    Columns with more than one value in a row are left out.

    Parameters
    ----------
    content : bytes
    path : str
        For messages.

    Returns
    -------
    pyarrow.Table or None
        None if it is none of these kinds.

    Raises
    ------
    UserError
        If it is one of them, and damaged or without a table.
    """
    try:
        if content.startswith(PARQUET_MAGIC):
            return _parquet(content)
        kind = _astropy_kind(content)
        return None if kind is None else _astropy(content, kind)
    # The readers raise many kinds for what is damaged.
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path} cannot be read as a table: {reason}") from None


def _astropy_kind(content: bytes) -> str | None:
    start = content[:SNIFFED_BYTES].lstrip(b"\xef\xbb\xbf \r\n\t")
    if is_fits(content):
        return "fits"
    if start.startswith(ECSV_MAGIC):
        return "ascii.ecsv"
    return "votable" if start.startswith(b"<") and b"<VOTABLE" in content[:SNIFFED_BYTES] else None


def _astropy(content: bytes, kind: str) -> pa.Table:
    from astropy.io.votable import parse_single_table
    from astropy.table import Table

    quiet_astropy()
    if kind == "votable":
        table = parse_single_table(io.BytesIO(content)).to_table(use_names_over_ids=True)
    else:
        table = Table.read(io.BytesIO(content) if kind == "fits" else content.decode(), format=kind)
    return pa.table({str(name): _words(table[name]) for name in table.colnames if table[name].ndim == 1})


def _words(column: Any) -> pa.Array:
    missing = np.ma.getmaskarray(np.ma.asarray(column))
    values = np.ma.getdata(np.ma.asarray(column)).tolist()
    return pa.array(
        [None if gone else _word(value) for value, gone in zip(values, missing.tolist(), strict=True)],
        pa.string(),
    )


def _word(value: object) -> str | None:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    word = "" if isinstance(value, float) and np.isnan(value) else str(value).strip()
    return word or None


def _parquet(content: bytes) -> pa.Table:
    parquet = pq.ParquetFile(pa.BufferReader(content))
    table = with_class_names(parquet.read(), class_names(parquet.schema_arrow))
    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_nested(column.type):
            continue
        if pa.types.is_floating(column.type):
            columns[name] = pa.array(map(_word, column.cast(pa.float64()).to_pylist()), pa.string())
        else:
            columns[name] = texts(column)
    return pa.table(columns)
