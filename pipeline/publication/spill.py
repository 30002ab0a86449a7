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

from hiwl_core.errors import UserError
from pipeline import storage
from pipeline.progress import progress
from pipeline.publication.hats_tiles import (
    INDEX_COLUMN,
    HatsCell,
    empty_cells,
    healpix_index,
    margin_order,
    margin_rows,
)
from pipeline.publication.part_rows import conform, positions, read_rows, unified
from pipeline.publication.publication_folder import Publication
from pipeline.publication.voparquet import text_widths
from pipeline.task_pool import TaskPool

__all__ = ["MAIN", "MARGIN", "UNPLACED", "Sky", "Spill", "plan_sky", "read_spilled", "split_parts"]

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
class _SplitTask:
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


def plan_sky(tiles: list[HatsCell], arcsec: float) -> tuple[Sky, list[HatsCell]]:
    """Where rows go, and the cells whose margins they go to.

    Parameters
    ----------
    tiles : list of HatsCell
    arcsec : float
        Width of the margins; 0 for none.

    Raises
    ------
    UserError
        If the margin is wider than the smallest tile.
    """
    starts, stops = (np.array([getattr(tile, end) for tile in tiles], np.int64) for end in ("start", "stop"))
    if not arcsec:
        return Sky(starts, stops), []
    order, highest = margin_order(arcsec), max(tile.order for tile in tiles)
    if order <= highest:
        raise UserError(
            f"--margin {arcsec:g} is too wide for tiles of order {highest}: choose a narrower one or more "
            "--max-rows, in another folder"
        )
    # Galaxies beside an empty cell matter too: what they are matched with may have rows there.
    cells = sorted([*tiles, *empty_cells(tiles)], key=lambda tile: tile.start)
    return Sky(starts, stops, np.array([cell.start for cell in cells], np.int64), order), cells


def split_parts(pool: TaskPool, publication: Publication, sky: Sky, rows: int) -> list[Spill]:
    """The spill files of all groups of parts; those that are there already are kept.

    Parameters
    ----------
    pool : TaskPool
    publication : Publication
    sky : Sky
        Where the rows go.
    rows : int
        In all parts.
    """
    groups = publication.groups
    files = [publication.spill_file(number) for number in range(len(groups))]
    spills = dict(enumerate(storage.in_threads(_read_spill, files)))
    todo = [number for number, spill in spills.items() if spill is None]
    tasks = [_SplitTask(number, groups[number], files[number], publication.making) for number in todo]
    done = sum(spill.rows for spill in spills.values() if spill is not None)
    with progress("sorting", rows, done, unit="rows") as advance:
        for index, spill in pool.run(_split_rows, tasks, sky):
            spills[todo[index]] = spill
            advance(spill.rows)
    return [spill for _, spill in sorted(spills.items()) if spill is not None]


def _split_rows(task: _SplitTask, sky: Sky) -> Spill:
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


def _read_spill(path: str) -> Spill | None:
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
