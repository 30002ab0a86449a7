"""Images to cutout shards: a stored plan, one shard a task, resume by what is there already."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from hiwl_core.errors import IncompleteError, UserError
from hiwl_core.recipe_sections import RgbSettings
from hiwl_core.taxonomy import GALAXY_ZOO, Taxonomy
from pipeline import storage
from pipeline.cores import usable_cores
from pipeline.in_notebooks import InNotebooks
from pipeline.ingestion.folder import IngestFolder, ShardRecord, count_classes
from pipeline.ingestion.ingest_plan import IngestOptions, check_unchanged, make_plan
from pipeline.ingestion.shard import IngestJob, write_shard
from pipeline.ingestion.shard_plan import ShardToWrite
from pipeline.ingestion.source import Listing, check_source
from pipeline.ingestion.split import Split
from pipeline.lease import Lease
from pipeline.progress import progress
from pipeline.shards.cutout_shards import MAX_SHARD_BYTES, MAX_SHARD_ROWS, Columns
from pipeline.task_pool import ray_pool, thread_pool

__all__ = ["IngestSummary", "ingest"]

NAMED_REJECTS = 10
# So few images are packed before Ray would have begun.
FEW_IMAGES = 2_000
# Enough tasks to keep a large cluster busy, or make it grow; not all that a survey has.
TASKS_AT_ONCE = 1000
WORK = "the ingest"


@dataclass(frozen=True)
class IngestSummary(InNotebooks):
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
    split: Split | None = None,
    class_folders: bool = False,
    renamed: Mapping[str, str] | None = None,
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
        Table of classes, see `pipeline.ingestion.labels.read_labels`.
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
        Bands of sets of FITS files, one file a band, named as `pipeline.ingestion.source.split_band` says.
    rgb : RgbSettings, optional
        Colors to make of FITS images; without them single FITS files stay as they are. `bands` needs it.
    split : Split, optional
        Which objects with a label become ``train``, ``val`` and ``test``, where no column says so.
    class_folders : bool
        Whether each class has a folder of its own in the source, which is named like it.
    renamed : mapping of str, optional
        What classes are called in the taxonomy, where the labels call them otherwise.
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
        For mistakes in the arguments and tables, found before any work; if another run is writing `out`; and
        if no image can be read.
    IncompleteError
        If shards could not be written; what was written is kept.
    """
    started = time.monotonic()
    out = storage.absolute(out).rstrip("/")
    options = IngestOptions(
        labels,
        labels_id_column,
        labels_class_column,
        columns or Columns(),
        tuple(dict.fromkeys(carry)),
        name,
        drop_unlabeled,
        tuple(bands),
        rgb,
        split,
        class_folders,
        renamed or {},
        shard_rows,
        shard_bytes,
    )
    options.check()
    place = check_source(source, out)
    listing = Listing(place, out, options.bands)
    folder, lease = IngestFolder(out), Lease(out, "hiwl ingest", keep=False)
    with ExitStack() as stack:
        plan = folder.read_plan()
        # Once: what this process did not end goes to Ray's workers the next time.
        here = plan is None and not os.environ.get("RAY_ADDRESS")
        if plan is None:
            plan, parquet = make_plan(
                listing, options, folder, taxonomy, claim=lambda: stack.enter_context(lease)
            )
        else:
            parquet = check_unchanged(plan, listing, options, folder)
            stack.enter_context(lease)

        shards = plan.shards()
        records = folder.finished(shards)
        resumed = sum(record.rows > 0 for record in records.values())
        job = IngestJob(plan.kind, place, out, options.carry, parquet, rgb, folder.plan_mark(), plan.objects)
        missing = [shard for shard in shards if shard.name not in records]
        if missing:
            records |= _write(missing, job, plan.rows, lease, here and plan.rows <= FEW_IMAGES)

        ordered = [records[shard.name] for shard in shards]
        rejects = folder.write_rejects(plan, ordered, NAMED_REJECTS)
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


def _write(
    shards: Sequence[ShardToWrite], job: IngestJob, objects: int, lease: Lease, here: bool
) -> dict[str, ShardRecord]:
    """Write shards, each by itself, so that it starts, fails and is retried alone."""
    records: dict[str, ShardRecord] = {}
    errors: list[str] = []
    missing = sum(shard.rows for shard in shards)
    tasks = thread_pool(usable_cores(), WORK) if here else ray_pool(TASKS_AT_ONCE, WORK, _lost)
    with tasks as pool, progress("ingesting", objects, objects - missing) as advance:
        for number, (record, error) in pool.run(write_shard, shards, job):
            lease.check()
            if record is None:
                errors.append(error)
                continue
            records[shards[number].name] = record
            advance(shards[number].rows)
    if errors:
        raise IncompleteError(
            f"{len(errors)} of {len(shards)} shards could not be written ({min(errors)}); the others are "
            "kept: run the same command again to write the missing ones"
        )
    return records


def _lost(shard: ShardToWrite, fault: str) -> tuple[None, str]:
    """What becomes of a shard whose worker died, and so did its successors."""
    return None, f"{shard.name}: {fault}"
