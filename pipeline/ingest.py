"""Images to cutout shards: plan on the driver, one shard a task, resume by what is there already."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import ray
import ray.exceptions

from hiwl_core.errors import IncompleteError, UserError
from hiwl_core.recipe import RgbSettings
from hiwl_core.taxonomy import GALAXY_ZOO, Taxonomy
from pipeline import storage
from pipeline.cluster import connected
from pipeline.ingest_folder import IngestFolder, ShardRecord, count_classes
from pipeline.ingest_inventory import Inventory
from pipeline.ingest_plan import (
    NO_IMAGE,
    IngestPlan,
    PlannedShard,
    check_carry,
    cut_shards,
    lines_of,
    write_objects,
)
from pipeline.ingest_shard import IngestJob, write_shard
from pipeline.labels import SERIES_NAME, UNLABELED, Labels, read_labels
from pipeline.progress import progress
from pipeline.shards import MAX_SHARD_BYTES, MAX_SHARD_ROWS, Columns
from pipeline.source import Listing, check_source
from pipeline.source_parquet import ParquetColumns, describe_tables, iter_objects

__all__ = ["IngestSummary", "ingest"]

NAMED_REJECTS = 10
TASKS_IN_FLIGHT = 1000
TASK_RETRIES = 3


@dataclass(frozen=True)
class IngestSummary:
    """What an ingest wrote.

    Parameters
    ----------
    rows, shards : int
        Rows and shards in the folder, those of an earlier run included.
    resumed : int
        Shards that an earlier run had written.
    classes : dict of str to dict of str to int
        For each series (``train``, ...) its rows by label; ``""`` counts those without one.
    rejects : list of [object id, file, reason]
        The first ten of ``rejects.csv``: images that cannot be used, then labels without an image.
    unreadable, without_image, unlabeled, dropped, other_files : int
        Images that cannot be used; labels without an image; objects without a label that were kept,
        and that were left out; files of the source that are no images.
    seconds : float
    """

    rows: int
    shards: int
    resumed: int
    classes: dict[str, dict[str, int]] = field(default_factory=dict)
    rejects: list[list[str]] = field(default_factory=list)
    unreadable: int = 0
    without_image: int = 0
    unlabeled: int = 0
    dropped: int = 0
    other_files: int = 0
    seconds: float = 0.0


def ingest(
    source: str,
    out: str,
    labels: str | None = None,
    *,
    columns: Columns | None = None,
    labels_id_column: str | None = None,
    labels_class_column: str | None = None,
    carry: Sequence[str] = (),
    name: str = "cutouts",
    drop_unlabeled: bool = False,
    bands: Sequence[str] = (),
    rgb: RgbSettings | None = None,
    taxonomy: Taxonomy = GALAXY_ZOO,
    shard_rows: int = MAX_SHARD_ROWS,
    shard_bytes: int = MAX_SHARD_BYTES,
) -> IngestSummary:
    """Pack images or foreign tables into cutout shards.

    Each image is decoded once, to the end; one that cannot be is left out and named in ``rejects.csv``. The
    same call again writes only the shards that are not there yet.

    Parameters
    ----------
    source : str
        Folder or zip of JPEG, PNG or FITS files, or Parquet file, folder or glob; path or URL.
    out : str
        Folder for the shards; path or URL.
    labels : str, optional
        Table of classes, see `pipeline.labels.read_labels`.
    columns : Columns, optional
        What the columns of a Parquet source are called.
    labels_id_column, labels_class_column : str, optional
        What the columns of `labels` are called.
    carry : sequence of str
        Further columns to keep.
    name : str
        First part of the shards' names where the labels have no split.
    drop_unlabeled : bool
        Leave out the objects without a label, which otherwise become shards of their own.
    bands : sequence of str
        Bands of sets of FITS files, one file a band, named as `pipeline.source.split_band` says.
    rgb : RgbSettings, optional
        Colors to make of FITS images; without them single FITS files stay as they are. `bands` needs it.
    taxonomy : Taxonomy
        The allowed classes.
    shard_rows, shard_bytes : int
        Upper bounds of a shard; bytes are those of the images.

    Returns
    -------
    IngestSummary

    Raises
    ------
    UserError
        For mistakes in the arguments and tables, found before any work; and if no image can be read.
    IncompleteError
        If shards could not be written; what was written is kept.
    """
    started = time.monotonic()
    out = storage.absolute(out).rstrip("/")
    if not re.fullmatch(SERIES_NAME, name) or name == UNLABELED:
        raise UserError(f"--name {name!r} cannot name shards: use letters and digits, such as cutouts")
    columns = columns or Columns()
    carry = tuple(dict.fromkeys(carry))
    place = check_source(source, out)
    bands = _checked_bands(bands, rgb)
    settings = {
        "--labels": _labels_digest(labels) if labels else None,
        "--labels-id-column": labels_id_column,
        "--labels-class-column": labels_class_column,
        "--carry": list(carry),
        "--name": name,
        "--drop-unlabeled": drop_unlabeled,
        "--bands": list(bands),
        "--recipe": rgb and rgb.model_dump(mode="json"),
        "columns": list(columns.standard_names().values()),
        "rows in a shard": shard_rows,
        "bytes in a shard": shard_bytes,
    }
    folder = IngestFolder(out)
    plan = folder.read_plan()
    listing = Listing(place, out, bands)
    if plan is None:
        known = (
            read_labels(labels, labels_id_column, labels_class_column, carry, taxonomy) if labels else None
        )
        plan, parquet = _plan(listing, folder, columns, known, settings, rgb, taxonomy)
    else:
        for _ in listing.iter_images():
            pass
        now = IngestPlan(listing.kind, place, listing.digest(), settings, images=listing.images)
        folder.check_same(plan, now)
        # The files have the same columns, since they were planned and have not changed.
        parquet = describe_tables(listing.tables[:1], columns, carry) if listing.tables else ParquetColumns()

    shards = plan.shards()
    records = folder.finished(shards)
    resumed = sum(record.rows > 0 for record in records.values())
    job = IngestJob(plan.kind, place, out, carry, parquet, rgb)
    records |= _write([shard for shard in shards if shard.name not in records], job, plan.rows)

    ordered = [records[shard.name] for shard in shards]
    rejects = folder.write_rejects(ordered, NAMED_REJECTS)
    summary = IngestSummary(
        rows=sum(record.rows for record in ordered),
        shards=sum(record.rows > 0 for record in ordered),
        resumed=resumed,
        classes=count_classes(ordered),
        rejects=rejects,
        unreadable=sum(record.rejects for record in ordered),
        without_image=plan.without_image,
        unlabeled=plan.unlabeled,
        dropped=plan.dropped,
        other_files=plan.other_files,
        seconds=time.monotonic() - started,
    )
    if not summary.rows:
        identifier, file, reason = rejects[0]
        raise UserError(
            f"not one of the {plan.rows} images of {place} can be read (object {identifier}, {file}: "
            f"{reason}); see {out}/rejects.csv, and ingest good images into another folder"
        )
    return summary


def _plan(
    listing: Listing,
    folder: IngestFolder,
    columns: Columns,
    labels: Labels | None,
    settings: dict[str, Any],
    rgb: RgbSettings | None,
    taxonomy: Taxonomy,
) -> tuple[IngestPlan, ParquetColumns]:
    """List the source, check it, and store which object goes to which shard."""
    place, parquet = listing.place, ParquetColumns()
    bands = settings["--bands"]
    with Inventory(bands) as inventory:
        inventory.add_images(listing.iter_images())
        if listing.tables:
            parquet = describe_tables(listing.tables, columns, settings["--carry"])
            for objects, integers in iter_objects(listing.tables, columns, parquet.has_label):
                inventory.add(objects, integers)
        if bands and rgb is not None:
            inventory.gather_sets(rgb.bands)
        inventory.check_ids()
        if labels is None:
            _check_classes(place, inventory.classes(), taxonomy)
        check_carry(place, parquet, labels, settings["--carry"])
        without_image = inventory.join(labels, settings["--name"])
        rows, unlabeled = inventory.count()
        drop = settings["--drop-unlabeled"]
        if drop and unlabeled == rows:
            raise UserError(f"no object of {place} has a label, and --drop-unlabeled leaves out all")
        shards = cut_shards(
            inventory.iter_planned(drop), settings["rows in a shard"], settings["bytes in a shard"]
        )
        series = write_objects(folder.plan_objects, shards, labels)
    plan = IngestPlan(
        listing.kind,
        place,
        listing.digest(),
        settings,
        series,
        images=listing.images,
        unlabeled=0 if drop else unlabeled,
        dropped=unlabeled if drop else 0,
        without_image=len(without_image),
        other_files=listing.other_files,
    )
    folder.write_plan(plan, lines_of([identifier, "", NO_IMAGE] for identifier in without_image))
    return plan, parquet


def _checked_bands(bands: Sequence[str], rgb: RgbSettings | None) -> tuple[str, ...]:
    """The bands, spelled as the colors that are to be made of them have them."""
    if not bands:
        return ()
    given = ",".join(bands)
    if rgb is None:
        raise UserError(
            f"--bands {given} needs --recipe NAME, whose section [rgb] says how bands become colors"
        )
    spelled = {band.lower(): band for band in (*bands, *rgb.bands)}
    if not all(map(str.strip, bands)) or len({band.lower() for band in bands}) < len(bands):
        raise UserError(f"--bands {given!r}: write different names with commas, such as g,r,i")
    missing = [band for band in rgb.bands if band.lower() not in map(str.lower, bands)]
    if missing:
        raise UserError(
            f"--bands {given} lacks {missing[0]!r}: the recipe makes red, green and blue of "
            f"{', '.join(rgb.bands)} ([rgb] bands)"
        )
    return tuple(spelled[band.lower()] for band in bands)


def _labels_digest(path: str) -> str:
    try:
        with storage.open_input(path) as file:
            digest = hashlib.sha256()
            while piece := file.read(2**20):
                digest.update(piece)
            return digest.hexdigest()
    except FileNotFoundError:
        raise UserError(f"no file {path!r}") from None


def _check_classes(place: str, classes: list[str], taxonomy: Taxonomy) -> None:
    try:
        taxonomy.encode(classes)
    except UserError as error:
        raise UserError(f"{place}: {error}; name the classes' column with --label-column") from None


def _write(shards: Sequence[PlannedShard], job: IngestJob, objects: int) -> dict[str, ShardRecord]:
    """Write shards, each in a task of its own, so that it starts, fails and is retried by itself."""
    records: dict[str, ShardRecord] = {}
    errors: list[str] = []
    if not shards:
        return records
    missing = sum(shard.rows for shard in shards)
    with connected(), progress("ingesting", objects, objects - missing) as advance:
        task = ray.remote(num_cpus=1, max_retries=TASK_RETRIES)(write_shard)
        shared = ray.put(job)
        waiting: dict[ray.ObjectRef, PlannedShard] = {}
        coming = iter(shards)
        # Enough tasks to keep a large cluster busy, or make it grow; not all that a survey has.
        while waiting := waiting | {
            task.remote(shard, shared): shard for shard in islice(coming, TASKS_IN_FLIGHT - len(waiting))
        }:
            (done,), _ = ray.wait(list(waiting), num_returns=1)
            shard = waiting.pop(done)
            try:
                record, error = ray.get(done)
            except ray.exceptions.RayError as failure:  # the worker died, and so did its successors
                record, error = None, f"{shard.name}: {type(failure).__name__}"
            if record is None:
                errors.append(error)
                continue
            records[shard.name] = record
            advance(shard.rows)
    if errors:
        raise IncompleteError(
            f"{len(errors)} of {len(shards)} shards could not be written ({min(errors)}); the others are "
            "kept: run the same command again to write the missing ones"
        )
    return records
