"""Spill files: the rows of a group of parts, sorted by place, a run for each tile that they go to.

A run is an Arrow IPC stream; the index beside the spill file says where each of them lies, so that a tile is
gathered with one request a spill file. A spill whose index is there is whole.
"""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import pyarrow as pa

from pipeline import storage
from pipeline.publication.hats_tiles import INDEX_COLUMN, healpix_index, margin_rows
from pipeline.publication.parts import conform, positions, read_rows, unified
from pipeline.publication.voparquet import text_widths

__all__ = [
    "MAIN",
    "MARGIN",
    "UNPLACED",
    "Run",
    "Sky",
    "Spill",
    "SplitTask",
    "read_spill",
    "read_spilled",
    "split_rows",
]

MAIN, MARGIN, UNPLACED = "main", "margin", "no_position"


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
    """A group of parts, its number, the spill file that its rows go to, and what all were made by."""

    number: int
    parts: list[str]
    spill: str
    making: str = ""


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


def split_rows(task: SplitTask, sky: Sky) -> Spill:
    """Sort the rows of some parts into a spill file."""
    tables = list(storage.in_threads(partial(read_rows, making=task.making), task.parts))
    schema = unified([table.schema for table in tables], task.parts)
    table = pa.concat_tables([conform(table, schema) for table in tables]).combine_chunks()
    del tables
    ra, dec, placed = positions(table)
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
        for key, chosen in zip(keys, np.split(rows, firsts)[1:], strict=True):
            add(MARGIN, int(key), placed_rows.take(chosen))
    if not placed.all():
        add(UNPLACED, task.number, table.filter(pa.array(~placed)).cast(spilled))

    storage.write_bytes(task.spill, sink.getvalue().to_pybytes())
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


def read_spilled(run: tuple[str, int, int]) -> pa.Table:
    """The rows of a run, by its file, its first byte and its length."""
    path, start, length = run
    with storage.open_input(path) as file:
        file.seek(start)
        content = file.read(length)
    return pa.ipc.open_stream(pa.py_buffer(content)).read_all()


def _index_path(spill: str) -> str:
    return f"{spill}.json"


def _encode_index(spill: Spill) -> bytes:
    schema = base64.b64encode(spill.schema.serialize()).decode()
    runs = [asdict(run) for run in spill.runs]
    return json.dumps({"rows": spill.rows, "widths": spill.widths, "schema": schema, "runs": runs}).encode()
