"""Images to cutout shards: a stored plan, one shard a task, resume by what is there already."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from hiwl_core.errors import IncompleteError, UserError
from pipeline import storage
from pipeline.cores import usable_cores
from pipeline.in_notebooks import InNotebooks
from pipeline.ingestion.folder import IngestFolder, ShardRecord, count_classes
from pipeline.ingestion.ingest_options import AS_THEY_ARE, IngestOptions
from pipeline.ingestion.ingest_plan import check_unchanged, make_plan
from pipeline.ingestion.shard import IngestJob, write_shard
from pipeline.ingestion.shard_plan import ShardToWrite
from pipeline.ingestion.source import Listing, check_source
from pipeline.lease import Lease
from pipeline.named_cluster import named_cluster
from pipeline.progress import progress
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


def ingest(source: str, out: str, options: IngestOptions = AS_THEY_ARE) -> IngestSummary:
    """Pack images or foreign tables into cutout shards.

    Each image is decoded once, to the end; one that cannot be is left out and named in ``rejects.csv``. The
    same call again writes only the shards that are not there yet.

    Parameters
    ----------
    source : str
        Folder or zip of JPEG, PNG or FITS files, or Parquet file, folder or glob; path or URL.
    out : str
        Folder for the shards; path or URL.
    options : IngestOptions
        What is taken of the source, and how it is cut; default: all images as they are.

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
    options = replace(options, carry=tuple(dict.fromkeys(options.carry)))
    options.check()
    place = check_source(source, out)
    listing = Listing(place, out, options.bands)
    folder, lease = IngestFolder(out), Lease(out, "hiwl ingest", keep=False)
    with ExitStack() as stack:
        plan = folder.read_plan()
        # Once: what this process did not end goes to Ray's workers the next time.
        here = plan is None and named_cluster() is None
        if plan is None:
            plan, parquet = make_plan(listing, options, folder, claim=lambda: stack.enter_context(lease))
        else:
            parquet = check_unchanged(plan, listing, options, folder)
            stack.enter_context(lease)

        shards = plan.shards()
        records = folder.finished(shards)
        resumed = sum(record.rows > 0 for record in records.values())
        job = IngestJob(
            plan.kind, place, out, options.carry, parquet, options.rgb, folder.plan_mark(), plan.objects
        )
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
