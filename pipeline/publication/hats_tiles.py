"""HATS tiles: which HEALPix cells a catalog is cut into, and where on the sky each of its rows belongs.

Cells are nested; the index ``_healpix_29`` of a row is its cell at order 29, so that the rows of any cell are
one range of the index. The IVOA Note "HATS" names columns, files and folders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cdshealpix
import numpy as np
from astropy.coordinates import Latitude, Longitude

__all__ = [
    "COUNT_ORDER",
    "INDEX_COLUMN",
    "INDEX_ORDER",
    "HatsCell",
    "empty_cells",
    "healpix_index",
    "margin_order",
    "margin_rows",
    "plan_tiles",
]

INDEX_COLUMN = "_healpix_29"
INDEX_ORDER = 29
# Rows are counted in cells of this order, 3.4 arcmin wide, as HATS catalogs are; only cells that alone have
# too many rows are counted more finely.
COUNT_ORDER = 10
FOLDER_CELLS = 10_000


@dataclass(frozen=True)
class HatsCell:
    """A HEALPix cell and the number of rows in it.

    Parameters
    ----------
    order, pixel : int
        The cell, nested.
    rows : int
    """

    order: int
    pixel: int
    rows: int = 0

    @property
    def start(self) -> int:
        """The first order-29 cell in the tile."""
        return self.pixel << (2 * (INDEX_ORDER - self.order))

    @property
    def stop(self) -> int:
        """One past the last order-29 cell in the tile."""
        return (self.pixel + 1) << (2 * (INDEX_ORDER - self.order))

    @property
    def path(self) -> str:
        """Its file below the folder ``dataset``."""
        folder = self.pixel // FOLDER_CELLS * FOLDER_CELLS
        return f"Norder={self.order}/Dir={folder}/Npix={self.pixel}.parquet"


def healpix_index(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """The order-29 cells of positions.

    Parameters
    ----------
    ra, dec : numpy.ndarray, shape (N,)
        Degrees; all of them a place on the sky.

    Returns
    -------
    numpy.ndarray of int64, shape (N,)
    """
    longitude, latitude = Longitude(ra, unit="deg"), Latitude(dec, unit="deg")
    return cdshealpix.lonlat_to_healpix(longitude, latitude, INDEX_ORDER).astype(np.int64)


def plan_tiles(
    cells: np.ndarray, counts: np.ndarray, order: int, max_rows: int, lowest: int = 0
) -> list[HatsCell]:
    """The largest cells that have no more than some number of rows.

    Parameters
    ----------
    cells, counts : numpy.ndarray, shape (N,)
        Cells that have rows, in rising order, and their rows.
    order : int
        Of `cells`; a tile of this order may have more than `max_rows` rows.
    max_rows : int
    lowest : int
        Tiles are of this order or a higher one.

    Returns
    -------
    list of Tile
        In the order of their place on the sky; together they hold all rows.
    """
    tiles: list[HatsCell] = []
    for level in range(lowest, order + 1):
        if not len(cells):
            break
        parents = cells >> (2 * (order - level))
        firsts = np.flatnonzero(np.diff(parents, prepend=-1))
        sums = np.add.reduceat(counts, firsts)
        whole = (sums <= max_rows) | (level == order)
        tiles += [
            HatsCell(level, int(pixel), int(rows))
            for pixel, rows in zip(parents[firsts][whole], sums[whole], strict=True)
        ]
        left = np.repeat(~whole, np.diff(firsts, append=len(cells)))
        cells, counts = cells[left], counts[left]
    return sorted(tiles, key=lambda tile: tile.start)


def empty_cells(tiles: Sequence[HatsCell]) -> list[HatsCell]:
    """The fewest cells that, with the tiles, cover the sky.

    Parameters
    ----------
    tiles : sequence of HatsCell
        In the order of their place on the sky.
    """
    cells = []
    place = 0
    for stop, after in [(tile.start, tile.stop) for tile in tiles] + [(12 << (2 * INDEX_ORDER), 0)]:
        while place < stop:
            # The largest cell that begins here and ends before the next tile.
            height = 0
            while height < INDEX_ORDER:
                size = 1 << (2 * (height + 1))
                if place % size or place + size > stop:
                    break
                height += 1
            cells.append(HatsCell(INDEX_ORDER - height, place >> (2 * height)))
            place += 1 << (2 * height)
        place = after
    return cells


def margin_order(arcsec: float) -> int:
    """The highest order whose cells are nowhere narrower than a margin.

    Parameters
    ----------
    arcsec : float
        Width of the margin.

    Notes
    -----
    Cells are distorted: the mean width, sqrt(pi/3) / 2^order radians, is taken to be 1.6 times the least one,
    as in ``hats.pixel_math``.
    """
    width = np.radians(arcsec / 3600) * 1.6
    return int(np.clip(np.floor(np.log2(np.sqrt(np.pi / 3) / width)), 0, INDEX_ORDER))


def margin_rows(index: np.ndarray, starts: np.ndarray, order: int) -> tuple[np.ndarray, np.ndarray]:
    """In the margins of which other cells rows lie.

    A row is in the margin of a cell if its own cell of some high order touches that cell from outside, at an
    edge or a corner.

    Parameters
    ----------
    index : numpy.ndarray of int64, shape (N,)
        The rows' order-29 cells, in rising order.
    starts : numpy.ndarray of int64, shape (M,)
        First order-29 cells of cells that cover the sky, in rising order.
    order : int
        Of the cells that decide; higher than that of each of the M cells.

    Returns
    -------
    rows, cells : numpy.ndarray of int64
        Pairs of a row and a cell, by cell and then by row.
    """
    shift = 2 * (INDEX_ORDER - order)
    fine = index >> shift
    firsts = np.flatnonzero(np.diff(fine, prepend=-1))
    if not len(firsts):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    owners = np.searchsorted(starts, index[firsts], side="right") - 1
    around = cdshealpix.neighbours(fine[firsts], order).astype(np.int64)
    # Where only seven cells meet, the eighth neighbor is -1: it is as good as the cell itself.
    around = np.where(around < 0, fine[firsts][:, None], around)
    cells = np.searchsorted(starts, around << shift, side="right") - 1
    groups, places = np.nonzero(cells != owners[:, None])
    pairs = np.unique(np.stack([groups, cells[groups, places]], axis=1), axis=0)
    ends = np.append(firsts[1:], len(index))
    lengths = (ends - firsts)[pairs[:, 0]]
    offsets = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    rows = np.repeat(firsts[pairs[:, 0]], lengths) + offsets
    of_cells = np.repeat(pairs[:, 1], lengths)
    order_by_cell = np.lexsort((rows, of_cells))
    return rows[order_by_cell], of_cells[order_by_cell]
