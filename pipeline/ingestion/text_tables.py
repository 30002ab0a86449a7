"""Tables read as text first, so that no id and no threshold is changed by a guess at its type."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from hiwl_core.compressed import unpacked
from hiwl_core.errors import UserError
from hiwl_core.statuses import UnreadableCutout
from pipeline import storage
from pipeline.ingestion.typed_tables import typed_table

__all__ = ["inferred", "numbers", "read_text_table"]

MOST_BYTES = 4 * 2**30
"""Of a table that is unpacked."""
SNIFFED_BYTES = 65_536
NULLS = ["", "nan", "NaN", "null", "NULL"]
INTEGER = r"^-?(0|[1-9][0-9]*)$"
NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
# More digits than a float keeps, or leading zeros: a code, not a quantity.
CODE = r"^[+-]?([0-9]{16,}|0[0-9]+)$"


def read_text_table(path: str) -> pa.Table:
    """A table, each column as stripped strings, empty ones and ``nan`` null.

    Parameters
    ----------
    path : str
        Local or URL: a CSV or TSV file, or one with semicolons, with a header line, above which there may be
        comments (SkyServer's ``#Table1``), or a table of one of the kinds of
        `pipeline.ingestion.typed_tables`. Either may be packed by gzip or bzip2.

    Raises
    ------
    UserError
        If there is no such file, or it is not a table with a header of different names.
    """
    try:
        content = unpacked(storage.read_bytes(path), MOST_BYTES)
    except UnreadableCutout as error:
        raise UserError(f"{path} cannot be unpacked: {error.words}") from None
    typed = typed_table(content, path)
    if typed is not None:
        return typed
    if b"\0" in content[:SNIFFED_BYTES]:
        raise UserError(f"{path} is no table: CSV, TSV, ECSV, VOTable, FITS or Parquet is wanted")
    content, delimiter = _below_comments(content)
    try:
        start = content[: 2**20].decode("utf-8-sig", errors="replace")
        header = next(csv.reader(io.StringIO(start), delimiter=delimiter), [])
        if not header:
            raise UserError(f"{path} is empty: a CSV table with a header line is wanted")
        if len(set(header)) != len(header):
            twice = Counter(header).most_common(1)[0][0]
            raise UserError(f"{path} has two columns {twice!r}: rename one of them")
        table = pacsv.read_csv(
            pa.BufferReader(content),
            parse_options=pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=pacsv.ConvertOptions(
                column_types={name: pa.string() for name in header},
                null_values=NULLS,
                strings_can_be_null=True,
            ),
        )
        # Names as in the header line, stripped like the values: a space after a comma is no part of a name.
        columns = {
            name.strip(): pc.utf8_trim_whitespace(table[name]).combine_chunks() for name in table.column_names
        }
    except (pa.ArrowInvalid, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a CSV table: {str(error).splitlines()[0]}") from None
    return pa.table(columns)


def _below_comments(content: bytes) -> tuple[bytes, str]:
    """A text table without the comments above its header, and what stands between its fields."""
    content = content.removeprefix(b"\xef\xbb\xbf")
    while content.startswith(b"#"):
        comment, _, below = content.partition(b"\n")
        following = below.partition(b"\n")[0]
        delimiter = _delimiter(following)
        fields = following.decode(errors="replace").split(delimiter)
        same = len(fields) > 1 and len(fields) == len(comment.decode(errors="replace").split(delimiter))
        if same and any(re.fullmatch(NUMBER, field.strip()) for field in fields):
            # A header behind the sign of a comment, as TOPCAT writes it: what follows are numbers already.
            content = comment.lstrip(b"# ") + b"\n" + below
            break
        content = below
    return content, _delimiter(content.partition(b"\n")[0])


def _delimiter(line: bytes) -> str:
    """A comma, unless there is none and there is another: spreadsheets of many countries write semicolons."""
    others = (delimiter for delimiter in "\t;" if delimiter.encode() in line and b"," not in line)
    return next(others, ",")


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
