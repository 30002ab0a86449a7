"""Groups of a catalog's rows: the values of a column, or bins of equal counts of a number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import duckdb

from hiwl_core.errors import UserError
from pipeline.querying.query import ask
from pipeline.querying.validated_columns import quoted, sql_texts

__all__ = ["ALL", "FRACTIONAL", "WHOLE", "By", "Grouping", "choose_groups", "parse_by"]

MOST_GROUPS = 200
FRACTIONAL = ("FLOAT", "DOUBLE", "DECIMAL")
WHOLE = (
    "TINYINT",
    "SMALLINT",
    "INTEGER",
    "BIGINT",
    "HUGEINT",
    "UTINYINT",
    "USMALLINT",
    "UINTEGER",
    "UBIGINT",
)


@dataclass(frozen=True)
class By:
    """What rows are grouped by.

    Parameters
    ----------
    column : str
    bins : int or None
        None for a group for each value.
    """

    column: str
    bins: int | None


@dataclass(frozen=True)
class Grouping:
    """Groups, and how SQL tells them.

    Parameters
    ----------
    column : str or None
        None if all rows are one group.
    names : list of str
        Of the groups.
    index : str
        SQL for the number of a row's group, null for a row in none.
    value : str
        SQL for the number that bins are of.
    binned : bool
    """

    column: str | None = None
    names: list[str] = field(default_factory=lambda: ["all"])
    index: str = "0"
    value: str = "NULL"
    binned: bool = False


ALL = Grouping()
"""One group of all rows."""


def parse_by(text: str, columns: Mapping[str, str]) -> By:
    """``COLUMN`` or ``COLUMN,BINS``.

    Parameters
    ----------
    text : str
    columns : mapping of str
        Those that there are; a column with a comma in its name is one.

    Raises
    ------
    UserError
        If the number of bins is no whole number from 1 to 200.
    """
    if text in columns or "," not in text:
        return By(text, None)
    column, _, number = (piece.strip() for piece in text.rpartition(","))
    if not number.isascii() or not number.isdigit() or not 1 <= int(number) <= MOST_GROUPS:
        raise UserError(
            f"--by {text}: {number!r} bins; give a whole number from 1 to {MOST_GROUPS}, such as {column},10"
        )
    return By(column, int(number))


def choose_groups(
    connection: duckdb.DuckDBPyConnection, catalog: str, columns: Mapping[str, str], by: By, condition: str
) -> Grouping:
    """The groups of some rows of an open catalog.

    Bins have equal counts as far as equal values, which stay together, allow it: there may be fewer than
    asked for. A row without a value, or with one that is not finite, is in none.

    Parameters
    ----------
    connection : duckdb.DuckDBPyConnection
        See `pipeline.querying.query.open_catalog`.
    catalog : str
        For messages.
    columns : mapping of str
        Names and DuckDB's types.
    by : By
    condition : str
        In SQL, which rows.

    Raises
    ------
    UserError
        If there is no such column, it has no values, too many of them, or none that can be binned.
    """
    if by.column not in columns:
        raise UserError(f"--by {by.column}: no such column in {catalog}; there are {', '.join(columns)}")
    name = quoted(by.column)
    kind = columns[by.column].partition("(")[0]
    if by.bins is not None:
        if kind not in FRACTIONAL + WHOLE:
            raise UserError(f"--by {by.column},{by.bins}: {by.column} is no number; leave out the {by.bins}")
        return _bins(connection, by.column, f"CAST({name} AS DOUBLE)", by.bins, condition)
    if kind in FRACTIONAL:
        raise UserError(
            f"--by {by.column} is a number of many values: give the number of bins, as {by.column},10"
        )
    return _values(connection, by.column, name, condition)


def _bins(
    connection: duckdb.DuckDBPyConnection, column: str, value: str, bins: int, condition: str
) -> Grouping:
    shares = ", ".join(str(number / bins) for number in range(bins + 1))
    found = ask(
        connection,
        f"SELECT quantile_disc({value}, [{shares}]) AS edges FROM catalog "
        f"WHERE {condition} AND isfinite({value})",
    ).table()
    edges = found["edges"][0].as_py()
    if not edges:
        raise UserError(f"--by {column}: no classified galaxy that was asked for has a value of it")
    # Each bin ends with its upper edge, and the first begins with the lowest value.
    uppers = list(dict.fromkeys(edges[1:]))
    lowers = [edges[0], *uppers[:-1]]
    cases = " ".join(
        f"WHEN {value} <= {upper!r}::DOUBLE THEN {index}" for index, upper in enumerate(uppers[:-1])
    )
    last = len(uppers) - 1
    index = f"CASE WHEN {value} IS NULL OR NOT isfinite({value}) THEN NULL {cases} ELSE {last} END"
    return Grouping(column, _ranges(lowers, uppers), index, value, binned=True)


def _values(connection: duckdb.DuckDBPyConnection, column: str, name: str, condition: str) -> Grouping:
    found = ask(
        connection,
        f"SELECT CAST(v AS VARCHAR) AS value FROM (SELECT DISTINCT {name} AS v FROM catalog "
        f"WHERE {condition} AND {name} IS NOT NULL) ORDER BY v LIMIT {MOST_GROUPS + 1}",
    ).table()
    names = found["value"].to_pylist()
    if not names:
        raise UserError(f"--by {column}: no classified galaxy that was asked for has a value of it")
    if len(names) > MOST_GROUPS:
        raise UserError(
            f"--by {column}: more than {MOST_GROUPS} different values; give a number of bins, as "
            f"{column},10, or another column"
        )
    return Grouping(
        column, names, f"nullif(list_position([{sql_texts(names)}], CAST({name} AS VARCHAR)), 0) - 1"
    )


def _ranges(lowers: list[float], uppers: list[float]) -> list[str]:
    """Names of bins, with as many digits as tell their edges apart."""
    edges = [lowers[0], *uppers]
    digits = next(
        (n for n in range(3, 17) if len({f"{edge:.{n}g}" for edge in edges}) == len(set(edges))), 17
    )
    return [f"{low:.{digits}g} to {high:.{digits}g}" for low, high in zip(lowers, uppers, strict=True)]
