"""Tables read as text first, so that no id and no threshold is changed by a guess at its type.

Those whose files say what their columns are (FITS, VOTable, ECSV and Parquet) are text here too, like any
CSV: the shortest one of a number keeps all its digits.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from hiwl_core.compressed import unpacked
from hiwl_core.errors import UserError, words_of
from hiwl_core.fits_cutouts import is_fits
from hiwl_core.fits_headers import quiet_astropy
from hiwl_core.near_names import or_meant
from hiwl_core.statuses import UnreadableCutout
from pipeline import storage
from pipeline.shards.plain_columns import class_names, texts, with_class_names

__all__ = ["inferred", "named_column", "numbers", "read_text_table"]

MOST_BYTES = 4 * 2**30
"""Of a table that is unpacked."""
# In which a CSV file has no zero byte, and in which a table of another kind says what it is.
SNIFFED_BYTES, START_BYTES = 65_536, 2048
NULLS = ["", "nan", "NaN", "null", "NULL"]
INTEGER = r"^-?(0|[1-9][0-9]*)$"
NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
# More digits than a float keeps, or leading zeros: a code, not a quantity.
CODE = r"^[+-]?([0-9]{16,}|0[0-9]+)$"
PARQUET_MAGIC, ECSV_MAGIC = b"PAR1", b"# %ECSV"


def read_text_table(path: str) -> pa.Table:
    """A table, each column as stripped strings, empty ones and ``nan`` null.

    Parameters
    ----------
    path : str
        Local or URL: a CSV or TSV file, or one with semicolons, with a header line, above which there may be
        comments (SkyServer's ``#Table1``), or a FITS, VOTable, ECSV or Parquet table, of which columns with
        more than one value in a row are left out. Either may be packed by gzip or bzip2.

    Raises
    ------
    UserError
        If there is no such file, or it is not a table with a header of different names.
    """
    try:
        content = unpacked(storage.read_bytes(path), MOST_BYTES)
    except UnreadableCutout as error:
        raise UserError(f"{path} cannot be unpacked: {error.words}") from None
    typed = _typed_table(content, path)
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


def named_column(
    path: str, names: Sequence[str], given: str | None, usual: Sequence[str], option: str
) -> str:
    """The column of a table that is called as it was said, or by the first usual name that there is.

    Parameters
    ----------
    path : str
        Of the table, for messages.
    names : sequence of str
        Of its columns.
    given : str or None
        By the user.
    usual : sequence of str
    option : str
        By which the user names it.

    Raises
    ------
    UserError
        If there is none.
    """
    for name in usual if given is None else (given,):
        if name in names:
            return name
    wanted = " or ".join(map(repr, usual)) if given is None else repr(given)
    if any(re.fullmatch(r"[+-]?[0-9.]+", name) for name in names):
        raise UserError(
            f"the first line of {path} is {','.join(names)!r}, which looks like an object: the names of the "
            f"columns are wanted there, such as {usual[0]}"
        )
    near = (or_meant(name, names, f"{option} {{}}") for name in ((given,) if given else usual))
    mend = next(filter(None, near), f"; name it with {option}")
    raise UserError(f"no column {wanted} in {path}: it has {', '.join(names)}{mend}")


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


def _typed_table(content: bytes, path: str) -> pa.Table | None:
    """The table of a file whose kind says what its columns are; None if it is of no such kind."""
    try:
        if content.startswith(PARQUET_MAGIC):
            return _parquet(content)
        kind = _astropy_kind(content)
        return None if kind is None else _astropy(content, kind)
    # The readers raise many kinds for what is damaged.
    except Exception as error:
        reason = words_of(error, 200)
        raise UserError(f"{path} cannot be read as a table: {reason}") from None


def _astropy_kind(content: bytes) -> str | None:
    start = content[:START_BYTES].lstrip(b"\xef\xbb\xbf \r\n\t")
    if is_fits(content):
        return "fits"
    if start.startswith(ECSV_MAGIC):
        return "ascii.ecsv"
    return "votable" if start.startswith(b"<") and b"<VOTABLE" in content[:START_BYTES] else None


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
