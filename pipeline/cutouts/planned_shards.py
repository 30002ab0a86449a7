"""Which cutouts are in one shard: those of the same tiles, so that a task reads its tiles once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from hiwl_core.stamps import StampSettings
from pipeline.cutouts.assignment import Assignment
from pipeline.cutouts.tiles import Tile
from pipeline.ingestion.shard_plan import cut_shards

__all__ = ["CUTOUTS", "iter_planned"]

CUTOUTS, STITCHED = "cutouts", "stitched"
PIECES_BYTES = 256 * 2**20
"""Of the parts of tiles that a shard is stitched of."""


def iter_planned(
    table: pa.Table, found: Assignment, tiles: Sequence[Tile], settings: StampSettings, most: int
) -> Iterator[tuple[str, pa.Table]]:
    """The shards of all positions that have a tile.

    Cutouts of one tile come first, cut where a tile ends; then those of several, cut by the bytes of their
    parts.

    Parameters
    ----------
    table : pyarrow.Table
        Of the positions.
    found : Assignment
    tiles : sequence of Tile
    settings : StampSettings
    most : int
        Rows in a shard.

    Yields
    ------
    series : {"cutouts", "stitched"}
    objects : pyarrow.Table
    """
    alone = np.ones(table.num_rows, bool)
    alone[list(found.stitched)] = False
    alone &= found.home >= 0
    rows = np.flatnonzero(alone)
    rows = rows[np.argsort(found.home[rows], kind="stable")]
    for start, end in _groups(found.home[rows], most):
        count = -(-(end - start) // most)
        for piece in np.array_split(rows[start:end], count):
            yield CUTOUTS, _objects(table, found, piece)
    rows = np.array(sorted(found.stitched, key=lambda row: (found.home[row], row)), dtype=int)
    if len(rows):
        objects = _objects(table, found, rows)
        sizes = _piece_bytes(found, tiles, rows, settings)
        series = pa.array([STITCHED] * len(rows))
        planned = objects.append_column("series", series).append_column("size", pa.array(sizes))
        for name, one in cut_shards([planned], most, PIECES_BYTES):
            yield name, one.drop_columns("size")


def _groups(homes: np.ndarray, most: int) -> Iterator[tuple[int, int]]:
    """Runs of whole tiles with as many rows as a shard has, or more."""
    ends = np.flatnonzero(np.diff(homes, append=-1))
    start = 0
    for end in (ends + 1).tolist():
        if end - start >= most or end == len(homes):
            yield start, end
            start = end


def _objects(table: pa.Table, found: Assignment, rows: np.ndarray) -> pa.Table:
    objects = table.take(rows).drop_columns("size")
    objects = objects.append_column("pixel_scale", pa.array(found.scale[rows]))
    objects = objects.append_column("home", pa.array(found.home[rows], pa.int64()))
    order = [found.stitched.get(int(row), []) for row in rows]
    objects = objects.append_column("tiles", pa.array(order, pa.list_(pa.int64())))
    return objects.append_column("labels_row", pa.nulls(len(rows), pa.int64()))


def _piece_bytes(
    found: Assignment, tiles: Sequence[Tile], rows: np.ndarray, settings: StampSettings
) -> list[int]:
    sides = [
        settings.window(settings.zoom(float(found.scale[row]), tiles[found.home[row]].place.scale))
        for row in rows
    ]
    pixel = 4 * len(settings.bands) + 1
    return [
        side * side * pixel * len(found.stitched[int(row)]) for side, row in zip(sides, rows, strict=True)
    ]
