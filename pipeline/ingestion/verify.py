"""Proof that a folder of `ingest` or `cutouts` is whole: each planned object is a row, or a reject, once."""

from __future__ import annotations

import csv
import io
from functools import partial
from itertools import islice
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hiwl_core.errors import UserError, words_of
from pipeline import storage
from pipeline.catalog.doubles import buckets_for, id_hashes, in_buckets, repeated_ids
from pipeline.catalog.verify import Verification
from pipeline.ingestion.folder import IngestFolder, ShardRecord
from pipeline.ingestion.shard_plan import IngestPlan, ShardToWrite, read_objects
from pipeline.progress import progress
from pipeline.task_pool import thread_pool

__all__ = ["SHARD_CHECKS", "is_shard_folder", "verify_shards"]

SHARD_CHECKS = {
    "shards": "a shard for each that was planned, but for those of rejects alone, and no other",
    "checksums": "each shard is, byte for byte, what was written",
    "rows": "as many rows and rejects as objects were planned",
    "ids": "the ids of each shard are those that were planned, in order, without the rejects",
    "rejects": "rejects.csv has a line for each reject",
    "doubles": "no id twice",
}
REJECTS = "rejects"


class _Look(NamedTuple):
    """What the look at one shard told."""

    rows: int
    rejects: int
    findings: list[tuple[str, str]]
    hashes: np.ndarray


def is_shard_folder(folder: str) -> bool:
    """Whether a folder holds shards that `ingest` or `cutouts` began."""
    return storage.exists(f"{storage.absolute(folder).rstrip('/')}/_ingest/plan.json")


def verify_shards(folder: str) -> Verification:
    """Check shards against their plan, their records and their rejects.

    Parameters
    ----------
    folder : str

    Returns
    -------
    Verification
        Its parts are shards, and `statuses` has the number of rejects.

    Raises
    ------
    UserError
        If there is no plan.
    """
    place = IngestFolder(storage.absolute(folder).rstrip("/"))
    plan = place.read_plan()
    if plan is None:
        raise UserError(f"{folder} has no shards of `hiwl ingest` or `hiwl cutouts`")
    result = Verification(folder, "")
    shards = plan.shards()
    records = place.finished(shards)
    root = place.path.removeprefix("file://")
    there = {path.removeprefix(f"{root}/") for path, _ in storage.list_files(place.path)}
    expected = {record.name for record in records.values() if record.rows}
    for name in sorted(name for name in there - expected if name.endswith(".parquet")):
        result.add("shards", f"{place.path}/{name} is none that was written here: move it elsewhere")
    for shard in shards:
        if shard.name not in records:
            result.add("shards", f"no {place.path}/{shard.name}: start the same command again")
    present = [shard for shard in shards if shard.name in records]
    buckets: list[list[np.ndarray]] = [[] for _ in range(buckets_for(plan.rows))]
    with thread_pool(1, "the verification") as pool, progress("verifying", plan.rows) as advance:
        looks = storage.in_threads(partial(_look, place, plan, records), present)
        for look in looks:
            result.parts += look.rows > 0
            result.rows += look.rows
            result.statuses.update({REJECTS: look.rejects})
            for check, finding in look.findings:
                result.add(check, finding)
            for bucket, hashes in zip(buckets, in_buckets(look.hashes, len(buckets)), strict=True):
                bucket.append(hashes)
            advance(look.rows)
        paths = [f"{place.path}/{name}" for name in sorted(expected)]
        result.add_doubles(*repeated_ids(pool, buckets, [paths]))
    result.statuses.update({REJECTS: plan.without_image})
    if len(present) == len(shards):
        _check_rejects(result, place.path)
    return result


def _look(
    folder: IngestFolder, plan: IngestPlan, records: dict[str, ShardRecord], shard: ShardToWrite
) -> _Look:
    record, path = records[shard.name], f"{folder.path}/{shard.name}"
    findings: list[tuple[str, str]] = []
    if record.rows + record.rejects != shard.rows:
        words = f"{record.rows} rows and {record.rejects} rejects of {shard.rows} that were planned"
        findings.append(("rows", f"{path} has {words}"))
    planned = read_objects(folder.objects_of(plan.objects), shard.number)["object_id"].cast(pa.string())
    rejected = [line[0] for line in csv.reader(io.StringIO(folder.read_rejects(record).decode()))]
    if len(rejected) != record.rejects:
        findings.append((REJECTS, f"{path} has {record.rejects} rejects, and {len(rejected)} are named"))
    kept = planned.filter(pc.invert(pc.is_in(planned, pa.array(rejected, pa.string()))))
    if not record.rows:
        if len(kept):
            findings.append(("ids", f"{path} has no rows, of {len(kept)} that are no rejects"))
        return _Look(0, record.rejects, findings, np.empty(0, np.uint64))
    try:
        with storage.open_input(path) as file:
            # Records of before do not say it.
            if record.sha256 and storage.sha256_of(file) != record.sha256:
                words = "is not what was written: remove it and start the same command again"
                findings.append(("checksums", f"{path} {words}"))
            file.seek(0)
            table = pq.ParquetFile(file).read(columns=["object_id"])
    except storage.StoreError:
        # That the store is out of reach says nothing of what lies in it.
        raise
    except (pa.ArrowException, OSError) as error:
        findings.append(("shards", f"{path} cannot be read: {words_of(error, 200)}"))
        return _Look(0, record.rejects, findings, np.empty(0, np.uint64))
    if table.num_rows != record.rows:
        findings.append(("rows", f"{path} has {table.num_rows} rows, its record {record.rows}"))
    if not table["object_id"].cast(pa.string()).equals(kept):
        findings.append(("ids", f"the ids of {path} are not those that were planned"))
    return _Look(table.num_rows, record.rejects, findings, id_hashes(table))


def _check_rejects(result: Verification, folder: str) -> None:
    path = f"{folder}/rejects.csv"
    if not storage.exists(path):
        result.add(REJECTS, f"no {path}: start the same command again")
        return
    lines = csv.reader(io.StringIO(storage.read_bytes(path).decode()))
    # Below the header; files that cannot be read at all are lines without an object.
    named = sum(bool(line and line[0]) for line in islice(lines, 1, None))
    if named != result.statuses[REJECTS]:
        result.add(REJECTS, f"{path} has {named} objects, and {result.statuses[REJECTS]} are rejects")
