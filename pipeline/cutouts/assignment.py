"""Which tile each position is cut from: the one that it lies deepest in, and others where that one ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from hiwl_core.stamps import StampSettings
from hiwl_core.statuses import NO_POSITION, NO_SCALE, OFF_FOOTPRINT, TOO_LARGE
from pipeline.cutouts.tiles import Tile
from pipeline.shards.sky_positions import unit_vectors
from pipeline.shards.wanted_scale import WantedScale

__all__ = ["Assignment", "assign", "pixels_of"]

MOST_TILES = 9
"""That a cutout is stitched of."""
MAX_WINDOW = 4096


class Assignment(NamedTuple):
    """What becomes of each position.

    Parameters
    ----------
    home : numpy.ndarray of int, shape (N,)
        The tile that it is cut from; -1 for rejects.
    scale : numpy.ndarray of float, shape (N,)
        Of the cutout, arcsec/pixel.
    stitched : dict of int to list of int
        For positions whose cutout goes beyond their tile: all tiles that have some of it, their own first.
    rejects : dict of int to str
        The reason, by row.
    """

    home: np.ndarray
    scale: np.ndarray
    stitched: dict[int, list[int]]
    rejects: dict[int, str]


class _Visits(NamedTuple):
    """Positions that tiles have some part of: arrays of one length."""

    row: np.ndarray
    tile: np.ndarray
    bands: np.ndarray
    depth: np.ndarray
    whole: np.ndarray


def assign(table: pa.Table, tiles: Sequence[Tile], settings: StampSettings, scale: WantedScale) -> Assignment:
    """Find the tile of each position.

    Parameters
    ----------
    table : pyarrow.Table
        From `pipeline.cutouts.positions.read_positions`.
    tiles : sequence of Tile
    settings : StampSettings
    scale : WantedScale
        Of the cutouts; that of the tile if none is asked for.
    """
    rows = table.num_rows
    ra, dec = (table[name].to_numpy(zero_copy_only=False).astype(float) for name in ("ra", "dec"))
    known = np.isfinite(ra) & np.isfinite(dec)
    wanted = _wanted_scales(table, scale)
    rejects = dict.fromkeys(
        np.flatnonzero(~known).tolist(), f"{NO_POSITION}: ra or dec is no place on the sky"
    )
    if scale.asked:
        without = known & ~((wanted > 0) & np.isfinite(wanted))
        rejects |= dict.fromkeys(np.flatnonzero(without).tolist(), f"{NO_SCALE}: {scale.column} is no size")
        known &= ~without
    scales = np.array([tile.place.scale for tile in tiles])
    visits = _visits(np.flatnonzero(known), ra, dec, wanted, tiles, scales, settings)

    home = np.full(rows, -1)
    # The tile with most bands first, then the one in which the position lies deepest.
    order = np.lexsort((visits.tile, -visits.depth, -visits.bands, visits.row))
    row, tile = visits.row[order], visits.tile[order]
    inside = order[visits.depth[order] >= 0]
    first, index = np.unique(visits.row[inside], return_index=True)
    home[first] = visits.tile[inside[index]]
    broken = np.zeros(rows, bool)
    broken[first] = ~visits.whole[inside[index]]

    own = np.where(np.isnan(wanted) & (home >= 0), scales[home], wanted)
    for one in np.flatnonzero(known & (home < 0)).tolist():
        rejects[one] = f"{OFF_FOOTPRINT}: no tile is there"
    zooms = np.divide(own, scales[home], out=np.ones(rows), where=home >= 0)
    for one in np.flatnonzero(settings.size * zooms > MAX_WINDOW).tolist():
        rejects[one] = f"{TOO_LARGE}: {settings.size * zooms[one]:.0f} pixels of the tile on a side"
        home[one] = -1

    stitched: dict[int, list[int]] = {}
    needs = broken[row] & (home[row] >= 0)
    for one, other in zip(row[needs].tolist(), tile[needs].tolist(), strict=True):
        stitched.setdefault(one, [int(home[one])])
        if other != home[one] and len(stitched[one]) < MOST_TILES:
            stitched[one].append(other)
    return Assignment(home, own, stitched, rejects)


def pixels_of(wcs: object, ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Pixels, counted from 0, of places on the sky, shape (N, 2); NaN for those that the projection lacks."""
    world = np.empty((len(ra), 2))
    world[:, wcs.wcs.lng], world[:, wcs.wcs.lat] = ra, dec  # type: ignore[attr-defined]
    pixels: np.ndarray = wcs.all_world2pix(world, 0, quiet=True)  # type: ignore[attr-defined]
    return pixels


def _wanted_scales(table: pa.Table, scale: WantedScale) -> np.ndarray:
    if scale.column is not None:
        sizes = table["size"].to_numpy(zero_copy_only=False).astype(float)
        return np.asarray(sizes * scale.factor)
    return np.full(table.num_rows, np.nan if scale.value is None else scale.value)


def _visits(
    rows: np.ndarray,
    ra: np.ndarray,
    dec: np.ndarray,
    wanted: np.ndarray,
    tiles: Sequence[Tile],
    scales: np.ndarray,
    settings: StampSettings,
) -> _Visits:
    # Here, since it takes a third of a second, and verbs that read plans do without.
    from scipy.spatial import cKDTree

    tree = cKDTree(unit_vectors(ra[rows], dec[rows])) if len(rows) else None
    found: list[_Visits] = []
    # What the largest cutout adds to the radius of a tile, in degrees.
    largest = float(np.nanmax(wanted[rows], initial=0.0)) or float(scales.max())
    reach = min(settings.size * largest, MAX_WINDOW * float(scales.max())) / 3600
    for number, tile in enumerate(tiles):
        if tree is None:
            break
        (middle,) = unit_vectors(np.array([tile.place.ra]), np.array([tile.place.dec]))
        # A chord is shorter than its arc.
        around = tree.query_ball_point(middle, np.radians(tile.place.radius + reach))
        near = np.sort(np.array(around, dtype=int))
        if not len(near):
            continue
        row = rows[near]
        height, width = tile.place.shape
        x, y = pixels_of(tile.wcs(), ra[row], dec[row]).T
        depth = np.minimum.reduce([x + 0.5, width - 0.5 - x, y + 0.5, height - 0.5 - y])
        zoom = np.where(np.isnan(wanted[row]), 1.0, wanted[row] / scales[number])
        # With a pixel for what is rounded, and those that a filter needs.
        half = settings.size * zoom / 2 + np.where(np.abs(zoom - 1) < 1e-9, 1, 4)
        touched = depth > -half
        row, depth, half = row[touched], depth[touched], half[touched]
        bands = sum(band in tile.images for band in settings.bands)
        whole = (depth >= half) & (bands == len(settings.bands))
        shape = len(row)
        found.append(
            _Visits(row, np.full(shape, number), np.full(shape, bands), depth * scales[number], whole)
        )
    if not found:
        empty = np.empty(0, int)
        return _Visits(empty, empty, empty, empty.astype(float), empty.astype(bool))
    return _Visits(*(np.concatenate(column) for column in zip(*found, strict=True)))
