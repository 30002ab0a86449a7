"""A catalog as the explorer asks it: lists of galaxies, counts, planes of two columns, rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa

from hiwl_core.errors import UserError
from pipeline.catalog.catalog_schema import FEATURES
from pipeline.catalog.class_names import classes_in
from pipeline.exploring.asked import FLOATS, ORDERS, SIMILAR, Asked
from pipeline.exploring.open_files import OpenFiles
from pipeline.querying.files import PART_COLUMN
from pipeline.querying.groups import FRACTIONAL, WHOLE
from pipeline.querying.query import ROWS, ask
from pipeline.querying.validated_columns import quoted, sql_texts

__all__ = ["MOST_LISTED", "CatalogRow", "CatalogView", "RowsInPlane"]

MOST_LISTED = 2000
"""Galaxies of a list; who wants others filters more."""
MOST_ANSWERED = 500
BINS = (180, 120)
COUNTS_KEPT = 64


@dataclass(frozen=True)
class CatalogRow:
    """A row of a catalog: its object, as the catalog has the id, and the file name of its part."""

    object_id: Any
    part: str


@dataclass(frozen=True)
class RowsInPlane:
    """Counts of rows in the plane of two columns.

    Parameters
    ----------
    x, y : tuple of float
        Ends of the axes.
    bins : tuple of int
        Cells along each.
    cells : list of (int, int, int)
        Place along x and y, and rows, of the cells that have any.
    """

    x: tuple[float, float]
    y: tuple[float, float]
    bins: tuple[int, int]
    cells: list[tuple[int, int, int]]


class CatalogView:
    """An open catalog. Its questions are asked one after the other; `interrupt` ends one from elsewhere.

    Parameters
    ----------
    catalog : str
        See `pipeline.querying.query.open_catalog`.
    only : pyarrow.Table, optional
        ``object_id`` (text) and, if known, ``part`` and ``why``: nothing else is shown, and in this order.

    Raises
    ------
    UserError
        If there is no catalog, it has no ids, or none of the wanted objects.
    """

    def __init__(self, catalog: str, only: pa.Table | None = None) -> None:
        self._files = OpenFiles(catalog)
        self._connection = self._files.connection
        self.fields = self._files.fields
        if "object_id" not in self.fields:
            raise UserError(
                f"no column 'object_id' in {catalog}: explore takes a catalog of `hiwl classify`, and it has "
                f"{', '.join(self.fields)}"
            )
        self.classes = classes_in(pa.schema(list(self.fields.values())))
        self._few = only is not None
        if only is None:
            self._connection.execute(f"CREATE VIEW {ROWS} AS {self._files.everything}")
        else:
            self._keep_only(catalog, only)
        self._connection.execute(f"CREATE VIEW catalog AS SELECT * EXCLUDE ({PART_COLUMN}) FROM {ROWS}")
        described = self._connection.sql("DESCRIBE catalog").fetchall()
        self.columns: dict[str, str] = {row[0]: row[1] for row in described}
        self._ends: dict[str, tuple[float, float]] = {}
        # For small answers that are asked for again when a filter is taken away.
        self._counts = lru_cache(COUNTS_KEPT)(self._asked)

    @property
    def published(self) -> bool:
        """Whether the catalog is in another order than its shards."""
        return self._files.published

    def interrupt(self) -> None:
        """End the question that is being answered, if there is one."""
        self._connection.interrupt()

    @property
    def numbers(self) -> list[str]:
        """The columns that have a place on an axis."""
        return [name for name, kind in self.columns.items() if kind.split("(")[0] in (*FRACTIONAL, *WHOLE)]

    @property
    def orders(self) -> list[str]:
        """Those of `ORDERS` that this catalog has the columns for."""
        return [order for order, needed in ORDERS.items() if set(needed) <= set(self.columns)]

    def listing(self, asked: Asked, labeled: Sequence[Any] = ()) -> list[CatalogRow]:
        """The first galaxies in an order.

        Parameters
        ----------
        asked : Asked
        labeled : sequence of id
            Objects that people have labeled, as the catalog has the ids.

        Returns
        -------
        list of CatalogRow
            `MOST_LISTED` at most, each once.

        Raises
        ------
        UserError
            With DuckDB's words on a wrong condition.
        """
        there, keys = asked.keys(self.columns, self._features_of(asked))
        conditions = [asked.condition(self.columns), there, "object_id IS NOT NULL"]
        if asked.labeled == "yes":
            conditions.append(f"object_id IN ({_literals(labeled)})" if labeled else "false")
        left_out = {str(one) for one in labeled} if asked.labeled == "no" else set()
        ordered = f" ORDER BY {keys}" if keys else ""
        table = self._asked(
            f"SELECT object_id, {PART_COLUMN} FROM {ROWS} WHERE {' AND '.join(conditions)}{ordered} "
            f"LIMIT {MOST_LISTED + len(left_out)}"
        )
        rows = zip(table["object_id"].to_pylist(), table[PART_COLUMN].to_pylist(), strict=True)
        places = dict.fromkeys(CatalogRow(one, part) for one, part in rows if str(one) not in left_out)
        return list(places)[:MOST_LISTED]

    def counts(self, asked: Asked) -> dict[str, int]:
        """Rows by most probable class, of all filters but that by class; the empty text for those without."""
        column = "label_map" if "label_map" in self.columns else "label"
        if column not in self.columns:
            column = "NULL::VARCHAR"
        where = asked.condition(self.columns, with_classes=False)
        table = self._counts(
            f"SELECT {column} AS name, count(*) AS n FROM {ROWS} WHERE {where} GROUP BY name"
        )
        found = {row["name"] or "": int(row["n"]) for row in table.to_pylist()}
        return dict(sorted(found.items(), key=lambda item: (item[0] == "", -item[1])))

    def plane(
        self,
        asked: Asked,
        x: str,
        y: str,
        x_ends: tuple[float, float] | None = None,
        y_ends: tuple[float, float] | None = None,
    ) -> RowsInPlane:
        """Counts in the plane of two columns, between ends or of all that is finite.

        Raises
        ------
        UserError
            If one of them is no column of numbers.
        """
        for name in (x, y):
            if name not in self.numbers:
                raise UserError(f"no column of numbers {name!r}: there are {', '.join(self.numbers)}")
        ends = (x_ends or self._ends_of(x), y_ends or self._ends_of(y))
        cells = []
        for name, (low, high), bins in zip((x, y), ends, BINS, strict=True):
            value = f"({quoted(name)}::DOUBLE - {low!r})"
            cells.append(f"least({bins - 1}, floor({value} / {(high - low) / bins!r}))::INT")
        inside = [
            f"{quoted(name)} BETWEEN {low!r} AND {high!r}"
            for name, (low, high) in zip((x, y), ends, strict=True)
        ]
        where = " AND ".join([asked.condition(self.columns), *inside])
        table = self._counts(
            f"SELECT {cells[0]} AS i, {cells[1]} AS j, count(*) AS n FROM {ROWS} WHERE {where} GROUP BY i, j"
        )
        columns = (table[name].to_pylist() for name in ("i", "j", "n"))
        return RowsInPlane(ends[0], ends[1], BINS, list(zip(*columns, strict=True)))

    def rows(self, places: Sequence[CatalogRow]) -> list[dict[str, Any]]:
        """All columns of some rows and `PART_COLUMN`, in their order; of a repeated id the first row.

        Only the parts of these rows are read.
        """
        if not places:
            return []
        ids = _literals([place.object_id for place in places])
        if self._few:
            table = self._asked(f"SELECT * FROM {ROWS} WHERE object_id IN ({ids})")
        else:
            with self._files.some({place.part for place in places}) as files:
                # Ids that are numbers in these parts and text in others are text.
                one = f"object_id::{self.columns['object_id']}"
                table = self._asked(
                    f"SELECT * REPLACE ({one} AS object_id) FROM ({files}) WHERE {one} IN ({ids})"
                )
        found: dict[CatalogRow, dict[str, Any]] = {}
        for row in table.to_pylist():
            place = CatalogRow(row["object_id"], row[PART_COLUMN])
            if place not in found or found[place].get("status") == "duplicate_id":
                found[place] = row
        return [found[place] for place in places if place in found]

    def answer(self, sql: str) -> tuple[list[str], list[list[Any]], bool]:
        """Columns, the first rows, and whether there are more, of one SELECT of the table ``catalog``."""
        rows: list[list[Any]] = []
        given = ask(self._connection, sql)
        for batch in given.batches():
            rows += [list(row.values()) for row in batch.to_pylist()]
            if len(rows) > MOST_ANSWERED:
                break
        return list(given.schema.names), rows[:MOST_ANSWERED], len(rows) > MOST_ANSWERED

    def _features_of(self, asked: Asked) -> list[float] | None:
        """Of the galaxy that those of a list are to be like; None where they are to be like none."""
        if asked.order != SIMILAR or FEATURES not in self.columns:
            return None
        if asked.like is None:
            raise UserError("the order by likeness needs a galaxy: choose one, and press l")
        one = CatalogRow(self._id(asked.like.id), asked.like.part)
        found = self.rows([one])
        features = found[0].get(FEATURES) if found else None
        if features is None or not all(map(math.isfinite, features)):
            raise UserError(f"galaxy {asked.like.id} has no features: it was not classified")
        return [float(value) for value in features]

    def _id(self, text: str) -> Any:
        """An id as the catalog has it."""
        whole = self.columns["object_id"] != "VARCHAR" and text.lstrip("-").isdecimal()
        return int(text) if whole else text

    def _asked(self, sql: str) -> pa.Table:
        return ask(self._connection, sql).table()

    def _keep_only(self, catalog: str, only: pa.Table) -> None:
        """Take the wanted rows into memory: all questions are then of them."""
        wanted = pa.table(
            {
                "_id": only["object_id"],
                "_why": only["why"] if "why" in only.column_names else pa.nulls(only.num_rows, pa.string()),
                "_place": range(only.num_rows),
            }
        )
        self._connection.register("_wanted", wanted)
        first = "status IS DISTINCT FROM 'duplicate_id'" if "status" in self.fields else "true"
        parts = set(only["part"].to_pylist()) if "part" in only.column_names else self._files.names
        with self._files.some(parts) as files:
            self._connection.execute(
                f"CREATE TABLE {ROWS} AS SELECT * EXCLUDE (_id) FROM ({files}) JOIN _wanted "
                f"ON object_id::VARCHAR = _id WHERE {first}"
            )
        self._connection.unregister("_wanted")
        if not self._asked(f"SELECT count(*) AS n FROM {ROWS}")["n"][0].as_py():
            example = only["object_id"][0].as_py() if only.num_rows else None
            raise UserError(
                f"no object of the list (such as {example!r}) is in {catalog}: give a list of its ids"
            )

    def _ends_of(self, column: str) -> tuple[float, float]:
        """The smallest and largest finite value of all rows: an axis stays when filters change."""
        if column not in self._ends:
            name = quoted(column)
            kind = f"isfinite({name})" if self.columns[column] in FLOATS else "true"
            row = self._asked(f"SELECT min({name}) AS low, max({name}) AS high FROM {ROWS} WHERE {kind}")
            low, high = (row[end][0].as_py() for end in ("low", "high"))
            low, high = (0.0, 1.0) if low is None else (float(low), float(high))
            self._ends[column] = (low, high) if high > low else (low - 0.5, low + 0.5)
        return self._ends[column]


def _literals(ids: Sequence[Any]) -> str:
    """Ids in SQL, with commas between: integers or texts, as the catalog has them."""
    if all(isinstance(one, int) for one in ids):
        return ", ".join(str(one) for one in ids)
    return sql_texts([str(one) for one in ids])
