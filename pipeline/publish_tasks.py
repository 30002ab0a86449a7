"""The three tasks of a publication, each on a few files: count, split, write a tile.

**Count** a group of parts: how many rows lie in each cell of the sky. **Split** a group: its rows, sorted by
place, go to one spill file as a run for each tile. **Write** a tile: gather its runs from the spill files,
sort them and write the leaf. No row comes back to the driver.

A run is an Arrow IPC stream; the index beside the spill file says where each of them lies, so that a tile is
read with one request a spill file. A spill whose index is there is whole.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hiwl_core.errors import UserError
from pipeline import storage
from pipeline.hats_tiles import INDEX_COLUMN, INDEX_ORDER, has_position, healpix_index, margin_rows
from pipeline.voparquet import text_widths

__all__ = [
    "CellCounts",
    "CountTask",
    "Leaf",
    "LeafTask",
    "Run",
    "Sky",
    "Spill",
    "SplitTask",
    "count_rows",
    "read_footer",
    "read_spill",
    "split_rows",
    "unified",
    "write_leaf",
]

MAIN, MARGIN, NO_POSITION = "main", "margin", "no_position"
INDEX_FIELD = pa.field(
    INDEX_COLUMN,
    pa.int64(),
    metadata={"unit": "", "ucd": "pos.healpix", "description": "HEALPix cell of order 29, nested"},
)
ROWS_A_ROW_GROUP = 100_000
PAGE_BYTES = 128 * 1024


@dataclass(frozen=True)
class CountTask:
    """Parts to count; with `within`, sorted order-10 cells, only their rows and more finely."""

    parts: list[str]
    order: int
    within: np.ndarray | None = None


@dataclass(frozen=True)
class CellCounts:
    """Rows of a group of parts, those without a position, and the counts of the cells that have any."""

    rows: int
    without_position: int
    cells: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True)
class Sky:
    """Where rows go: to tiles and, if there is a margin, to the margins of cells that cover the sky.

    Parameters
    ----------
    starts, stops : numpy.ndarray of int64
        Ranges of order-29 cells of the tiles, in rising order.
    margin_starts : numpy.ndarray of int64 or None
        The first order-29 cells of the tiles and of the empty cells between them.
    margin_order : int
    """

    starts: np.ndarray
    stops: np.ndarray
    margin_starts: np.ndarray | None = None
    margin_order: int = 0


@dataclass(frozen=True)
class SplitTask:
    """A group of parts, its number and the spill file that its rows go to."""

    number: int
    parts: list[str]
    spill: str


@dataclass(frozen=True)
class Run:
    """Rows in a spill file: those of a tile, of a cell's margin, or without a position.

    The key is the number of the tile or of the cell; without a position, of the group of parts: all such rows
    together may be more than a task should hold.
    """

    kind: str
    key: int
    start: int
    length: int
    rows: int


@dataclass(frozen=True)
class Spill:
    """What a spill file holds.

    Parameters
    ----------
    path : str
    rows : int
        Of the parts: each is in one run of the kinds ``main`` and ``no_position`` together.
    widths : dict of str to int
        The longest text of each text column.
    schema : pyarrow.Schema
        Of the parts.
    runs : list of Run
    """

    path: str
    rows: int
    widths: dict[str, int]
    schema: pa.Schema
    runs: list[Run]


@dataclass(frozen=True)
class LeafTask:
    """A leaf to write: its place, and where its rows are."""

    path: str
    rows: int
    runs: list[tuple[str, int, int]] = field(default_factory=list)


@dataclass(frozen=True)
class Leaf:
    """A leaf that is there."""

    path: str
    size: int
    footer: pq.FileMetaData


def count_rows(task: CountTask, _: None = None) -> CellCounts:
    """Count the rows of some parts by cell."""
    shift = 2 * (INDEX_ORDER - task.order)
    rows = without = 0
    found = []
    for table in storage.in_threads(_read_positions, task.parts):
        ra, dec, placed = _positions(table)
        rows, without = rows + len(placed), without + int((~placed).sum())
        index = healpix_index(ra[placed], dec[placed])
        if task.within is not None:
            index = index[np.isin(index >> (2 * (INDEX_ORDER - 10)), task.within)]
        found.append(index >> shift)
    cells, counts = np.unique(np.concatenate(found), return_counts=True)
    return CellCounts(rows, without, cells, counts)


def split_rows(task: SplitTask, sky: Sky) -> Spill:
    """Sort the rows of some parts into a spill file."""
    tables = list(storage.in_threads(_read_part, task.parts))
    schema = unified([table.schema for table in tables], task.parts)
    table = pa.concat_tables([conform(table, schema) for table in tables]).combine_chunks()
    del tables
    ra, dec, placed = _positions(table)
    places = np.flatnonzero(placed)
    index = healpix_index(ra[places], dec[places])
    order = np.argsort(index, kind="stable")
    index, places = index[order], places[order]
    spilled = table.schema.remove_metadata()
    sink = pa.BufferOutputStream()
    runs: list[Run] = []

    def add(kind: str, key: int, rows: pa.Table) -> None:
        start = sink.tell()
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with pa.ipc.new_stream(sink, rows.schema, options=options) as stream:
            stream.write_table(rows)
        runs.append(Run(kind, key, start, sink.tell() - start, rows.num_rows))

    placed_rows = pa.table(
        {INDEX_COLUMN: index, **{name: table[name].take(places) for name in spilled.names}}
    ).combine_chunks()
    bounds = zip(np.searchsorted(index, sky.starts), np.searchsorted(index, sky.stops), strict=True)
    for key, (first, last) in enumerate(bounds):
        if last > first:
            add(MAIN, key, placed_rows.slice(first, last - first))
    if sky.margin_starts is not None:
        rows, cells = margin_rows(index, sky.margin_starts, sky.margin_order)
        keys, firsts = np.unique(cells, return_index=True)
        for key, chosen in zip(keys, np.split(rows, firsts[1:]), strict=True):
            add(MARGIN, int(key), placed_rows.take(chosen))
    if not placed.all():
        add(NO_POSITION, task.number, table.filter(pa.array(~placed)).cast(spilled))

    storage.write_bytes(task.spill, sink.getvalue())
    spill = Spill(task.spill, table.num_rows, text_widths(table), schema, runs)
    storage.write_bytes(_index_path(task.spill), _encode_index(spill))
    return spill


def read_spill(path: str) -> Spill | None:
    """What a spill file of an earlier run holds; None if it is not whole."""
    if not storage.exists(_index_path(path)):
        return None
    said = json.loads(storage.read_bytes(_index_path(path)))
    schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(said["schema"])))
    return Spill(path, said["rows"], said["widths"], schema, [Run(**run) for run in said["runs"]])


def write_leaf(task: LeafTask, schema: pa.Schema) -> Leaf:
    """Write a leaf from its runs, sorted by place if it has the column for it."""
    pieces = storage.in_threads(_read_run, task.runs)
    table = pa.concat_tables([conform(piece, schema) for piece in pieces])
    if INDEX_COLUMN in schema.names:
        # Stable, and the runs come in the order of the parts: the result does not depend on their grouping.
        table = table.take(np.argsort(table[INDEX_COLUMN].to_numpy(), kind="stable"))
    if table.num_rows != task.rows:
        raise RuntimeError(f"{task.path}: {table.num_rows} rows where {task.rows} were counted")
    sink = pa.BufferOutputStream()
    footers: list[pq.FileMetaData] = []
    pq.write_table(table, sink, metadata_collector=footers, **_writer_settings(schema))
    content = sink.getvalue()
    storage.write_bytes(task.path, content)
    return Leaf(task.path, content.size, pq.read_metadata(pa.BufferReader(content)))


def read_footer(path: str) -> Leaf | None:
    """A leaf that an earlier run wrote; None if it is not one."""
    try:
        with storage.open_input(path) as file:
            footer = pq.read_metadata(file)
            return Leaf(path, file.seek(0, 2), footer)
    except pa.ArrowInvalid:
        return None


def unified(schemas: Sequence[pa.Schema], places: Sequence[str]) -> pa.Schema:
    """The schema that the rows of all schemas fit in.

    Raises
    ------
    UserError
        If a column has types that do not go together; object ids that are integers here and text there become
        text.
    """
    merged = schemas[0]
    for schema, place in zip(schemas[1:], places[1:], strict=True):
        if schema.equals(merged):
            continue
        for name in set(merged.names) & set(schema.names):
            old, new = merged.field(name), schema.field(name)
            if name == "object_id" and old.type != new.type:
                text = old.with_type(pa.string())
                merged = merged.set(merged.get_field_index(name), text)
                schema = schema.set(schema.get_field_index(name), text)
        try:
            merged = pa.unify_schemas([merged, schema], promote_options="permissive")
        except pa.ArrowException as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{place} has a column of another type than {places[0]} ({reason}): classify its shard again "
                "with a column of one type"
            ) from None
    return merged.remove_metadata()


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table's rows with the columns of a schema; those it does not have are null."""
    columns = [
        table[field.name].cast(field.type)
        if field.name in table.column_names
        else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _positions(table: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ra, dec = (
        pc.fill_null(table[name].cast(pa.float64()), float("nan")).to_numpy() for name in ("ra", "dec")
    )
    return ra, dec, has_position(ra, dec)


def _read_positions(path: str) -> pa.Table:
    with _readable(path), storage.open_input(path) as file:
        return pq.ParquetFile(file).read(columns=["ra", "dec"])


def _read_part(path: str) -> pa.Table:
    with _readable(path):
        table = pq.ParquetFile(pa.BufferReader(storage.read_bytes(path))).read(use_threads=False)
        return table.replace_schema_metadata(None)


@contextmanager
def _readable(path: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowKeyError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path} is not a whole part of a catalog ({reason}): remove it and classify its shard again"
        ) from None


def _read_run(run: tuple[str, int, int]) -> pa.Table:
    path, start, length = run
    with storage.open_input(path) as file:
        file.seek(start)
        content = file.read(length)
    return pa.ipc.open_stream(pa.py_buffer(content)).read_all()


def _writer_settings(schema: pa.Schema) -> dict[str, object]:
    """As hats writes its leaves (``hats.io.file_io.get_parquet_write_table_kwargs``)."""
    encodings = {
        path: "BYTE_STREAM_SPLIT" for path, kind in _leaf_columns(schema) if pa.types.is_floating(kind)
    }
    sorting = None
    if INDEX_COLUMN in schema.names:
        encodings[INDEX_COLUMN] = "DELTA_BINARY_PACKED"
        sorting = [pq.SortingColumn(schema.get_field_index(INDEX_COLUMN))]
    return {
        "row_group_size": ROWS_A_ROW_GROUP,
        "compression": "zstd",
        "compression_level": 15,
        "column_encoding": encodings,
        "use_dictionary": [path for path, _ in _leaf_columns(schema) if path not in encodings],
        "data_page_size": PAGE_BYTES,
        "dictionary_pagesize_limit": PAGE_BYTES,
        "write_statistics": True,
        "write_page_index": True,
        "sorting_columns": sorting,
    }


def _leaf_columns(schema: pa.Schema) -> Iterator[tuple[str, pa.DataType]]:
    """Parquet's own columns, with their dotted paths: those inside lists and structs too."""

    def walk(kind: pa.DataType, path: str) -> Iterator[tuple[str, pa.DataType]]:
        if pa.types.is_struct(kind):
            for inner in kind:
                yield from walk(inner.type, f"{path}.{inner.name}")
        elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            yield from walk(kind.value_type, f"{path}.list.element")
        else:
            yield path, kind

    for column in schema:
        yield from walk(column.type, column.name)


def _index_path(spill: str) -> str:
    return f"{spill}.json"


def _encode_index(spill: Spill) -> bytes:
    schema = base64.b64encode(spill.schema.serialize()).decode()
    runs = [asdict(run) for run in spill.runs]
    return json.dumps({"rows": spill.rows, "widths": spill.widths, "schema": schema, "runs": runs}).encode()
