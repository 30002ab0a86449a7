"""What tiles have at the places of objects, as finished cutouts: from one tile, or stitched of several."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from hiwl_core.stamps import FinishedStamp, Stamp, StampSettings
from hiwl_core.statuses import UnreadableCutout
from pipeline.cutouts.assignment import pixels_of
from pipeline.cutouts.pieces import Piece, paste
from pipeline.cutouts.tile_pixels import TilePixels
from pipeline.cutouts.tiles import Tile

__all__ = ["cut", "cut_pieces", "stitched"]


def cut(pixels: TilePixels, objects: pa.Table, settings: StampSettings) -> Iterator[FinishedStamp]:
    """The cutouts of objects from their tile, in order.

    Parameters
    ----------
    pixels : TilePixels
    objects : pyarrow.Table
        ``ra``, ``dec`` and ``pixel_scale``.
    settings : StampSettings
    """
    problem = ""
    for where in _stamps(pixels.tile, objects, settings):
        if problem:
            yield FinishedStamp(None, problem)
            continue
        try:
            window = pixels.window(where.left, where.bottom, where.side, where.side)
        except UnreadableCutout as error:
            # A broken file costs its own positions, not the night.
            problem = str(error)
            yield FinishedStamp(None, problem)
            continue
        yield where.finished(*window, settings)


def cut_pieces(pixels: TilePixels, number: int, objects: pa.Table, settings: StampSettings) -> list[Piece]:
    """What a tile has of cutouts that are stitched; nothing if its files are damaged.

    Parameters
    ----------
    pixels : TilePixels
    number : int
        Of the tile.
    objects : pyarrow.Table
        All of a shard, with ``tiles`` and ``home`` too; of those without this tile nothing comes.
    settings : StampSettings
    """
    rows = [row for row, tiles in enumerate(objects["tiles"].to_pylist()) if number in tiles]
    homes = objects["home"].to_numpy()
    pieces: list[Piece] = []
    try:
        for row, where in zip(rows, _stamps(pixels.tile, objects.take(rows), settings), strict=True):
            side, left, bottom = where.side, where.left, where.bottom
            if homes[row] != number:
                # Another tile's pixels may be turned against these, and have another scale.
                side = int(side * 1.5) + 4
                left, bottom = (round(one - (side - 1) / 2) for one in (where.x, where.y))
            height, width = pixels.tile.place.shape
            start, end = max(left, 0), min(left + side, width)
            low, high = max(bottom, 0), min(bottom + side, height)
            if start < end and low < high:
                planes, bad = pixels.window(start, low, end - start, high - low)
                pieces.append(Piece(row, number, start, low, planes, bad))
    except UnreadableCutout:
        return []
    return pieces


def stitched(
    objects: pa.Table, pieces: Iterable[Piece], tiles: Mapping[int, Tile], settings: StampSettings
) -> Iterator[FinishedStamp]:
    """The cutouts of objects from the pieces that their tiles have of them, in order.

    Parameters
    ----------
    objects : pyarrow.Table
        As for `cut_pieces`.
    pieces : iterable of Piece
        Of all tiles.
    tiles : mapping of int to Tile
    settings : StampSettings
    """
    of_row: dict[int, dict[int, Piece]] = {}
    for piece in pieces:
        of_row.setdefault(piece.row, {})[piece.tile] = piece
    places: dict[int, Stamp] = {}
    homes = objects["home"].to_numpy()
    for number in np.unique(homes).tolist():
        rows = np.flatnonzero(homes == number)
        places |= dict(zip(rows.tolist(), _stamps(tiles[number], objects.take(rows), settings), strict=True))
    grids = {number: tile.wcs() for number, tile in tiles.items()}
    for row, order in enumerate(objects["tiles"].to_pylist()):
        where, home, found = places[row], grids[homes[row]], of_row.pop(row, {})
        planes = np.full((len(settings.bands), where.side, where.side), np.nan, np.float32)
        bad = np.zeros((where.side, where.side), bool)
        for number in order:
            if number in found:
                paste(planes, bad, (where.left, where.bottom), home, found[number], grids[number])
        yield where.finished(planes, bad, settings)


def _stamps(tile: Tile, objects: pa.Table, settings: StampSettings) -> Iterator[Stamp]:
    """Where objects lie in a tile."""
    if not objects.num_rows:
        return
    wcs = tile.wcs()
    ra, dec, scales = (objects[name].to_numpy() for name in ("ra", "dec", "pixel_scale"))
    points = pixels_of(wcs, ra, dec)
    jacobians = _jacobians(wcs, points, ra, dec)
    for number, (x, y) in enumerate(points):
        zoom = settings.zoom(float(scales[number]), tile.place.scale)
        side = settings.window(zoom)
        left, bottom = round(x - (side - 1) / 2), round(y - (side - 1) / 2)
        where = (float(x), float(y), zoom, float(ra[number]), float(dec[number]))
        yield Stamp(left, bottom, side, *where, jacobians[number])


def _jacobians(wcs: Any, points: np.ndarray, ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Degrees east and north that a step along x and along y is, shape (N, 2, 2)."""
    found = np.empty((len(points), 2, 2))
    for axis in range(2):
        step = np.zeros(2)
        step[axis] = 1
        ends = [wcs.all_pix2world(points + sign * step, 0) for sign in (0.5, -0.5)]
        east = (ends[0][:, wcs.wcs.lng] - ends[1][:, wcs.wcs.lng] + 180) % 360 - 180
        found[:, 0, axis] = east * np.cos(np.radians(dec))
        found[:, 1, axis] = ends[0][:, wcs.wcs.lat] - ends[1][:, wcs.wcs.lat]
    return found
