"""CSV tables read as text first, so that no id and no threshold is changed by a guess at its type."""

from __future__ import annotations

import csv
import io

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from hiwl_core.errors import UserError
from pipeline import storage

__all__ = ["inferred", "numbers", "read_text_table"]

NULLS = ["", "nan", "NaN", "null", "NULL"]
INTEGER = r"^-?(0|[1-9][0-9]*)$"
NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
# More digits than a float keeps, or leading zeros: a code, not a quantity.
CODE = r"^[+-]?([0-9]{16,}|0[0-9]+)$"


def read_text_table(path: str) -> pa.Table:
    """A CSV file with a header line, each column as stripped strings, empty ones and ``nan`` null.

    Parameters
    ----------
    path : str
        Local or URL.

    Raises
    ------
    UserError
        If there is no such file, or it is not a table with a header of different names.
    """
    content = storage.read_bytes(path)
    try:
        header = next(csv.reader(io.StringIO(content[: 2**20].decode("utf-8-sig", errors="replace"))), [])
        if not header:
            raise UserError(f"{path} is empty: a CSV table with a header line is wanted")
        if len(set(header)) != len(header):
            twice = next(name for name in header if header.count(name) > 1)
            raise UserError(f"{path} has two columns {twice!r}: rename one of them")
        table = pacsv.read_csv(
            pa.BufferReader(content),
            parse_options=pacsv.ParseOptions(newlines_in_values=True),
            convert_options=pacsv.ConvertOptions(
                column_types={name: pa.string() for name in header},
                null_values=NULLS,
                strings_can_be_null=True,
            ),
        )
    except (pa.ArrowInvalid, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a CSV table: {str(error).splitlines()[0]}") from None
    # Names as in the header line, stripped like the values: a space after a comma is no part of a name.
    columns = {
        name.strip(): pc.utf8_trim_whitespace(table[name]).combine_chunks() for name in table.column_names
    }
    return pa.table(columns)


def numbers(texts: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Strings as the nearest float64; null where there is no number."""
    return pc.if_else(pc.match_substring_regex(texts, NUMBER), texts, None).cast(pa.float64())


def inferred(texts: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Strings as int64 or float64 where no digit is lost by it, else as they are."""
    if texts.null_count == len(texts):
        return texts
    try:
        if pc.all(pc.match_substring_regex(texts, INTEGER)).as_py():
            return texts.cast(pa.int64())
    except pa.ArrowInvalid:
        return texts
    quantities = pc.all(pc.match_substring_regex(texts, NUMBER)).as_py()
    if quantities and not pc.any(pc.match_substring_regex(texts, CODE)).as_py():
        return texts.cast(pa.float64())
    return texts
