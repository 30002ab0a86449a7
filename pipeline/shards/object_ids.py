"""Object ids as text and as 64-bit integers, never as floats: a survey's 18 digits do not fit in one."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from hiwl_core.errors import UserError

__all__ = ["check_id_texts", "first_duplicate", "integer_ids"]

CANONICAL_INTEGER = r"^(0|-?[1-9][0-9]{0,18})$"
FLOAT = r"^[+-]?(([0-9]+\.[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+)$"


def integer_ids(texts: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray | None:
    """The ids as int64, if all of them are.

    Parameters
    ----------
    texts : pyarrow array of string

    Returns
    -------
    pyarrow array of int64, or None
        None if an id has something other than digits and a minus (Euclid has ids below zero), begins with a
        zero that integers would lose, or does not fit in 64 bits.
    """
    if not pc.all(pc.match_substring_regex(texts, CANONICAL_INTEGER), min_count=0).as_py():
        return None
    try:
        return texts.cast(pa.int64())
    except pa.ArrowInvalid:
        return None


def first_duplicate(texts: pa.Array | pa.ChunkedArray) -> str | None:
    """An id that is there more than once, or None."""
    counts = pc.value_counts(texts)
    if len(counts) == len(texts):
        return None
    repeated = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    return str(repeated[0].as_py())


def check_id_texts(
    texts: pa.Array | pa.ChunkedArray,
    place: str,
    column: str,
    known: pa.Array | None = None,
) -> None:
    """Check that each id of a table is there and was not written by a program that took it for a float.

    Parameters
    ----------
    texts : pyarrow array of string
    place, column : str
        The table and its column, for the message.
    known : pyarrow.Array of bool, optional
        Which of the ids are right whatever they look like.

    Raises
    ------
    UserError
        Naming the first bad row, counted from 1 below the header, and its value.
    """
    empty = pc.or_(pc.is_null(texts), pc.fill_null(pc.equal(texts, ""), False))
    if pc.any(empty, min_count=0).as_py():
        row = pc.index(empty, True).as_py()
        raise UserError(f"row {row + 1} of {place} has no {column}: give each row an id")
    floats = pc.match_substring_regex(texts, FLOAT)
    if known is not None:
        floats = pc.and_not(floats, known)
    if pc.any(floats, min_count=0).as_py():
        row = pc.index(floats, True).as_py()
        raise UserError(
            f"row {row + 1} of {place}: {column} {texts[row].as_py()!r} is a float, which loses the last "
            "digits of an id: write the column as integers or text"
        )
