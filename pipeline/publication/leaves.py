"""The last pass of a publication: a tile's rows, gathered from the spill files and written as hats does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.progress import progress
from pipeline.publication.hats_tiles import INDEX_COLUMN, HatsCell
from pipeline.publication.part_rows import conform, unified
from pipeline.publication.publication_folder import Publication
from pipeline.publication.spill import MAIN, MARGIN, UNPLACED, Spill, read_spilled
from pipeline.publication.voparquet import is_plain_text, with_votable
from pipeline.task_pool import TaskPool

__all__ = ["Leaves", "write_leaves"]

INDEX_FIELD = pa.field(
    INDEX_COLUMN,
    pa.int64(),
    metadata={"unit": "", "ucd": "pos.healpix", "description": "HEALPix cell of order 29, nested"},
)
ROWS_A_ROW_GROUP = 100_000
PAGE_BYTES = 128 * 1024
DIGITS_OF_AN_INTEGER = 20


@dataclass(frozen=True)
class _LeafTask:
    """A leaf to write: its place, and where its rows are."""

    path: str
    rows: int
    runs: list[tuple[str, int, int]]


@dataclass(frozen=True)
class Leaf:
    """A leaf that is there."""

    path: str
    size: int
    footer: pq.FileMetaData


def _write_leaf(task: _LeafTask, schema: pa.Schema) -> Leaf:
    """Write a leaf from its runs, sorted by place if it has the column for it."""
    pieces = storage.in_threads(read_spilled, task.runs)
    table = pa.concat_tables([conform(piece, schema) for piece in pieces])
    if INDEX_COLUMN in schema.names:
        # Stable, and the runs come in the order of the parts: the result does not depend on their grouping.
        table = table.take(np.argsort(table[INDEX_COLUMN].to_numpy(), kind="stable"))
    if table.num_rows != task.rows:
        raise RuntimeError(f"{task.path}: {table.num_rows} rows where {task.rows} were counted")
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **_writer_settings(schema))
    content = sink.getvalue().to_pybytes()
    storage.write_bytes(task.path, content)
    return Leaf(task.path, len(content), pq.read_metadata(pa.BufferReader(content)))


def _read_footer(path: str) -> Leaf | None:
    """A leaf that an earlier run wrote; None if it is not one."""
    try:
        with storage.open_input(path) as file:
            footer = pq.read_metadata(file)
            return Leaf(path, file.seek(0, 2), footer)
    except pa.ArrowInvalid:
        return None


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
        # hats has 15, which takes several times as long for files that are some percent smaller.
        "compression_level": 9,
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


@dataclass(frozen=True)
class Leaves:
    """The files of a publication that hold rows.

    Parameters
    ----------
    by_kind : dict
        Leaves by their numbers, by their kinds.
    schema : pyarrow.Schema
        Of those with a position.
    kept : int
        Leaves that were there already.
    """

    by_kind: dict[str, dict[int, Leaf]]
    schema: pa.Schema
    kept: int

    def rows(self, kind: str) -> int:
        """Rows in all leaves of a kind, by their footers."""
        return sum(leaf.footer.num_rows for leaf in self.by_kind[kind].values())

    def of(self, kind: str, tiles: Sequence[HatsCell]) -> list[tuple[HatsCell, pq.FileMetaData, int]]:
        """Tile, footer and bytes of all leaves of a kind."""
        return [(tiles[key], leaf.footer, leaf.size) for key, leaf in self.by_kind[kind].items()]


def write_leaves(
    pool: TaskPool,
    publication: Publication,
    spills: Sequence[Spill],
    tiles: list[HatsCell],
    cells: list[HatsCell],
) -> Leaves:
    """Write the leaves of all tiles; those that are there already, with the right number of rows, are kept.

    Parameters
    ----------
    pool : TaskPool
    publication : Publication
    spills : sequence of Spill
    tiles, cells : list of HatsCell
        What the runs of the kinds ``main`` and ``margin`` are numbered by.
    """
    tasks = _leaf_tasks(publication, spills, tiles, cells)
    schema = unified([spill.schema for spill in spills], [spill.path for spill in spills])
    widths = _widths(schema, spills)
    schemas = {
        True: with_votable(pa.schema([INDEX_FIELD, *schema]), publication.name, widths),
        False: with_votable(schema, UNPLACED, widths),
    }
    leaves: dict[str, dict[int, Leaf]] = {MAIN: {}, MARGIN: {}, UNPLACED: {}}
    kept = _kept(publication, tasks)
    for (kind, key), leaf in kept.items():
        leaves[kind][key] = leaf
    total = sum(task.rows for task in tasks.values())
    done = sum(leaf.footer.num_rows for leaf in kept.values())
    with progress("writing tiles", total, done, unit="rows") as advance:
        for placed, its_schema in schemas.items():
            # The largest first, so that none of them is alone at the end.
            todo = sorted(
                (name for name in tasks if name not in kept and (name[0] != UNPLACED) == placed),
                key=lambda name: -tasks[name].rows,
            )
            for index, leaf in pool.run(_write_leaf, [tasks[name] for name in todo], its_schema):
                kind, key = todo[index]
                leaves[kind][key] = leaf
                advance(leaf.footer.num_rows)
    return Leaves(leaves, schemas[True], len(kept))


def _leaf_tasks(
    publication: Publication, spills: Sequence[Spill], tiles: list[HatsCell], cells: list[HatsCell]
) -> dict[tuple[str, int], _LeafTask]:
    def place(kind: str, key: int) -> str:
        if kind == UNPLACED:
            return publication.no_position_file(key)
        folder, tile = (publication.catalog, tiles[key]) if kind == MAIN else (publication.margin, cells[key])
        return f"{folder}/dataset/{tile.path}"

    rows: dict[tuple[str, int], int] = {}
    runs: dict[tuple[str, int], list[tuple[str, int, int]]] = {}
    for spill in spills:
        for run in spill.runs:
            name = run.kind, run.key
            rows[name] = rows.get(name, 0) + run.rows
            runs.setdefault(name, []).append((spill.path, run.start, run.length))
    return {name: _LeafTask(place(*name), rows[name], runs[name]) for name in rows}


def _kept(
    publication: Publication, tasks: Mapping[tuple[str, int], _LeafTask]
) -> dict[tuple[str, int], Leaf]:
    """The leaves of an earlier run that are as they should be."""
    there = {entry.path for entry in storage.iter_entries(publication.path)}
    names = [name for name, task in tasks.items() if task.path in there]
    found = storage.in_threads(_read_footer, [tasks[name].path for name in names])
    return {
        name: leaf
        for name, leaf in zip(names, found, strict=True)
        if leaf is not None and leaf.footer.num_rows == tasks[name].rows
    }


def _widths(schema: pa.Schema, spills: Sequence[Spill]) -> dict[str, int]:
    """Widths of the text columns; ids that are integers in some parts have their digits there."""
    return {
        field.name: max(
            spill.widths.get(field.name, DIGITS_OF_AN_INTEGER if field.name in spill.schema.names else 1)
            for spill in spills
        )
        for field in schema
        if is_plain_text(field.type)
    }
