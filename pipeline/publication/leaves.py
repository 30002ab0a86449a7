"""The other passes of a publication: split the parts into sorted runs, write the leaves from these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.progress import progress
from pipeline.publication.hats_tiles import HatsCell
from pipeline.publication.leaf import INDEX_FIELD, Leaf, LeafTask, read_footer, write_leaf
from pipeline.publication.parts import unified
from pipeline.publication.publication_folder import Publication
from pipeline.publication.spill import (
    MAIN,
    MARGIN,
    UNPLACED,
    Sky,
    Spill,
    SplitTask,
    read_spill,
    split_rows,
)
from pipeline.publication.voparquet import is_plain_text, with_votable
from pipeline.task_pool import TaskPool

__all__ = ["Leaves", "split_parts", "write_leaves"]

DIGITS_OF_AN_INTEGER = 20


@dataclass(frozen=True)
class Leaves:
    """The files of a publication that hold rows.

    Parameters
    ----------
    by_kind : dict
        Leaves by their numbers, by their kinds.
    schema : pyarrow.Schema
        Of those with a position.
    kept : int
        Leaves that were there already.
    """

    by_kind: dict[str, dict[int, Leaf]]
    schema: pa.Schema
    kept: int

    def rows(self, kind: str) -> int:
        """Rows in all leaves of a kind, by their footers."""
        return sum(leaf.footer.num_rows for leaf in self.by_kind[kind].values())

    def of(self, kind: str, tiles: Sequence[HatsCell]) -> list[tuple[HatsCell, pq.FileMetaData, int]]:
        """Tile, footer and bytes of all leaves of a kind."""
        return [(tiles[key], leaf.footer, leaf.size) for key, leaf in self.by_kind[kind].items()]


def split_parts(pool: TaskPool, publication: Publication, sky: Sky, rows: int) -> list[Spill]:
    """The spill files of all groups of parts; those that are there already are kept.

    Parameters
    ----------
    pool : TaskPool
    publication : Publication
    sky : Sky
        Where the rows go.
    rows : int
        In all parts.
    """
    files = [publication.spill_file(number) for number in range(len(publication.groups))]
    spills = dict(enumerate(storage.in_threads(read_spill, files)))
    todo = [number for number, spill in spills.items() if spill is None]
    tasks = [
        SplitTask(number, publication.paths(publication.groups[number]), files[number], publication.making)
        for number in todo
    ]
    done = sum(spill.rows for spill in spills.values() if spill is not None)
    with progress("sorting", rows, done, unit="rows") as advance:
        for index, spill in pool.run(split_rows, tasks, sky):
            spills[todo[index]] = spill
            advance(spill.rows)
    return [spill for _, spill in sorted(spills.items()) if spill is not None]


def write_leaves(
    pool: TaskPool,
    publication: Publication,
    spills: Sequence[Spill],
    tiles: list[HatsCell],
    cells: list[HatsCell],
) -> Leaves:
    """Write the leaves of all tiles; those that are there already, with the right number of rows, are kept.

    Parameters
    ----------
    pool : TaskPool
    publication : Publication
    spills : sequence of Spill
    tiles, cells : list of HatsCell
        What the runs of the kinds ``main`` and ``margin`` are numbered by.
    """
    tasks = _leaf_tasks(publication, spills, tiles, cells)
    schema = unified([spill.schema for spill in spills], [spill.path for spill in spills])
    widths = _widths(schema, spills)
    schemas = {
        True: with_votable(pa.schema([INDEX_FIELD, *schema]), publication.name, widths),
        False: with_votable(schema, UNPLACED, widths),
    }
    leaves: dict[str, dict[int, Leaf]] = {MAIN: {}, MARGIN: {}, UNPLACED: {}}
    kept = _kept(publication, tasks)
    for (kind, key), leaf in kept.items():
        leaves[kind][key] = leaf
    total = sum(task.rows for task in tasks.values())
    done = sum(leaf.footer.num_rows for leaf in kept.values())
    with progress("writing tiles", total, done, unit="rows") as advance:
        for placed, its_schema in schemas.items():
            # The largest first, so that none of them is alone at the end.
            todo = sorted(
                (name for name in tasks if name not in kept and (name[0] != UNPLACED) == placed),
                key=lambda name: -tasks[name].rows,
            )
            for index, leaf in pool.run(write_leaf, [tasks[name] for name in todo], its_schema):
                kind, key = todo[index]
                leaves[kind][key] = leaf
                advance(leaf.footer.num_rows)
    return Leaves(leaves, schemas[True], len(kept))


def _leaf_tasks(
    publication: Publication, spills: Sequence[Spill], tiles: list[HatsCell], cells: list[HatsCell]
) -> dict[tuple[str, int], LeafTask]:
    def place(kind: str, key: int) -> str:
        if kind == UNPLACED:
            return publication.no_position_file(key)
        folder, tile = (publication.catalog, tiles[key]) if kind == MAIN else (publication.margin, cells[key])
        return f"{folder}/dataset/{tile.path}"

    rows: dict[tuple[str, int], int] = {}
    runs: dict[tuple[str, int], list[tuple[str, int, int]]] = {}
    for spill in spills:
        for run in spill.runs:
            name = run.kind, run.key
            rows[name] = rows.get(name, 0) + run.rows
            runs.setdefault(name, []).append((spill.path, run.start, run.length))
    return {name: LeafTask(place(*name), rows[name], runs[name]) for name in rows}


def _kept(publication: Publication, tasks: Mapping[tuple[str, int], LeafTask]) -> dict[tuple[str, int], Leaf]:
    """The leaves of an earlier run that are as they should be."""
    there = {entry.path for entry in storage.iter_entries(publication.path)}
    names = [name for name, task in tasks.items() if task.path in there]
    found = storage.in_threads(read_footer, [tasks[name].path for name in names])
    return {
        name: leaf
        for name, leaf in zip(names, found, strict=True)
        if leaf is not None and leaf.footer.num_rows == tasks[name].rows
    }


def _widths(schema: pa.Schema, spills: Sequence[Spill]) -> dict[str, int]:
    """Widths of the text columns; ids that are integers in some parts have their digits there."""
    return {
        field.name: max(
            spill.widths.get(field.name, DIGITS_OF_AN_INTEGER if field.name in spill.schema.names else 1)
            for spill in spills
        )
        for field in schema
        if is_plain_text(field.type)
    }
