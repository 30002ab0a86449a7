"""The rows of an answer as text to look at and as files: CSV, Parquet, FITS and VOTable.

Integers are written as integers everywhere: the ids of surveys have 18 digits, a float keeps 15.
"""

from __future__ import annotations

import io
import posixpath
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from hiwl_core.errors import UserError
from pipeline.progress import say
from pipeline.querying.query import Answer

__all__ = ["FORMATS", "SUFFIXES", "encode", "format_of", "text_table"]

FORMULA = r"^[=+\-@\t\r]"
SIGNED_NUMBER = r"^[+-]?[0-9.]+([eE][+-]?[0-9]+)?$"
FORMATS = ("table", "csv", "parquet", "fits", "votable")
SUFFIXES = {
    ".txt": "table",
    ".csv": "csv",
    ".parquet": "parquet",
    ".fits": "fits",
    ".fit": "fits",
    ".vot": "votable",
    ".votable": "votable",
    ".xml": "votable",
}


def format_of(out: str) -> str:
    """The format that a file name asks for.

    Raises
    ------
    UserError
        If its ending is none that is known.
    """
    suffix = posixpath.splitext(out)[1].lower()
    if suffix not in SUFFIXES:
        raise UserError(f"no format known for {out!r}: choose one with --format, of {', '.join(FORMATS)}")
    return SUFFIXES[suffix]


def encode(answer: Answer, form: str) -> bytes:
    """All rows as the content of a file.

    Parameters
    ----------
    answer : Answer
    form : {"table", "csv", "parquet", "fits", "votable"}

    Raises
    ------
    UserError
        If the format cannot hold one of the columns.
    """
    if form == "table":
        return text_table(answer, rows=None).encode()
    if form == "csv":
        return _csv(answer)
    if form == "parquet":
        return _parquet(answer)
    from pipeline.querying.astropy_tables import (  # here, since astropy is slow to import
        fits_bytes,
        votable_bytes,
    )

    return fits_bytes(answer.table()) if form == "fits" else votable_bytes(answer.table())


def text_table(answer: Answer, rows: int | None, width: int | None = None) -> str:
    """The first rows as aligned columns, and a line about what is not shown.

    Parameters
    ----------
    answer : Answer
    rows : int or None
        Rows at most; None for all.
    width : int, optional
        Characters a line at most: columns that do not fit are left out and named.
    """
    total = 0
    shown: list[list[str]] = []
    for batch in answer.batches():
        take = batch.num_rows if rows is None else min(batch.num_rows, rows - len(shown))
        columns = [[_cell(value) for value in column] for column in batch.slice(0, take).columns]
        shown += [list(cells) for cells in zip(*columns, strict=True)]
        total += batch.num_rows
    names = answer.schema.names
    if len(names) == 2 and names[0] == "explain_key":
        return "\n".join(cells[1] for cells in shown)
    numeric = [_is_number(field.type) for field in answer.schema]
    widths = [max([len(name), *(len(cells[i]) for cells in shown)]) for i, name in enumerate(names)]
    fitting = _fitting(widths, width)
    lines = [
        "  ".join(
            cells[i].rjust(widths[i]) if numeric[i] else cells[i].ljust(widths[i]) for i in range(fitting)
        ).rstrip()
        for cells in [names, *shown]
    ]
    lines.insert(1, "  ".join("─" * widths[i] for i in range(fitting)))
    if total > len(shown):
        lines.append(f"... and {total - len(shown):,} more rows, {total:,} in all (--rows N, or --out FILE)")
    if fitting < len(names):
        lines.append(f"not shown for want of width: {', '.join(names[fitting:])}")
    return "\n".join(lines) + "\n"


def _fitting(widths: Sequence[int], width: int | None) -> int:
    """Columns that fit side by side, one at least."""
    if width is None:
        return len(widths)
    used, fitting = -2, 0
    for column in widths:
        used += column + 2
        if used > width:
            break
        fitting += 1
    return max(fitting, min(1, len(widths)))


def _cell(value: pa.Scalar) -> str:
    """A value as text; a float with as many digits as its type holds."""
    if not value.is_valid:
        return ""
    if pa.types.is_float32(value.type):
        return f"{value.as_py():.6g}"
    if pa.types.is_floating(value.type):
        return f"{value.as_py():.12g}"
    return str(value.as_py()) if pa.types.is_nested(value.type) else str(value)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _csv(answer: Answer) -> bytes:
    def plain(kind: pa.DataType) -> bool:
        return (
            _is_number(kind)
            or pa.types.is_string(kind)
            or pa.types.is_boolean(kind)
            or pa.types.is_date(kind)
        )

    schema = pa.schema(
        field if plain(field.type) else field.with_type(pa.string()) for field in answer.schema
    )
    buffer = io.BytesIO()
    formulas: list[str] = []
    with pa_csv.CSVWriter(buffer, schema) as writer:
        for batch in answer.batches():
            columns = [column if plain(column.type) else _as_text(column) for column in batch.columns]
            formulas += _formulas(columns)
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
    if formulas:
        # They are written as they are: an id with an apostrophe before it is another id.
        say(
            f"{len(formulas):,} values begin as a spreadsheet's formula does, such as {formulas[0][:40]!r}: "
            "import the file with all columns as text"
        )
    return buffer.getvalue()


def _formulas(columns: Iterable[pa.Array]) -> list[str]:
    """The values of text columns that a spreadsheet would compute."""
    found: list[str] = []
    for column in columns:
        if pa.types.is_string(column.type):
            starts = pc.match_substring_regex(column, FORMULA)
            number = pc.match_substring_regex(column, SIGNED_NUMBER)
            found += column.filter(pc.and_not(starts, number)).drop_null().to_pylist()
    return found


def _as_text(column: Iterable[Any]) -> pa.Array:
    return pa.array([_cell(value) if value.is_valid else None for value in column], pa.string())


def _parquet(answer: Answer) -> bytes:
    buffer = io.BytesIO()
    try:
        with pq.ParquetWriter(buffer, answer.schema, compression="zstd") as writer:
            for batch in answer.batches():
                writer.write_batch(batch)
    except pa.ArrowNotImplementedError as error:
        raise UserError(f"Parquet cannot hold the answer: {error}; CAST the column in the SQL") from None
    return buffer.getvalue()
