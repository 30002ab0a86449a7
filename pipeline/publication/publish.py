"""Publish a catalog as HATS: tiles of at most so many rows, sorted by place, with VOParquet metadata.

Three passes, each of many small tasks: count the rows of some parts by place, which gives the tiles; sort
those rows into a spill file, a run a tile; gather the runs of a tile into its leaf. The driver plans and
checks, no row comes back to it. Whatever dies, the same call goes on with what is there.
"""

from __future__ import annotations

import re
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from hiwl_core.errors import IncompleteError, UserError
from pipeline import storage
from pipeline.catalog.manifest import read_making
from pipeline.catalog.model_facts import copy_model_facts
from pipeline.cores import usable_cores
from pipeline.in_notebooks import InNotebooks
from pipeline.lease import Lease
from pipeline.publication.count import plan_publication
from pipeline.publication.hats_metadata import write_collection, write_margin, write_table
from pipeline.publication.hats_tiles import HatsCell
from pipeline.publication.leaves import Leaves, write_leaves
from pipeline.publication.publication_folder import Publication, TilePlan, list_inputs
from pipeline.publication.spill import MAIN, MARGIN, UNPLACED, Spill, plan_sky, split_parts
from pipeline.storage import Entry
from pipeline.storage.own_folders import check_folders_apart
from pipeline.task_pool import TaskPool, ray_pool, thread_pool

__all__ = ["PublishSummary", "publish"]

# Less than this is done by threads of this process before Ray would have started.
SMALL_BYTES = 128 * 2**20
WORK = "the publication"


@dataclass(frozen=True)
class PublishSummary(InNotebooks):
    """What a published catalog holds.

    Parameters
    ----------
    out : str
        Folder of the collection.
    rows : int
        In its tiles.
    without_position : int
        Rows beside them, in ``no_position``.
    tiles : int
    margin_rows : int
        In the margin cache.
    kept : int
        Leaves that an earlier, unfinished run had written.
    new : bool
        False if all of it was there already.
    """

    out: str
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
        Folder of the parts that `pipeline.classification.classify.classify` wrote, local or a URL.
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
        Before any work for wrong options, a folder that is not a catalog, or an `out` that holds anything
        else or is being written by another run; later for parts whose columns do not fit together, parts of
        another making than their catalog, and for a catalog without any position.
    IncompleteError
        If a fault of the machine ended the work, or if the parts changed meanwhile.
    """
    _check_options(name, max_rows, margin, workers)
    check_folders_apart(out, catalog, "the catalog")
    parts = list_inputs(catalog)
    options = {"name": name, "max_rows": max_rows, "margin": float(margin)}
    # Of parts without a header, which are not a catalog of classify's, nothing is required.
    making = read_making(storage.absolute(catalog).rstrip("/"))
    publication = Publication(out, parts, options, group_bytes, making)
    lease = Lease(publication.path, "hiwl publish", keep=False)
    with ExitStack() as stack:
        publication.open(claim=lambda: stack.enter_context(lease))
        if publication.summary is not None:
            storage.remove(publication.spill)
            return PublishSummary(out, new=False, **publication.summary)
        small = workers is None and sum(part.size for part in parts) <= SMALL_BYTES
        with thread_pool(usable_cores(), WORK) if small else ray_pool(workers, WORK) as pool:
            return _publish(pool, publication, catalog, out, parts, lease)


def _publish(
    pool: TaskPool, publication: Publication, catalog: str, out: str, parts: list[Entry], lease: Lease
) -> PublishSummary:
    margin = publication.options["margin"]
    plan = publication.read_plan()
    if plan is None:
        plan = plan_publication(pool, publication)
        publication.write_plan(plan)
    sky, cells = plan_sky(plan.tiles, margin)
    spills = split_parts(pool, publication, sky, plan.rows)
    leaves = write_leaves(pool, publication, spills, plan.tiles, cells)
    changed = list_inputs(catalog) != parts
    if changed or not _complete(plan, spills, leaves):
        raise IncompleteError(
            f"parts of {catalog} changed while they were published: remove {out} and start the same "
            "command again"
        )
    lease.check()
    _write_metadata(publication, plan, cells, leaves)
    copy_model_facts(catalog, out)
    summary: dict[str, Any] = {
        "rows": leaves.rows(MAIN),
        "without_position": leaves.rows(UNPLACED),
        "tiles": len(plan.tiles),
        "margin_rows": leaves.rows(MARGIN),
    }
    publication.finish(summary)
    return PublishSummary(out, kept=leaves.kept, **summary)


def _complete(plan: TilePlan, spills: list[Spill], leaves: Leaves) -> bool:
    """Whether each row of the parts is in the leaves, or beside them, once."""
    by_tile = {number: leaf.footer.num_rows for number, leaf in leaves.by_kind[MAIN].items()}
    return (
        by_tile == {number: tile.rows for number, tile in enumerate(plan.tiles)}
        and leaves.rows(UNPLACED) == plan.without_position
        and leaves.rows(MAIN) + leaves.rows(UNPLACED) == plan.rows == sum(spill.rows for spill in spills)
    )


def _write_metadata(publication: Publication, plan: TilePlan, cells: list[HatsCell], leaves: Leaves) -> None:
    options = publication.options
    write_table(
        publication.catalog,
        publication.name,
        leaves.of(MAIN, plan.tiles),
        leaves.schema,
        options["max_rows"],
        plan.sky,
    )
    # Without a row in any margin there is nothing that a reader could open.
    has_margin = bool(leaves.by_kind[MARGIN])
    if has_margin:
        write_margin(
            publication.margin,
            publication.margin_name,
            publication.name,
            options["margin"],
            leaves.of(MARGIN, cells),
            leaves.schema,
        )
    write_collection(
        publication.path,
        publication.name,
        publication.name,
        publication.margin_name if has_margin else None,
    )


def _check_options(name: str, max_rows: int, margin: float, workers: int | None) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or name == UNPLACED:
        raise UserError(
            f"--name {name!r}: use letters, digits, '.', '_' and '-', and begin with one of the first two"
        )
    if max_rows < 1:
        raise UserError(f"--max-rows {max_rows}: a tile has at least one row")
    if not 0 <= margin <= 3600:
        raise UserError(f"--margin {margin:g}: give arcseconds, from 0 (no margin cache) to 3600")
    if workers is not None and workers < 1:
        raise UserError(f"--workers {workers}: one worker is least")
