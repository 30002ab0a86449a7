"""Publish a catalog as HATS: tiles of about the same number of rows, sorted by place, with VOParquet metadata.

The driver plans and checks; the rows go from the parts through spill files to the leaves, see
`pipeline.publish_tasks`. Whatever dies, the same call goes on with what is there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa

from hiwl_core.errors import IncompleteError, UserError
from pipeline import storage
from pipeline.hats_metadata import SKYMAP_ORDER, write_collection, write_margin, write_table
from pipeline.hats_tiles import COUNT_ORDER, Tile, empty_cells, margin_order, plan_tiles
from pipeline.progress import progress
from pipeline.publish_plan import Publication, TilePlan, list_inputs
from pipeline.publish_pool import TaskPool, ray_pool, thread_pool
from pipeline.publish_tasks import (
    INDEX_FIELD,
    MAIN,
    MARGIN,
    NO_POSITION,
    CountTask,
    Leaf,
    LeafTask,
    Sky,
    Spill,
    SplitTask,
    count_rows,
    read_footer,
    read_spill,
    split_rows,
    unified,
    write_leaf,
)
from pipeline.voparquet import with_votable

__all__ = ["PublishSummary", "publish"]

# Cells that alone have too many rows are counted again in cells of 0.8 arcsec.
FINE_ORDER = 18
# Less than this is done by threads of this process before Ray would have started.
SMALL_BYTES = 128 * 2**20
TAKEN_NAMES = ("no_position",)


@dataclass(frozen=True)
class PublishSummary:
    """What a published catalog holds.

    Parameters
    ----------
    out : str
    name : str
    rows : int
        In its tiles.
    without_position : int
        Rows beside them, in ``no_position``.
    tiles : int
    margin_rows : int
    kept : int
        Leaves that an earlier, unfinished run had written.
    new : bool
        False if the whole publication was there already.
    """

    out: str
    name: str
    rows: int
    without_position: int
    tiles: int
    margin_rows: int
    kept: int = 0
    new: bool = True


def publish(
    catalog: str,
    out: str,
    name: str = "hiwl",
    max_rows: int = 1_000_000,
    margin: float = 0.0,
    workers: int | None = None,
    group_bytes: int | None = None,
) -> PublishSummary:
    """Publish a catalog as a HATS collection.

    Parameters
    ----------
    catalog : str
        Folder of the parts that `pipeline.classify.classify` wrote, local or a URL.
    out : str
        Folder to make, local or a URL; one that an earlier call left unfinished is finished.
    name : str
        Of the collection and of the catalog in it.
    max_rows : int
        Rows a tile at most.
    margin : float
        Width of the margin cache, arcsec; 0 for none.
    workers : int, optional
        Ray tasks at once. Default: as many as the cluster has room for, or threads of this process if the
        catalog is small.
    group_bytes : int, optional
        Bytes of parts that one task reads.

    Raises
    ------
    UserError
        Before any work for wrong options, a folder that is not a catalog, or an `out` that holds anything else;
        later for parts whose columns do not fit together and for a catalog without any position.
    IncompleteError
        If a fault of the machine ended the work, or if the parts changed meanwhile.
    """
    _check_options(name, max_rows, margin, workers)
    _check_apart(catalog, out)
    parts = list_inputs(catalog)
    options = {"name": name, "max_rows": max_rows, "margin": margin}
    publication = Publication(out, parts, options, group_bytes)
    publication.open()
    if publication.summary is not None:
        storage.remove(publication.spill)
        return PublishSummary(out, new=False, **publication.summary)

    small = workers is None and sum(part.size for part in parts) <= SMALL_BYTES
    with _pool(small, workers) as pool:
        plan = publication.read_plan() or _count(pool, publication, max_rows, catalog)
        leaves, schema, kept = _write_leaves(pool, publication, plan, margin)
    if list_inputs(catalog) != parts:
        raise IncompleteError(
            f"parts of {catalog} changed while they were published: remove {out} and publish again"
        )
    return _finish(publication, plan, leaves, schema, kept, out)


@contextmanager
def _pool(small: bool, workers: int | None) -> Iterator[TaskPool]:
    from pipeline.cluster import usable_cores

    with thread_pool(usable_cores()) if small else ray_pool(workers) as pool:
        yield pool


def _count(pool: TaskPool, publication: Publication, max_rows: int, catalog: str) -> TilePlan:
    """Count all rows and plan the tiles."""
    groups = [publication.paths(group) for group in publication.groups]
    sky = np.zeros(12 << (2 * COUNT_ORDER), dtype=np.int64)
    rows = without = 0
    with progress("counting", None, unit="rows") as advance:
        for _, found in pool.run(count_rows, [CountTask(paths, COUNT_ORDER) for paths in groups]):
            sky[found.cells] += found.counts
            rows, without = rows + found.rows, without + found.without_position
            advance(found.rows)
    if rows == without:
        publication.abandon()
        raise UserError(
            f"no row of {catalog} has a position: classify shards with ra and dec (see --ra-column of classify)"
        )
    cells = np.flatnonzero(sky)
    tiles = plan_tiles(cells, sky[cells], COUNT_ORDER, max_rows)
    crowded = {tile.pixel for tile in tiles if tile.rows > max_rows}
    if crowded:
        within = np.array(sorted(crowded), dtype=np.int64)
        fine = np.zeros((2, 0), dtype=np.int64)
        for _, found in pool.run(count_rows, [CountTask(paths, FINE_ORDER, within) for paths in groups]):
            both = np.concatenate([fine, np.stack([found.cells, found.counts])], axis=1)
            cells, places = np.unique(both[0], return_inverse=True)
            fine = np.stack([cells, np.bincount(places, both[1], len(cells)).astype(np.int64)])
        tiles = [tile for tile in tiles if tile.rows <= max_rows]
        tiles += plan_tiles(fine[0], fine[1], FINE_ORDER, max_rows, lowest=COUNT_ORDER + 1)
        tiles.sort(key=lambda tile: tile.start)
    coarse = sky.reshape(12 << (2 * SKYMAP_ORDER), -1).sum(axis=1)
    plan = TilePlan(rows, without, tiles, coarse)
    publication.write_plan(plan)
    return plan


def _write_leaves(
    pool: TaskPool, publication: Publication, plan: TilePlan, margin: float
) -> tuple[dict[str, dict[Tile, Leaf]], pa.Schema, int]:
    """Split the parts and write all leaves; those of the margin and without a position under their kinds."""
    cells, sky = _sky(plan, margin)
    spills = _split(pool, publication, plan, sky)
    schema = unified([spill.schema for spill in spills], [spill.path for spill in spills])
    widths: dict[str, int] = {}
    for spill in spills:
        for column, width in spill.widths.items():
            widths[column] = max(width, widths.get(column, 1))
    # An id that is an integer in some parts and text in others has the width of the digits too.
    if schema.field("object_id").type == pa.string():
        widths["object_id"] = max(widths.get("object_id", 1), 20)

    tasks: dict[tuple[str, Tile], LeafTask] = {}
    places = {
        MAIN: (plan.tiles, f"{publication.catalog}/dataset"),
        MARGIN: (cells, f"{publication.margin}/dataset"),
    }
    for number, spill in enumerate(spills):
        for run in spill.runs:
            if run.kind == NO_POSITION:
                tile, path = Tile(0, number), publication.no_position_file(number)
            else:
                tiles, folder = places[run.kind]
                tile = tiles[run.key]
                path = f"{folder}/{tile.path}"
            task = tasks.setdefault((run.kind, tile), LeafTask(path, 0, []))
            tasks[run.kind, tile] = LeafTask(
                path, task.rows + run.rows, [*task.runs, (spill.path, run.start, run.length)]
            )

    leaves: dict[str, dict[Tile, Leaf]] = {MAIN: {}, MARGIN: {}, NO_POSITION: {}}
    kept = _existing(publication, tasks)
    schemas = {
        True: with_votable(pa.schema([INDEX_FIELD, *schema]), publication.name, widths),
        False: with_votable(schema, "no_position", widths),
    }
    for key, leaf in kept.items():
        leaves[key[0]][key[1]] = leaf
    total = sum(task.rows for task in tasks.values())
    done = sum(leaf.footer.num_rows for leaf in kept.values())
    with progress("writing tiles", total, done, unit="rows") as advance:
        for placed in (True, False):
            todo = [
                key for key in tasks if key not in kept and (key[0] != NO_POSITION) == placed
            ]
            for number, leaf in pool.run(write_leaf, [tasks[key] for key in todo], schemas[placed]):
                kind, tile = todo[number]
                leaves[kind][tile] = leaf
                advance(leaf.footer.num_rows)
    return leaves, schemas[True], len(kept)
