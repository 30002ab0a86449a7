"""The first pass of a publication: count all rows by place and plan the tiles."""

from __future__ import annotations

import numpy as np

from hiwl_core.errors import UserError
from pipeline.progress import progress
from pipeline.publication.hats_metadata import SKYMAP_ORDER
from pipeline.publication.hats_tiles import COUNT_ORDER, HatsCell, empty_cells, margin_order, plan_tiles
from pipeline.publication.parts import CountTask, count_cells
from pipeline.publication.publication_folder import Publication, TilePlan
from pipeline.publication.spill import Sky
from pipeline.task_pool import TaskPool

__all__ = ["plan_publication", "plan_sky"]

# Cells that alone have too many rows are counted again in cells of 0.8 arcsec.
FINE_ORDER = 18


def plan_publication(pool: TaskPool, publication: Publication) -> TilePlan:
    """Count all rows and plan the tiles.

    Raises
    ------
    UserError
        If no row has a position; nothing is left of the publication then.
    """
    groups = [publication.paths(group) for group in publication.groups]
    max_rows = publication.options["max_rows"]
    sky = np.zeros(12 << (2 * COUNT_ORDER), dtype=np.int64)
    rows = without = 0
    with progress("counting", None, unit="rows") as advance:
        for _, found in pool.run(count_cells, [CountTask(paths, COUNT_ORDER) for paths in groups]):
            sky[found.cells] += found.counts
            rows, without = rows + found.rows, without + found.without_position
            advance(found.rows)
    if rows == without:
        publication.abandon()
        raise UserError(
            f"none of {rows} rows has a position, 0 <= ra <= 360 and -90 <= dec <= 90: classify shards that "
            "have them (classify takes --ra-column and --dec-column)"
        )
    cells = np.flatnonzero(sky)
    tiles = plan_tiles(cells, sky[cells], COUNT_ORDER, max_rows)
    crowded = [tile.pixel for tile in tiles if tile.rows > max_rows]
    if crowded:
        tiles = [tile for tile in tiles if tile.rows <= max_rows]
        tiles += _fine_tiles(pool, groups, np.array(crowded, dtype=np.int64), max_rows)
        tiles.sort(key=lambda tile: tile.start)
    coarse = sky.reshape(12 << (2 * SKYMAP_ORDER), -1).sum(axis=1)
    return TilePlan(rows, without, tiles, coarse)


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


def _fine_tiles(
    pool: TaskPool, groups: list[list[str]], crowded: np.ndarray, max_rows: int
) -> list[HatsCell]:
    cells = counts = np.empty(0, dtype=np.int64)
    for _, found in pool.run(count_cells, [CountTask(paths, FINE_ORDER, crowded) for paths in groups]):
        cells, places = np.unique(np.concatenate([cells, found.cells]), return_inverse=True)
        summed = np.zeros(len(cells), dtype=np.int64)
        np.add.at(summed, places, np.concatenate([counts, found.counts]))
        counts = summed
    return plan_tiles(cells, counts, FINE_ORDER, max_rows, lowest=COUNT_ORDER + 1)
