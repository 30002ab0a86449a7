"""The first pass of a publication: count all rows by place and plan the tiles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hiwl_core.errors import UserError
from pipeline import storage
from pipeline.progress import progress
from pipeline.publication.hats_metadata import SKYMAP_ORDER
from pipeline.publication.hats_tiles import COUNT_ORDER, INDEX_ORDER, HatsCell, healpix_index, plan_tiles
from pipeline.publication.part_rows import positions, read_coordinates
from pipeline.publication.publication_folder import Publication, TilePlan
from pipeline.task_pool import TaskPool

__all__ = ["plan_publication"]

# Cells that alone have too many rows are counted again in cells of 0.8 arcsec.
FINE_ORDER = 18


@dataclass(frozen=True)
class _CountTask:
    """Parts to count; with `within`, sorted order-10 cells, only their rows and more finely."""

    parts: list[str]
    order: int
    within: np.ndarray | None = None


@dataclass(frozen=True)
class _CellCounts:
    """Rows of a group of parts, those without a position, and the counts of the cells that have any."""

    rows: int
    without_position: int
    cells: np.ndarray
    counts: np.ndarray


def plan_publication(pool: TaskPool, publication: Publication) -> TilePlan:
    """Count all rows and plan the tiles.

    Raises
    ------
    UserError
        If no row has a position; nothing is left of the publication then.
    """
    groups = publication.groups
    max_rows = publication.options["max_rows"]
    sky = np.zeros(12 << (2 * COUNT_ORDER), dtype=np.int64)
    rows = without = 0
    with progress("counting", None, unit="rows") as advance:
        for _, found in pool.run(_count_cells, [_CountTask(paths, COUNT_ORDER) for paths in groups]):
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


def _fine_tiles(
    pool: TaskPool, groups: list[list[str]], crowded: np.ndarray, max_rows: int
) -> list[HatsCell]:
    cells = counts = np.empty(0, dtype=np.int64)
    for _, found in pool.run(_count_cells, [_CountTask(paths, FINE_ORDER, crowded) for paths in groups]):
        cells, places = np.unique(np.concatenate([cells, found.cells]), return_inverse=True)
        summed = np.zeros(len(cells), dtype=np.int64)
        np.add.at(summed, places, np.concatenate([counts, found.counts]))
        counts = summed
    return plan_tiles(cells, counts, FINE_ORDER, max_rows, lowest=COUNT_ORDER + 1)


def _count_cells(task: _CountTask, _: None = None) -> _CellCounts:
    """Count the rows of some parts by cell."""
    shift = 2 * (INDEX_ORDER - task.order)
    rows = without = 0
    found = []
    for table in storage.in_threads(read_coordinates, task.parts):
        ra, dec, placed = positions(table)
        rows, without = rows + len(placed), without + int((~placed).sum())
        index = healpix_index(ra[placed], dec[placed])
        if task.within is not None:
            index = index[np.isin(index >> (2 * (INDEX_ORDER - COUNT_ORDER)), task.within)]
        found.append(index >> shift)
    cells, counts = np.unique(np.concatenate(found), return_counts=True)
    return _CellCounts(rows, without, cells, counts)
