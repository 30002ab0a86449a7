"""One shard of `ingest`, on a worker: read its images, check each, write the shard whole."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.ingest_folder import IngestFolder, ShardRecord
from pipeline.ingest_plan import PlannedShard, lines_of, read_objects
from pipeline.shards import SHARD_SCHEMA, encode_shard
from pipeline.source_images import image_problem, read_files, read_members
from pipeline.source_parquet import ParquetColumns, gather_rows

__all__ = ["IngestJob", "write_shard"]


@dataclass(frozen=True)
class IngestJob:
    """What all shards of an ingest have in common: the source, the folder to write, the carried columns."""

    kind: str
    place: str
    out: str
    carry: tuple[str, ...]
    parquet: ParquetColumns


def write_shard(shard: PlannedShard, job: IngestJob) -> tuple[ShardRecord | None, str]:
    """Write a planned shard; the function of a Ray task.

    Parameters
    ----------
    shard : PlannedShard
    job : IngestJob

    Returns
    -------
    record : ShardRecord or None
    error : str
        A line on why the shard was not written, if it was not.
    """
    folder = IngestFolder(job.out)
    try:
        objects = read_objects(folder.plan_objects, shard.number)
        table, rejects = _read_objects(objects, job)
        classes = Counter(label or "" for label in table["label"].to_pylist())
        record = ShardRecord(shard.name, shard.series, table.num_rows, dict(classes), len(rejects))
        # The record first: where there is a shard, there is its record.
        folder.write_record(record, lines_of(rejects))
        if record.rows:
            storage.write_bytes(f"{job.out}/{record.name}", encode_shard(table, f"ingest {job.place}"))
    except Exception as error:  # the other shards go on, and the driver reports
        words = " ".join(str(error).split())
        return None, f"{shard.name}: {type(error).__name__}: {words}"
    return record, ""


def _read_objects(objects: pa.Table, job: IngestJob) -> tuple[pa.Table, list[list[str]]]:
    """The shard's table, and the rejected objects."""
    gathered = pa.table({})
    files, sizes = objects["file"].to_pylist(), objects["size"].to_pylist()
    contents: list[bytes | None] = []
    problems: list[str | None] = []
    if job.kind == "parquet":
        gathered = gather_rows(objects, job.parquet)
        images = gathered["image"]
        problems = [image_problem(image.as_py()) for image in images]
    else:
        reading = read_files(files, sizes) if job.kind == "files" else read_members(job.place, files, sizes)
        for content, problem in reading:
            problems.append(problem or image_problem(content))
            contents.append(content if problems[-1] is None else None)
        images = pa.chunked_array([pa.array(contents, pa.binary())])
    ids, rows = objects["object_id"].to_pylist(), objects["row"].to_pylist()
    rejects = [
        [str(identifier), file if row is None else f"{file} row {row + 1}", problem]
        for identifier, file, row, problem in zip(ids, files, rows, problems, strict=True)
        if problem is not None
    ]
    kept = pa.array([problem is None for problem in problems])
    return _shard_table(objects, gathered, images, job.carry).filter(kept), rejects


def _shard_table(
    objects: pa.Table, gathered: pa.Table, images: pa.ChunkedArray, carry: tuple[str, ...]
) -> pa.Table:
    """Columns by the contract's names; where labels table and source both have one, the labels table's."""
    columns: dict[str, pa.ChunkedArray] = {}
    fields: list[pa.Field] = []
    for standard in SHARD_SCHEMA:
        if standard.name == "object_id":
            standard = standard.with_type(objects["object_id"].type)
        there = [table[standard.name] for table in (objects, gathered) if standard.name in table.column_names]
        there = [images] if standard.name == "image" else [column.cast(standard.type) for column in there]
        empty = pa.nulls(objects.num_rows, standard.type)
        columns[standard.name] = pc.coalesce(*there) if there else empty
        fields.append(standard)
    for name in carry:
        table = objects if f"carry:{name}" in objects.column_names else gathered
        columns[name] = table[f"carry:{name}"]
        fields.append(pa.field(name, columns[name].type))
    return pa.table(list(columns.values()), schema=pa.schema(fields))
