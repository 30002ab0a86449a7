"""The second and third pass of a publication: split the parts into sorted runs, write the leaves from them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipeline import storage
from pipeline.hats_tiles import Tile
from pipeline.progress import progress
from pipeline.publish_plan import Publication
from pipeline.publish_pool import TaskPool
from pipeline.publish_tasks import (
    INDEX_FIELD,
    MAIN,
    MARGIN,
    NO_POSITION,
    Leaf,
    LeafTask,
    Sky,
    Spill,
    SplitTask,
    read_footer,
    read_spill,
    split_rows,
    unified,
    write_leaf,
)
from pipeline.voparquet import is_text, with_votable

__all__ = ["Leaves", "split_parts", "write_leaves"]

DIGITS_OF_AN_INTEGER = 20


@dataclass(frozen=True)
class Leaves:
    """The files of a publication that hold rows.

    Parameters
    ----------
    main, margin : list of (Tile, Leaf)
    no_position : list of Leaf
    schema : pyarrow.Schema
        Of those with a position.
    kept : int
        Leaves that were there already.
    """

    main: list[tuple[Tile, Leaf]]
    margin: list[tuple[Tile, Leaf]]
    no_position: list[Leaf]
    schema: pa.Schema
    kept: int


def split_parts(pool: TaskPool, publication: Publication, sky: Sky, rows: int) -> list[Spill]:
    """The spill files of all groups of parts; those that are there already are kept."""
    files = [publication.spill_file(number) for number in range(len(publication.groups))]
    spills = dict(enumerate(storage.in_threads(read_spill, files)))
    todo = [number for number, spill in spills.items() if spill is None]
    tasks = [SplitTask(publication.paths(publication.groups[number]), files[number]) for number in todo]
    done = sum(spill.rows for spill in spills.values() if spill is not None)
    with progress("sorting", rows, done, unit="rows") as advance:
        for index, spill in pool.run(split_rows, tasks, sky):
            spills[todo[index]] = spill
            advance(spill.rows)
    return [spill for _, spill in sorted(spills.items()) if spill is not None]


def write_leaves(
    pool: TaskPool, publication: Publication, spills: Sequence[Spill], tiles: list[Tile], cells: list[Tile]
) -> Leaves:
    """Write the leaves of all tiles; those that are there already, with the right number of rows, are kept.

    Parameters
    ----------
    pool : TaskPool
    publication : Publication
    spills : sequence of Spill
    tiles, cells : list of Tile
        What the runs of the kinds ``main`` and ``margin`` count by.
    """
    with_index, without_index = _schemas(publication.name, spills)
    tasks = {
        MAIN: _leaf_tasks(MAIN, spills, [f"{publication.catalog}/dataset/{tile.path}" for tile in tiles]),
        MARGIN: _leaf_tasks(MARGIN, spills, [f"{publication.margin}/dataset/{cell.path}" for cell in cells]),
        # A file a group: all of them together may be more than a task should hold.
        NO_POSITION: {
            key: task
            for number, spill in enumerate(spills)
            for key, task in _leaf_tasks(NO_POSITION, [spill], publication.no_position_file(number)).items()
        },
    }
    return tasks, with_index, without_index
