"""The leaf files of a publication: a tile's rows, gathered from the spill files and written as hats does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.publication.hats_tiles import INDEX_COLUMN
from pipeline.publication.parts import conform
from pipeline.publication.spill import read_spilled

__all__ = ["INDEX_FIELD", "Leaf", "LeafTask", "read_footer", "write_leaf"]

INDEX_FIELD = pa.field(
    INDEX_COLUMN,
    pa.int64(),
    metadata={"unit": "", "ucd": "pos.healpix", "description": "HEALPix cell of order 29, nested"},
)
ROWS_A_ROW_GROUP = 100_000
PAGE_BYTES = 128 * 1024


@dataclass(frozen=True)
class LeafTask:
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


def write_leaf(task: LeafTask, schema: pa.Schema) -> Leaf:
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


def read_footer(path: str) -> Leaf | None:
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
