"""Classify shards into a catalog: a Ray Data stream from the shards to facts of their parts.

The driver plans, starts the stream of the shards whose parts are missing, and takes down what is done:
`pipeline.classification.plan` decides what there is to do, `pipeline.classification.shard_stream` has the
stream, and `pipeline.classification.shard_classifier` does the work.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from functools import cache
from typing import Any

import pyarrow as pa
import torch

from hiwl_core.bundle import ModelBundle
from hiwl_core.cutout_reader import CutoutReader
from hiwl_core.device import choose_compute
from hiwl_core.engines import choose_engine
from hiwl_core.errors import UserError
from hiwl_core.stamps import StampSettings
from hiwl_core.taxonomy import Taxonomy
from pipeline import storage
from pipeline.catalog.catalog_schema import TRUE_LABEL, catalog_schema
from pipeline.catalog.ledger import LEDGER_FOLDER, Ledger, LedgerEntry
from pipeline.catalog.plan import write_model_facts
from pipeline.classification.cascade_stage import CatalogWork
from pipeline.classification.catalog_summary import CatalogSummary
from pipeline.classification.deadline import Deadline, Forecast, in_time
from pipeline.classification.missing_parts import find_parts
from pipeline.classification.model_settings import (
    AS_VALIDATED,
    ESTIMATE,
    ModelSettings,
    decided,
    model_facts,
)
from pipeline.classification.plan import catalog_settings, plan_catalog
from pipeline.classification.seen_rows import SEEN_COLUMN
from pipeline.classification.shard_classifier import bundle_place, read_bundle
from pipeline.classification.small_work import WhereComputed, classify_here, is_small
from pipeline.classification.stage_actors import ALL_NODES, AUTO, GPU_NODES, StageActors
from pipeline.cluster import resources_now
from pipeline.cutouts.planning import CutoutOptions
from pipeline.cutouts.position_shards import Positions, plan_positions
from pipeline.cutouts.positions import OWN_COLUMNS, PositionColumns
from pipeline.ingestion.source import check_source
from pipeline.lease import Lease
from pipeline.progress import progress, say
from pipeline.shards.cutout_shards import Columns
from pipeline.shards.wanted_scale import AS_IT_IS, WantedScale, kept_scale
from pipeline.storage.own_folders import check_folders_apart
from pipeline.task_pool import TaskPool, ray_pool, thread_pool

__all__ = ["check_names", "classify"]

FEW_FILES = 64
"""Their headers are read before a worker of Ray's has begun."""


def classify(
    bundle_path: str,
    shards_path: str,
    catalog: str,
    columns: Columns | None = None,
    carry: Sequence[str] = (),
    stage2: str = "routed",
    workers: int | None = None,
    gpu: bool | None = None,
    keep_truth: bool = False,
    scale: WantedScale = AS_IT_IS,
    update: bool = False,
    engine: str = "auto",
    model: ModelSettings = AS_VALIDATED,
    deadline: Deadline | None = None,
    positions: Positions | None = None,
    decode_on: str = AUTO,
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
    columns : Columns, optional
        What the columns of the shards are called.
    carry : sequence of str
        Further columns of the shards to take over.
    stage2 : {"routed", "always"}
        On which galaxies stage 2 runs.
    workers : int, optional
        Actors at most; default: as many as the cluster has room for now.
    gpu : bool, optional
        Whether each actor takes a GPU; default: if the cluster has any now.
    keep_truth : bool
        Take the shards' labels over as the column `true_label`.
    scale : WantedScale
        The pixel scale at which the model is to see each galaxy; default: that at which it was trained, or as
        the images are.
    update : bool
        Take in shards that were added or changed since the catalog was planned.
    engine : str
        What runs the networks; see `hiwl_core.engines.choose_engine`.
    model : ModelSettings
        Views, precision, prior and coverage.
    deadline : Deadline, optional
        By when the catalog is wanted.
    positions : Positions, optional
        Classify what tiles show there: a row for each, and no cutout is stored. `columns` and `scale` are
        those of its table.
    decode_on : {"auto", "gpu-nodes", "all-nodes"}
        Whether workers with GPUs read and decode for themselves, or all nodes do for them; default: these, if
        the nodes without GPUs have as many CPUs as the workers leave idle then.

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
    columns, carry = columns or Columns(), tuple(dict.fromkeys(carry))
    if workers is not None and workers < 1:
        raise UserError(f"--workers {workers}: one worker is least")
    if not gpu:
        choose_engine(engine, model.precision, choose_compute(torch.device("cpu")))
    bundle = read_bundle(bundle_path)
    scale = kept_scale(bundle.scale, scale)
    for name, stage in bundle.stages.items():
        stage.network(len(bundle.taxonomy.stage_classes(name)))
    model = model.checked(bundle, stage2 == "always")
    check_names(bundle.taxonomy, columns, carry, model.features)
    folder = storage.absolute(catalog).rstrip("/")
    check_folders_apart(folder, shards_path, "the shards")
    lease = Lease(folder, "hiwl classify")
    required = ["object_id", *(["image"] if positions is None else []), *(["label"] if keep_truth else [])]
    if positions is not None:
        _check_cut(update, keep_truth, model, decode_on)
        decode_on = GPU_NODES
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
                _options(positions, bundle, columns, carry, scale),
                lambda files: stack.enter_context(_pool(files)),
                claim,
            )
            # They are cut at the scale that is wanted.
            columns, scale = Columns(), AS_IT_IS

        def settings(stored: dict[str, Any] | None, shards: list[storage.Entry]) -> dict[str, Any]:
            simple = stored is None and positions is None and deadline is None
            where.here = simple and is_small(shards, workers, gpu)
            if stored is None:
                # Before anything is written: what no cluster can do is refused.
                StageActors.on(where.cluster, engine, workers, gpu, decode_on)
            paths = [shard.path for shard in shards]
            run = decided(model, bundle, stored, lambda: where.cluster, gpu, engine, paths, columns, scale)
            return {
                **catalog_settings(columns, carry, stage2, keep_truth, scale),
                **cutting,
                **run.to_dict(),
                # For readers of the footers: what the probabilities assume.
                "class_shares": run.class_shares(bundle),
            }

        plan = plan_catalog(
            folder,
            shards_path,
            bundle.model_id,
            settings,
            columns,
            required,
            carry,
            scale,
            update,
            claim=claim,
        )
        storage.prepare_folder(folder, (LEDGER_FOLDER,))
        write_model_facts(folder, model_facts(bundle, ModelSettings.from_dict(plan.settings)))
        found = find_parts(folder, plan)
        for part in found.damaged:
            say(f"{folder}/{part} is not what was written: it is made anew")
        summary = CatalogSummary(catalog, [f"{folder}/{part}" for part in plan.shards])
        for entry in found.done:
            summary.take(entry)
        summary.skipped_parts = len(found.done)
        if not found.missing:
            if found.adopted:
                with Ledger(folder, 0) as ledger:
                    _take_down(ledger, found.adopted)
            return summary

        with Ledger(folder, len(found.missing)) as ledger:
            _take_down(ledger, found.adopted)
            actors = StageActors.on(where.cluster, engine, workers, gpu, decode_on)
            if actors.where_decoded:
                say(actors.where_decoded)
            place = bundle_place(bundle_path)
            reader = CutoutReader.of(bundle)
            work = CatalogWork(place, plan.model_id, columns, plan.settings, folder, engine, reader)
            started = time.monotonic()
            with progress("classifying", plan.rows, summary.rows) as advance:
                if where.here:
                    entries = classify_here(work, found.missing, where.cluster.cpus)
                else:
                    # Here, since it takes a second to import.
                    from pipeline.classification.shard_stream import classify_shards

                    entries = classify_shards(work, found.missing, actors)
                if deadline is not None:
                    left = None if plan.rows is None else plan.rows - summary.rows
                    forecast = Forecast(
                        deadline,
                        left,
                        lambda: StageActors.on(resources_now(), engine, workers, gpu).room,
                        workers,
                    )
                    entries = in_time(entries, forecast)
                for entry in entries:
                    lease.check()
                    ledger.add(replace(entry, run=ledger.run))
                    summary.take(entry)
                    if not entry.failed:
                        summary.computed += entry.rows
                        advance(entry.rows)
            summary.seconds = time.monotonic() - started
    return summary


def _pool(files: int) -> AbstractContextManager[TaskPool]:
    """A pool that looks at the headers of so many tiles."""
    work = "the look at the tiles"
    return thread_pool(1, work) if files <= FEW_FILES else ray_pool(None, work)


def _options(
    positions: Positions, bundle: ModelBundle, columns: Columns, carry: Sequence[str], scale: WantedScale
) -> CutoutOptions:
    """What is cut for a model: its bands, and as much as its networks see."""
    standard = Columns()

    def given(name: str) -> str | None:
        """A column's name, unless it is that of the contract, which is the first of the usual ones."""
        return None if getattr(columns, name) == getattr(standard, name) else str(getattr(columns, name))

    own = tuple(name for name in carry if name not in OWN_COLUMNS)
    names = PositionColumns(given("id"), given("ra"), given("dec"), scale.column, own)
    bands = tuple(dict.fromkeys(bundle.rgb.bands))
    settings = StampSettings(bands, bundle.smallest_cutout)
    return CutoutOptions(positions.path, names, settings, scale, positions.mask_planes)


def _check_cut(update: bool, keep_truth: bool, model: ModelSettings, decode_on: str) -> None:
    """Check that nothing is asked for which tables of positions cannot give."""
    if update:
        raise UserError("--update: other tiles or positions make another catalog, leave the option out")
    if keep_truth:
        raise UserError("a table of positions has no labels: cut it by `hiwl cutouts` first")
    if model.prior == ESTIMATE:
        raise UserError("--prior estimate: there are no shards to estimate it from; give class shares")
    if decode_on == ALL_NODES:
        raise UserError(
            f"--decode-on {ALL_NODES}: who classifies cuts from tiles itself, leave the option out"
        )


def _take_down(ledger: Ledger, entries: Sequence[LedgerEntry]) -> None:
    for entry in entries:
        ledger.add(entry)


def check_names(taxonomy: Taxonomy, columns: Columns, carry: Sequence[str], features: bool = False) -> None:
    """Check that no carried column has a name that the catalog uses itself, in whatever case.

    DuckDB, FITS and VOTable readers take ``RA`` and ``ra`` for one.
    """
    own = {
        *catalog_schema(taxonomy, pa.int64(), features=int(features)).names,
        TRUE_LABEL,
        "image",
        columns.image,
        SEEN_COLUMN,
    }
    taken = {name.lower(): name for name in own}
    for name in carry:
        other = taken.get(name.lower())
        if other is not None:
            beside = "" if other == name else f" by {other!r}"
            raise UserError(
                f"--carry {name}: that name is taken in the catalog{beside}; rename the shards' column"
            )
        taken[name.lower()] = name
