"""Groups of whole cutout shards, and how a group is read: in pieces, or as one table."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from hiwl_core.errors import words_of
from pipeline.shards.cutout_shards import MAX_SHARD_BYTES, MAX_SHARD_ROWS, Columns, is_tar, iter_rows
from pipeline.shards.fingerprints import ends_of, fingerprint

__all__ = [
    "FAILED_COLUMN",
    "FINGERPRINT_COLUMN",
    "LATER_COLUMN",
    "LEFT_OUT_COLUMN",
    "NOTES",
    "ROW_COLUMN",
    "SHARD_COLUMN",
    "SHARD_DAMAGE",
    "ShardToRead",
    "checked_rows",
    "group_shards",
    "iter_group",
    "join_groups",
    "read_group",
]

SHARD_COLUMN, ROW_COLUMN, FAILED_COLUMN = "_shard", "_row", "_failed"
"""Of each row: its shard's path, its number in the shard, and why the shard was not read to its end."""
LEFT_OUT_COLUMN, LATER_COLUMN, FINGERPRINT_COLUMN = "_left_out", "_later", "_fingerprint"
"""In a group read as one table: whether the row only stands for its shard, whether it does so just because
the table is full, and the state that was wanted."""
NOTES = [SHARD_COLUMN, ROW_COLUMN, FAILED_COLUMN, LEFT_OUT_COLUMN, LATER_COLUMN, FINGERPRINT_COLUMN]
"""What a group that was read as one table has beside the columns of its shards."""
SHARD_DAMAGE = (OSError, pa.ArrowException, tarfile.TarError, ValueError, KeyError, TypeError)
"""What reading a shard raises that is damaged, or whose store is away."""

# Files may be packed: rows that take more memory than this are let go, and left out.
MOST_UNPACKED_BYTES = 2 * MAX_SHARD_BYTES
# A task costs the driver six milliseconds of a core, and a worker that dies the work of one.
MOST_JOINED = 8


@dataclass(frozen=True)
class ShardToRead:
    """A shard and what is known of it.

    Parameters
    ----------
    path : str
    size : int
        Bytes.
    rows : int or None
        None if it was not opened, or is a tar.
    fingerprint : str
        Of the state that is wanted, or empty; see `pipeline.shards.fingerprints.fingerprint`.
    """

    path: str
    size: int
    rows: int | None = None
    fingerprint: str = ""

    @property
    def small(self) -> bool:
        """Whether all its rows may be held at once, by what is known before it is read."""
        return self.size <= MAX_SHARD_BYTES and not is_tar(self.path)


def group_shards(shards: Sequence[ShardToRead], tasks: int) -> list[list[ShardToRead]]:
    """Shards by the groups in which they are read, in order.

    A task and its first and last batches cost some tenths of a second, so that small shards go together, up
    to the rows or bytes of a large one. A tar may hold any number of rows: it is a group of its own.

    Parameters
    ----------
    shards : sequence of ShardToRead
    tasks : int
        Groups that are wanted at least, lest one of several readers be left with all the work.
    """
    most_rows, most_bytes = MAX_SHARD_ROWS, MAX_SHARD_BYTES
    if tasks > 1:
        rows_known = sum(shard.rows or 0 for shard in shards)
        most_rows = min(most_rows, rows_known // tasks)
        if not rows_known:
            most_bytes = min(most_bytes, sum(shard.size for shard in shards) // tasks)
    groups: list[list[ShardToRead]] = []
    rows = size = 0
    for shard in shards:
        full = rows + (shard.rows or 0) > most_rows or size + shard.size > most_bytes
        if not groups or full or not shard.small or not groups[-1][-1].small:
            groups.append([])
            rows = size = 0
        groups[-1].append(shard)
        rows += shard.rows or 0
        size += shard.size
    return groups


def join_groups(groups: Sequence[list[ShardToRead]], least: int) -> list[list[ShardToRead]]:
    """Some groups after each other as one, where there are very many: what a task costs the driver adds up.

    Parameters
    ----------
    groups : sequence of list of ShardToRead
        From `group_shards`.
    least : int
        Groups that are wanted at least, lest readers wait for the last of them.
    """
    together = max(1, min(MOST_JOINED, len(groups) // max(1, least)))
    return [
        [shard for group in groups[start : start + together] for shard in group]
        for start in range(0, len(groups), together)
    ]


def checked_rows(
    shard: ShardToRead, columns: Columns, wanted: Sequence[str], carry: Sequence[str]
) -> Iterator[pa.Table]:
    """The rows of a shard as `iter_rows` gives them, if it is in the state that is wanted.

    Raises
    ------
    ValueError
        If it is not, or after the last of them if they are not as many as were planned. What else is raised
        is one of `SHARD_DAMAGE`.
    """
    if shard.fingerprint and fingerprint(shard.path) != ends_of(shard.fingerprint):
        raise ValueError("the shard changed after the catalog was planned; start the same command again")
    came = 0
    for table in iter_rows(shard.path, columns, wanted, carry):
        came += table.num_rows
        yield table
    if shard.rows is not None and came != shard.rows:
        raise ValueError(f"{came} rows were read of the {shard.rows} that were planned")


def iter_group(
    group: Sequence[ShardToRead], columns: Columns, wanted: Sequence[str], carry: Sequence[str]
) -> Iterator[pa.Table]:
    """The rows of a group, some at a time, each with `SHARD_COLUMN`, `ROW_COLUMN` and `FAILED_COLUMN`.

    The last row of a shard that could not be read to its end says why, and has nothing else.
    """
    nothing = pa.schema([(name, pa.null()) for name in [*wanted, *carry]])
    for shard in group:
        row = 0
        try:
            for table in checked_rows(shard, columns, wanted, carry):
                yield _marked(table, shard, row)
                row += table.num_rows
        except SHARD_DAMAGE as error:
            yield _note(nothing, shard, _reason(error))


def read_group(
    group: Sequence[ShardToRead],
    columns: Columns,
    wanted: Sequence[str],
    carry: Sequence[str],
    may_read: Callable[[list[str]], bool] | None = None,
) -> Iterator[pa.Table]:
    """A group as one table, in the order of its shards.

    A shard that is too large to be held, is a tar, has no rows, or rows of other types than those before it,
    or that cannot be read, is one row: with `LEFT_OUT_COLUMN` true, and `FAILED_COLUMN` if it was damaged. So
    are those from the first on for which the table has no room; they have `LATER_COLUMN` true.

    Parameters
    ----------
    group, columns, wanted, carry
        See `iter_group`.
    may_read : callable, optional
        Called with the shards' paths, before the first is opened. If it says no, all are left out.
    """
    may = may_read is None or may_read([shard.path for shard in group])
    schema: pa.Schema | None = None
    read: list[tuple[ShardToRead, list[pa.Table], str | None, bool]] = []
    rows = size = 0
    full = False
    for shard in group:
        tables: list[pa.Table] = []
        failed = None
        here = may and shard.small
        more_rows, more_size = rows + (shard.rows or 0), size + shard.size
        full = full or (here and size > 0 and (more_rows > MAX_SHARD_ROWS or more_size > MAX_SHARD_BYTES))
        if here and not full:
            rows, size = more_rows, more_size
            tables, failed = _held(shard, columns, wanted, carry, schema)
        if tables:
            schema = tables[0].schema
        read.append((shard, tables, failed, here and full))
    found = []
    for shard, tables, failed, later in read:
        left_out = not tables
        row = 0
        for table in tables:
            found.append(_annotated(_marked(table, shard, row), shard, left_out, later))
            row += table.num_rows
        if left_out:
            found.append(_annotated(_note(schema or pa.schema([]), shard, failed), shard, left_out, later))
    yield pa.concat_tables(found)


def _held(
    shard: ShardToRead,
    columns: Columns,
    wanted: Sequence[str],
    carry: Sequence[str],
    schema: pa.Schema | None,
) -> tuple[list[pa.Table], str | None]:
    """All rows of a shard, and nothing of it if it has to be left out, perhaps with a reason."""
    tables: list[pa.Table] = []
    size = 0
    try:
        for table in checked_rows(shard, columns, wanted, carry):
            size += table.nbytes
            schema = schema or table.schema
            if size > MOST_UNPACKED_BYTES or table.schema != schema or not table.num_rows:
                return [], None
            tables.append(table)
    except SHARD_DAMAGE as error:
        return [], _reason(error)
    return tables, None


def _marked(table: pa.Table, shard: ShardToRead, first: int) -> pa.Table:
    numbers = pa.array(np.arange(first, first + table.num_rows, dtype=np.int64))
    table = table.append_column(SHARD_COLUMN, _repeated(shard.path, table.num_rows))
    table = table.append_column(ROW_COLUMN, numbers)
    return table.append_column(FAILED_COLUMN, pa.nulls(table.num_rows, pa.string()))


def _note(schema: pa.Schema, shard: ShardToRead, failed: str | None) -> pa.Table:
    """A row that stands for a shard, or for the rest of it."""
    columns: dict[str, Any] = {field.name: pa.nulls(1, field.type) for field in schema}
    columns[SHARD_COLUMN] = _repeated(shard.path, 1)
    columns[ROW_COLUMN] = pa.nulls(1, pa.int64())
    columns[FAILED_COLUMN] = pa.array([failed], pa.string())
    return pa.table(columns)


def _annotated(table: pa.Table, shard: ShardToRead, left_out: bool, later: bool) -> pa.Table:
    table = table.append_column(LEFT_OUT_COLUMN, pa.array([left_out] * table.num_rows))
    table = table.append_column(LATER_COLUMN, pa.array([later] * table.num_rows))
    return table.append_column(FINGERPRINT_COLUMN, _repeated(shard.fingerprint, table.num_rows))


def _repeated(text: str, rows: int) -> pa.Array:
    """One text for all rows, held once."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([text]))


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {words_of(error, 300)}"
