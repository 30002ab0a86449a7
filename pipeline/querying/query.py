"""SQL on a catalog, read-only: DuckDB over its Parquet files, wherever they are.

Nothing of the machine is open to a statement but the catalog: DuckDB gets the rows from Arrow and may not
touch files itself.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

from hiwl_core.errors import IncompleteError, UserError
from pipeline.in_notebooks import ROWS_SHOWN
from pipeline.querying.cone import Cone
from pipeline.querying.files import PART_COLUMN, find_catalog, scan
from pipeline.querying.validated_columns import sql_texts
from pipeline.storage.retries import is_transient

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ROWS", "Answer", "ask", "connect", "errors_in_words", "open_catalog", "query"]

EVERYTHING = "SELECT * FROM catalog"
# The rows with the names of their files, below the view that users see.
ROWS = "_rows"
KINDS = ("SELECT", "EXPLAIN", "MULTI")  # MULTI is how DuckDB parses PIVOT
BATCH_ROWS = 65536


class Answer:
    """The rows that a statement gives, read a batch at a time; or, as in a notebook, all at once.

    Parameters
    ----------
    relation : duckdb.DuckDBPyRelation
    described : mapping of str to pyarrow.Field
        Columns with units, UCDs and descriptions: the answer's columns of these names and types get them.
    """

    def __init__(self, relation: duckdb.DuckDBPyRelation, described: Mapping[str, pa.Field]) -> None:
        with errors_in_words():
            self._reader = relation.to_arrow_reader(BATCH_ROWS)
        self.schema = pa.schema(
            field.with_metadata(described[field.name].metadata)
            if field.name in described and described[field.name].type == field.type
            else field
            for field in self._reader.schema
        )

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows, once."""
        while True:
            with errors_in_words():
                try:
                    batch = self._reader.read_next_batch()
                except StopIteration:
                    return
            yield pa.RecordBatch.from_arrays(batch.columns, schema=self.schema)

    def table(self) -> pa.Table:
        """All rows at once."""
        return self._table

    def df(self) -> pd.DataFrame:
        """All rows at once, for pandas."""
        return self._table.to_pandas()

    @cached_property
    def _table(self) -> pa.Table:
        return pa.Table.from_batches(list(self.batches()), self.schema)

    def __repr__(self) -> str:
        return f"<Answer: {', '.join(self.schema.names)}>"

    def _repr_html_(self) -> str:
        more = len(self._table) - ROWS_SHOWN
        rows = self._table.slice(0, ROWS_SHOWN).to_pandas().to_html(border=0, index=False)
        return rows + (f"<p>and {more:,} more rows</p>" if more > 0 else "")


def open_catalog(catalog: str, cone: Cone | None = None) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection with a catalog as the table ``catalog``, for notebooks.

    Parameters
    ----------
    catalog : str
        The folder of a catalog or of its published form, or a file or a glob of parts; local or a URL.
    cone : Cone, optional
        Only the rows in it.

    Returns
    -------
    duckdb.DuckDBPyConnection
        In memory and without access to files: what SQL does there changes no catalog.

    Raises
    ------
    UserError
        If there is no catalog, or a cone is asked of one without positions.

    Examples
    --------
    >>> open_catalog("catalog").sql("SELECT label, count(*) FROM catalog GROUP BY label").df()
    """
    return _open(catalog, cone)[0]


def connect(readable: Sequence[str] = ()) -> duckdb.DuckDBPyConnection:
    """An empty DuckDB in memory, which may touch no file of the machine but some that are named.

    Parameters
    ----------
    readable : sequence of str
        Absolute local paths. A statement other than a SELECT could write them too: only `ask` them.
    """
    # What does not fit into memory is written here, and DuckDB lets SQL at this folder too: so it is one that
    # nobody else has. DuckDB makes it when it needs it, and removes it.
    spill = os.path.join(tempfile.gettempdir(), f"hiwl-query-{secrets.token_hex(8)}")
    connection = duckdb.connect(config={"temp_directory": spill})
    if readable:
        # Footers are read once, and not with each question.
        connection.execute("SET parquet_metadata_cache = true")
        connection.execute(f"SET allowed_paths = [{sql_texts(readable)}]")
    connection.execute("SET enable_external_access = false")
    return connection


def query(catalog: str, sql: str | None = None, cone: Cone | None = None) -> Answer:
    """Ask a catalog.

    Parameters
    ----------
    catalog : str
        See `open_catalog`.
    sql : str, optional
        One SELECT of the table ``catalog``; all of it by default.
    cone : Cone, optional
        Only the rows in it are in the table.

    Raises
    ------
    UserError
        If there is no such catalog, if the statement is not one SELECT, or with DuckDB's words on it.
    """
    connection, described = _open(catalog, cone)
    return ask(connection, EVERYTHING if sql is None else sql, described)


def ask(
    connection: duckdb.DuckDBPyConnection, sql: str, described: Mapping[str, pa.Field] | None = None
) -> Answer:
    """The answer to one SELECT on an open catalog; see `query`."""
    _check_statement(connection, sql)
    with errors_in_words():
        relation = connection.sql(sql)
    return Answer(relation, described or {})


@contextmanager
def errors_in_words() -> Iterator[None]:
    """Give errors of DuckDB, and of Arrow on its behalf, in one line.

    Raises
    ------
    UserError
        For a mistake in the statement.
    IncompleteError
        If files could not be read, or memory was too small.
    """
    try:
        yield
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        # DuckDB quotes the line with the mistake after an empty line.
        words = " ".join(str(error).split("\n\nLINE ")[0].split())
        machine = (duckdb.IOException, duckdb.OutOfMemoryException, duckdb.HTTPException)
        if (
            isinstance(error, machine)
            or is_transient(error)
            or words.startswith(("IO Error", "Out of Memory Error"))
        ):
            raise IncompleteError(words) from None
        raise UserError(words) from None


def _open(catalog: str, cone: Cone | None) -> tuple[duckdb.DuckDBPyConnection, dict[str, pa.Field]]:
    files = find_catalog(catalog)
    datasets = scan(files.within(cone) if cone is not None else files)
    described: dict[str, pa.Field] = {}
    for dataset in datasets:
        described = {**{field.name: field for field in dataset.schema}, **described}
    if cone is not None and not {"ra", "dec"} <= set(described):
        raise UserError(f"no columns 'ra' and 'dec' in {catalog!r}: a cone needs positions")
    connection = connect()
    selects = []
    for index, dataset in enumerate(datasets):
        connection.register(f"{ROWS}{index}", dataset)
        selects.append(f"SELECT * FROM {ROWS}{index}")
    # Ids that are numbers in some parts and text in others become text.
    connection.execute(f"CREATE VIEW {ROWS} AS {' UNION ALL BY NAME '.join(selects)}")
    where = f" WHERE {cone.condition()}" if cone is not None else ""
    connection.execute(f"CREATE VIEW catalog AS SELECT * EXCLUDE ({PART_COLUMN}) FROM {ROWS}{where}")
    return connection, described


def _check_statement(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    with errors_in_words():
        statements = connection.extract_statements(sql)
    if len(statements) != 1:
        raise UserError(f"{len(statements)} statements in the SQL: give one SELECT")
    kind = statements[0].type.name
    if kind not in KINDS:
        raise UserError(f"a query only reads: give a SELECT, not {kind}")
