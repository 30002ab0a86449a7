"""Images to cutout shards: plan on the driver, one shard a task, resume by what is there already."""

from __future__ import annotations

import csv
import io
import json
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import ray

from hiwl_core.errors import IncompleteError, UserError
from hiwl_core.taxonomy import GALAXY_ZOO, Taxonomy
from pipeline import storage
from pipeline.cluster import connected
from pipeline.ingest_plan import IngestPlan, ShardPlan, make_plan, table_bytes
from pipeline.ingest_shard import IngestJob, ShardRecord, read_record, record_path, write_shard
from pipeline.labels import SERIES_NAME, UNLABELED, read_labels
from pipeline.progress import progress
from pipeline.shards import MAX_SHARD_BYTES, MAX_SHARD_ROWS, Columns
from pipeline.source import take_inventory

__all__ = ["IngestSummary", "ingest"]


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
        Images that cannot be used, then labels without an image.
    without_image, unlabeled, dropped, other_files : int
        Labels without an image; objects without a label that were kept, and that were left out; files of the
        source that are no images.
    seconds : float
    """

    rows: int
    shards: int
    resumed: int
    classes: dict[str, dict[str, int]] = field(default_factory=dict)
    rejects: list[list[str]] = field(default_factory=list)
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
        Folder or zip of JPEG and PNG files, or Parquet file, folder or glob; path or URL.
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
    carry = tuple(dict.fromkeys(carry))
    table = read_labels(labels, labels_id_column, labels_class_column, carry, taxonomy) if labels else None
    found = take_inventory(source, columns or Columns(), out, carry)
    if table is None:
        _check_classes(found.place, found.objects["label"].drop_null().unique().to_pylist(), taxonomy)
    plan = make_plan(found, table, name, carry, drop_unlabeled, shard_rows, shard_bytes)
    _claim(out, plan, found.place)

    records = _finished(out, plan)
    resumed = sum(record.rows > 0 for record in records.values())
    missing = [shard for shard in plan.shards if shard.name not in records]
    if missing:
        job = IngestJob(found.kind, found.place, out, plan.carry, found.parquet)
        records |= _write(missing, job, plan.rows)

    ordered = [records[shard.name] for shard in plan.shards]
    rejects = [reject for record in ordered for reject in record.rejects]
    rejects += [[identifier, "", "no image"] for identifier in plan.without_image]
    storage.write_bytes(f"{out}/rejects.csv", _rejects_csv(rejects))
    classes: dict[str, Counter[str]] = {}
    for record in ordered:
        classes.setdefault(record.series, Counter()).update(record.classes)
    summary = IngestSummary(
        rows=sum(record.rows for record in ordered),
        shards=sum(record.rows > 0 for record in ordered),
        resumed=resumed,
        classes={series: dict(counts) for series, counts in classes.items()},
        rejects=rejects,
        without_image=len(plan.without_image),
        unlabeled=plan.unlabeled,
        dropped=plan.dropped,
        other_files=found.other_files,
        seconds=time.monotonic() - started,
    )
    if not summary.rows:
        identifier, file, reason = rejects[0]
        raise UserError(
            f"not one of the {plan.rows} images of {found.place} can be read (object {identifier}, {file}: "
            f"{reason}); see {out}/rejects.csv, and ingest good images into another folder"
        )
    return summary


def _check_classes(place: str, classes: list[str], taxonomy: Taxonomy) -> None:
    try:
        taxonomy.encode(classes)
    except UserError as error:
        raise UserError(f"{place}: {error}; name the classes' column with --label-column") from None


def _claim(out: str, plan: IngestPlan, place: str) -> None:
    """Write the plan's hash into the folder, or check that the one there is the same."""
    path = f"{out}/_ingest/plan.json"
    if storage.exists(path):
        begun = json.loads(storage.read_bytes(path))
        if begun["digest"] != plan.digest:
            raise UserError(
                f"{out} holds an ingest of another plan, from {begun['source']}: the source, the labels or "
                "the options are not the same; choose another folder, or remove this one"
            )
        return
    if any(name.endswith(".parquet") for name in _names(out)):
        raise UserError(f"{out} holds other Parquet files: choose another folder, or remove them")
    content = {"digest": plan.digest, "source": place, "shards": [shard.name for shard in plan.shards]}
    storage.write_bytes(path, json.dumps(content, indent=1).encode())


def _finished(out: str, plan: IngestPlan) -> dict[str, ShardRecord]:
    """The records of the shards that an earlier run finished."""
    shards, kept = _names(out), _names(f"{out}/_ingest")
    records: dict[str, ShardRecord] = {}
    for shard in plan.shards:
        path = record_path(out, shard.name)
        if path.rsplit("/", 1)[-1] in kept:
            record = read_record(path)
            if not record.rows or shard.name in shards:
                records[shard.name] = record
    return records


def _names(folder: str) -> set[str]:
    try:
        return {path.rsplit("/", 1)[-1] for path in storage.find_files(folder, (".parquet", ".json"))}
    except UserError:
        return set()


def _write(shards: Sequence[ShardPlan], job: IngestJob, objects: int) -> dict[str, ShardRecord]:
    plans = [
        {"name": shard.name, "series": shard.series, "objects": table_bytes(shard.objects)}
        for shard in shards
    ]
    sizes = {shard.name: shard.objects.num_rows for shard in shards}
    records: dict[str, ShardRecord] = {}
    errors: list[str] = []
    with connected(), progress("ingesting", objects, objects - sum(sizes.values())) as advance:
        # A block a shard, so that a shard is a task: it starts, fails and is retried by itself.
        planned = ray.data.from_items(plans, override_num_blocks=len(plans))
        for row in planned.map(write_shard, fn_kwargs={"job": job}, num_cpus=1).iter_rows():
            if row["error"]:
                errors.append(row["error"])
                continue
            record = ShardRecord(**json.loads(row["record"]))
            records[record.name] = record
            advance(sizes[record.name])
    if errors:
        raise IncompleteError(
            f"{len(errors)} of {len(shards)} shards could not be written ({min(errors)}); the others are "
            "kept: run the same command again to write the missing ones"
        )
    return records


def _rejects_csv(rejects: list[list[str]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["object_id", "file", "reason"])
    writer.writerows(rejects)
    return text.getvalue().encode()
