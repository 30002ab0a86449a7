"""Parts of tiles that wait to be stitched: written by the one task that reads the tile, then put together."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline import storage

__all__ = ["Piece", "paste", "pieces_folder", "pieces_path", "read_pieces", "write_pieces"]

SAME_GRID = 1e-3
"""Of a pixel; tiles of one grid are put together without a change."""


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


def paste(
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
