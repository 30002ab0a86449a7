"""Classify shards into a catalog: a Ray Data stream from the shards to facts of their parts.

The driver plans, starts the stream of the shards whose parts are missing, and takes down what is done:
`pipeline.classification.catalog_plan` decides what there is to do, `pipeline.classification.shard_stream` has
the stream, and `pipeline.classification.shard_classifier` does the work.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch

from hiwl_core.bundle import ModelBundle
from hiwl_core.cutout_reader import CutoutReader
from hiwl_core.device import choose_compute
from hiwl_core.engines import choose_engine
from hiwl_core.errors import UserError
from hiwl_core.stamps import StampSettings
from pipeline import storage
from pipeline.catalog.ledger import LEDGER_FOLDER, Ledger, LedgerEntry
from pipeline.catalog.manifest import CatalogPlan, PlannedShard, write_model_facts
from pipeline.catalog.shard_content import wanted_columns
from pipeline.classification.catalog_contents import AS_VALIDATED, ESTIMATE, CatalogContents
from pipeline.classification.catalog_plan import plan_catalog
from pipeline.classification.catalog_summary import CatalogSummary
from pipeline.classification.computing import ALL_NODES, AUTO, GPU_NODES, WHATEVER_THERE_IS, Computing
from pipeline.classification.deadline import Deadline, Forecast, in_time
from pipeline.classification.decided import checked_contents, class_shares, decided, model_facts
from pipeline.classification.missing_parts import PartsFound, find_parts
from pipeline.classification.shard_classifier import bundle_place, read_bundle
from pipeline.classification.shard_work import CatalogWork
from pipeline.classification.small_work import WhereComputed, classify_here, is_small
from pipeline.classification.stage_actors import StageActors
from pipeline.cluster import resources_now
from pipeline.cutouts.cutout_plan import CutoutOptions
from pipeline.cutouts.position_shards import Positions, plan_positions
from pipeline.cutouts.positions import OWN_COLUMNS, PositionColumns
from pipeline.ingestion.source import check_source
from pipeline.lease import Lease
from pipeline.progress import progress, say
from pipeline.shards.cutout_shards import CONTRACT_NAMES, Columns
from pipeline.shards.wanted_scale import AS_IT_IS
from pipeline.storage.own_folders import check_folders_apart
from pipeline.task_pool import TaskPool, ray_pool, thread_pool

__all__ = ["classify", "usable_bundle"]

FEW_FILES = 64
"""Their headers are read before a worker of Ray's has begun."""


def classify(
    bundle_path: str,
    shards_path: str,
    catalog: str,
    columns: Columns = CONTRACT_NAMES,
    contents: CatalogContents = AS_VALIDATED,
    computing: Computing = WHATEVER_THERE_IS,
    update: bool = False,
    deadline: Deadline | None = None,
    positions: Positions | None = None,
) -> CatalogSummary:
    """Classify shards into a catalog with one part a shard; parts that are there already are skipped.

    Parameters
    ----------
    bundle_path : str
        Folder of the model bundle, or the name of one in the box.
    shards_path : str
        A file, a folder or a glob; with `positions` of a survey's tiles.
    catalog : str
        Folder of the catalog.
    columns : Columns
        What the columns of the shards are called.
    contents : CatalogContents
        What the catalog is to hold; default: what the model was validated for.
    computing : Computing
        By what, and on which machines; default: what there is.
    update : bool
        Take in shards that were added or changed since the catalog was planned.
    deadline : Deadline, optional
        By when the catalog is wanted.
    positions : Positions, optional
        Classify what tiles show there: a row for each, and no cutout is stored. `columns` and the scale are
        those of its table.

    Raises
    ------
    UserError
        Before any work: for a bundle that is not whole, missing shards or columns, two shards of one name, or
        a catalog of another model, other settings or other shards, one that another run is writing, an engine
        that is not installed, a stage 2 that is to run always and is not there.
    IncompleteError
        If Ray gave up, if the work was to stop at its deadline, or if another run took over since this one
        gave no sign for a minute; whole parts are kept.
    """
    bundle = usable_bundle(bundle_path, contents, computing)
    contents = checked_contents(contents, bundle, columns)
    folder = storage.absolute(catalog).rstrip("/")
    check_folders_apart(folder, shards_path, "the shards")
    lease = Lease(folder, "hiwl classify")
    if positions is not None:
        _check_cut(update, contents, computing)
        computing = replace(computing, decode_on=GPU_NODES)
    with ExitStack() as stack:
        where = WhereComputed(stack)

        @cache
        def claim() -> object:
            return stack.enter_context(lease)

        cutting: dict[str, Any] = {}
        if positions is not None:
            shards_path, cutting["cutting"] = plan_positions(
                folder,
                check_source(shards_path, folder),
                _options(positions, bundle, columns, contents),
                lambda files: stack.enter_context(_pool(files)),
                claim,
            )
            # They are cut at the scale that is wanted.
            columns, contents = CONTRACT_NAMES, replace(contents, scale=AS_IT_IS)

        def settings(stored: dict[str, Any] | None, shards: list[storage.Entry]) -> dict[str, Any]:
            simple = stored is None and positions is None and deadline is None
            where.here = simple and is_small(shards, computing.workers, computing.gpu)
            if stored is None:
                # Before anything is written: what no cluster can do is refused.
                StageActors.on(where.cluster, computing)
            paths = [shard.path for shard in shards]
            run = decided(contents, bundle, stored, lambda: where.cluster, computing, paths, columns)
            # For readers of the footers: what the probabilities assume.
            shares = {"class_shares": class_shares(run, bundle)}
            return {**run.to_settings(columns), **cutting, **shares}

        wanted = wanted_columns({**contents.to_settings(columns), **cutting})
        plan = plan_catalog(folder, shards_path, bundle.model_id, settings, wanted, update, claim)
        storage.prepare_folder(folder, (LEDGER_FOLDER,))
        write_model_facts(folder, model_facts(bundle, CatalogContents.from_settings(plan.settings)))
        found = find_parts(folder, plan)
        summary = _summary_of(catalog, folder, plan, found)
        if not (found.missing or found.adopted):
            return summary
        with Ledger(folder, len(found.missing)) as ledger:
            for entry in found.adopted:
                ledger.add(entry)
            if found.missing:
                place, reader = bundle_place(bundle_path), CutoutReader.of(bundle)
                work = CatalogWork(place, plan.model_id, plan.settings, folder, computing.engine, reader)
                entries = _entries(work, found.missing, where, computing)
                if deadline is not None:
                    left = None if plan.rows is None else plan.rows - summary.rows
                    room = partial(_room, computing)
                    entries = in_time(entries, Forecast(deadline, left, room, computing.workers))
                _take_down(entries, lease, ledger, summary, plan.rows)
    return summary


def _summary_of(catalog: str, folder: str, plan: CatalogPlan, found: PartsFound) -> CatalogSummary:
    """What there is before the work begins."""
    for part in found.damaged:
        say(f"{folder}/{part} is not what was written: it is made anew")
    summary = CatalogSummary(catalog, [f"{folder}/{part}" for part in plan.shards])
    for entry in found.done:
        summary.take(entry)
    summary.skipped_parts = len(found.done)
    return summary


def _take_down(
    entries: Iterator[LedgerEntry], lease: Lease, ledger: Ledger, summary: CatalogSummary, rows: int | None
) -> None:
    """Note what becomes of the missing parts, as long as the catalog is this run's."""
    started = time.monotonic()
    with progress("classifying", rows, summary.rows) as advance:
        for entry in entries:
            lease.check()
            ledger.add(replace(entry, run=ledger.run))
            summary.take(entry)
            if not entry.failed:
                summary.computed += entry.rows
                advance(entry.rows)
    summary.seconds = time.monotonic() - started


def usable_bundle(bundle_path: str, contents: CatalogContents, computing: Computing) -> ModelBundle:
    """A bundle, when it is whole and there is an engine that can run it.

    Raises
    ------
    UserError
    """
    if not computing.gpu:
        choose_engine(computing.engine, contents.precision, choose_compute(torch.device("cpu")))
    bundle = read_bundle(bundle_path)
    for name, stage in bundle.stages.items():
        stage.network(len(bundle.taxonomy.stage_classes(name)))
    return bundle


def _entries(
    work: CatalogWork, missing: Sequence[PlannedShard], where: WhereComputed, computing: Computing
) -> Iterator[LedgerEntry]:
    """The ledger's lines on the missing parts, as they are made.

    No generator: a cluster is connected when this is called, and not by the thread that draws entries for a
    deadline, nor on the clock of the work.
    """
    actors = StageActors.on(where.cluster, computing)
    if actors.where_decoded:
        say(actors.where_decoded)
    if where.here:
        return classify_here(work, missing, where.cluster.cpus)
    # Here, since it takes a second to import.
    from pipeline.classification.shard_stream import classify_shards

    return classify_shards(work, missing, actors)


def _room(computing: Computing) -> int:
    """Actors that the cluster has room for now."""
    return StageActors.on(resources_now(), replace(computing, decode_on=AUTO)).room


def _pool(files: int) -> AbstractContextManager[TaskPool]:
    """A pool that looks at the headers of so many tiles."""
    work = "the look at the tiles"
    return thread_pool(1, work) if files <= FEW_FILES else ray_pool(None, work)


def _options(
    positions: Positions, bundle: ModelBundle, columns: Columns, contents: CatalogContents
) -> CutoutOptions:
    """What is cut for a model: its bands, and as much as its networks see."""

    def given(name: str) -> str | None:
        """A column's name, unless it is that of the contract, which is the first of the usual ones."""
        return (
            None if getattr(columns, name) == getattr(CONTRACT_NAMES, name) else str(getattr(columns, name))
        )

    own = tuple(name for name in contents.carry if name not in OWN_COLUMNS)
    names = PositionColumns(given("id"), given("ra"), given("dec"), contents.scale.column, own)
    bands = tuple(dict.fromkeys(bundle.rgb.bands))
    settings = StampSettings(bands, bundle.smallest_cutout)
    return CutoutOptions(positions.path, names, settings, contents.scale, positions.mask_planes)


def _check_cut(update: bool, contents: CatalogContents, computing: Computing) -> None:
    """Check that nothing is asked for which tables of positions cannot give."""
    if update:
        raise UserError("--update: other tiles or positions make another catalog, leave the option out")
    if contents.keep_truth:
        raise UserError("a table of positions has no labels: cut it by `hiwl cutouts` first")
    if contents.prior == ESTIMATE:
        raise UserError("--prior estimate: there are no shards to estimate it from; give class shares")
    if computing.decode_on == ALL_NODES:
        raise UserError(
            f"--decode-on {ALL_NODES}: who classifies cuts from tiles itself, leave the option out"
        )
