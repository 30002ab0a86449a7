"""What tiles have at the places of objects, as finished cutouts: from one tile, or stitched of several."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from hiwl_core.stamps import FinishedStamp, Stamp, StampSettings
from hiwl_core.statuses import UnreadableCutout
from pipeline import storage
from pipeline.cutouts.assignment import pixels_of
from pipeline.cutouts.tiles import Tile, TilePixels

__all__ = [
    "Piece",
    "cut",
    "cut_pieces",
    "pieces_folder",
    "pieces_path",
    "read_pieces",
    "stitched",
    "write_pieces",
]

SAME_GRID = 1e-3
"""Of a pixel; tiles of one grid are put together without a change."""


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
                _paste(planes, bad, (where.left, where.bottom), home, found[number], grids[number])
        yield where.finished(planes, bad, settings)


def _stamps(tile: Tile, objects: pa.Table, settings: StampSettings) -> Iterator[Stamp]:
    """Where objects lie in a tile."""
    if not objects.num_rows:
        return
    wcs = tile.wcs()
    ra, dec, scales = (objects[name].to_numpy() for name in ("ra", "dec", "pixel_scale"))
    points = pixels_of(wcs, ra, dec)
    jacobians = _jacobians(wcs, points, dec)
    for number, (x, y) in enumerate(points):
        zoom = settings.zoom(float(scales[number]), tile.place.scale)
        side = settings.window(zoom)
        left, bottom = round(x - (side - 1) / 2), round(y - (side - 1) / 2)
        where = (float(x), float(y), zoom, float(ra[number]), float(dec[number]))
        yield Stamp(left, bottom, side, *where, jacobians[number])


def _jacobians(wcs: Any, points: np.ndarray, dec: np.ndarray) -> np.ndarray:
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


@dataclass(frozen=True)
class Piece:
    """A part of a tile.

    Parameters
    ----------
    row : int
        Of the cutout in its shard.
    tile : int
    left, bottom : int
        Of the part's first pixel in the tile.
    planes : numpy.ndarray of float32, shape (band, height, width)
    bad : numpy.ndarray of bool, shape (height, width)
    """

    row: int
    tile: int
    left: int
    bottom: int
    planes: np.ndarray
    bad: np.ndarray


def pieces_folder(out: str, shard: int | None = None) -> str:
    """Where parts wait: those of one shard by its number, or all."""
    return f"{out}/_ingest/pieces" + ("" if shard is None else f"/{shard:07d}")


def pieces_path(out: str, shard: int, tile: int) -> str:
    """Where the parts wait that a tile has of the cutouts of a shard."""
    return f"{pieces_folder(out, shard)}/{tile:07d}.npz"


def write_pieces(path: str, pieces: Sequence[Piece]) -> None:
    """Write the parts that a tile has of the cutouts of a shard, none too."""
    arrays: dict[str, Any] = {"at": np.array([[one.row, one.left, one.bottom] for one in pieces], np.int64)}
    for number, piece in enumerate(pieces):
        arrays |= {f"planes{number}": piece.planes, f"bad{number}": piece.bad}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    storage.write_bytes(path, buffer.getvalue())


def read_pieces(path: str, tile: int) -> list[Piece]:
    """The parts that `write_pieces` wrote."""
    with np.load(io.BytesIO(storage.read_bytes(path))) as arrays:
        return [
            Piece(row, tile, left, bottom, arrays[f"planes{number}"], arrays[f"bad{number}"])
            for number, (row, left, bottom) in enumerate(arrays["at"].tolist())
        ]


def _paste(
    planes: np.ndarray, bad: np.ndarray, corner: tuple[int, int], wcs: Any, piece: Piece, piece_wcs: Any
) -> None:
    """Put a part of a tile into a window where the window has no pixels yet.

    Parameters
    ----------
    planes, bad : numpy.ndarray
        The window, changed in place.
    corner : tuple of int
        Left and bottom of the window in its own tile.
    wcs, piece_wcs : astropy.wcs.WCS
        Of the window's tile and of the part's.
    piece : Piece
    """
    offset, matrix = _map(planes.shape[-1], corner, wcs, piece, piece_wcs)
    whole = np.rint(offset)
    turned = np.abs(matrix - np.eye(2)).max() * planes.shape[-1]
    if max(turned, np.abs(offset - whole).max()) < SAME_GRID:
        values, flags = _shifted(piece, whole.astype(int), planes.shape[-2:])
    else:
        from scipy.ndimage import affine_transform

        # A pixel more at each side, or between two tiles there would be a seam without any.
        edged = np.pad(piece.planes, [(0, 0), (1, 1), (1, 1)], mode="edge")
        shape = planes.shape[-2:]
        values = np.stack(
            [affine_transform(one, matrix, offset + 1, shape, order=1, cval=np.nan) for one in edged]
        )
        flags = affine_transform(piece.bad.astype(np.uint8), matrix, offset, shape, order=0) > 0
    fresh = np.isnan(planes) & ~np.isnan(values)
    planes[fresh] = values[fresh]
    bad |= flags & fresh.any(axis=0)


def _map(side: int, corner: tuple[int, int], wcs: Any, piece: Piece, piece_wcs: Any) -> tuple[Any, Any]:
    """From a pixel (row, column) of the window to one of the part: straight, as cutouts are small."""
    ends = np.array([[0, 0], [side - 1, 0], [0, side - 1]], float)
    world = wcs.all_pix2world(ends + corner, 0)
    other = np.empty_like(world)
    other[:, piece_wcs.wcs.lng], other[:, piece_wcs.wcs.lat] = world[:, wcs.wcs.lng], world[:, wcs.wcs.lat]
    there = piece_wcs.all_world2pix(other, 0, quiet=True) - [piece.left, piece.bottom]
    along, up = ((there[number] - there[0]) / (side - 1) for number in (1, 2))
    matrix = np.array([[up[1], along[1]], [up[0], along[0]]])
    return there[0][::-1], matrix


def _shifted(piece: Piece, offset: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    values = np.full((len(piece.planes), *shape), np.nan, np.float32)
    flags = np.zeros(shape, bool)
    here, there = [], []
    for start, length, wanted in zip(offset.tolist(), piece.bad.shape, shape, strict=True):
        low, high = max(start, 0), min(start + wanted, length)
        if low >= high:
            return values, flags
        there.append(slice(low, high))
        here.append(slice(low - start, high - start))
    values[:, here[0], here[1]] = piece.planes[:, there[0], there[1]]
    flags[here[0], here[1]] = piece.bad[there[0], there[1]]
    return values, flags
