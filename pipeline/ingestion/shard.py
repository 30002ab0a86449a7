"""One shard of `ingest`, on a worker: read its images, check each, write the shard whole."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from hiwl_core.compressed import MAX_BYTES
from hiwl_core.errors import UserError, words_of
from hiwl_core.recipe_sections import RgbSettings
from hiwl_core.statuses import TOO_LARGE
from pipeline import storage
from pipeline.ingestion.folder import IngestFolder, ShardRecord
from pipeline.ingestion.images import PackedImage, pack_bands, pack_image
from pipeline.ingestion.shard_plan import OBJECTS_OF_BEFORE, ShardToWrite, read_objects
from pipeline.ingestion.source_parquet import ParquetColumns, gather_rows
from pipeline.shards.cutout_shards import SHARD_SCHEMA
from pipeline.shards.sky_positions import on_the_sky

__all__ = ["IngestJob", "write_shard"]

LARGER = f"{TOO_LARGE}: larger than {MAX_BYTES // 2**20} MB"
FILES_AHEAD = 64

Content = tuple[bytes | None, str | None]
"""Of a file, or the reason why there is none."""


@dataclass(frozen=True)
class IngestJob:
    """What all shards of an ingest have in common: the source, the folder to write, and the carried
    columns; with `rgb`, the colors to make of FITS images; and which plan they are of, by
    `pipeline.ingestion.folder.IngestFolder.plan_mark`, and the name of its objects' folder."""

    kind: str
    place: str
    out: str
    carry: Sequence[str]
    parquet: ParquetColumns
    rgb: RgbSettings | None = None
    plan: bytes = b""
    objects: str = OBJECTS_OF_BEFORE


def write_shard(shard: ShardToWrite, job: IngestJob) -> tuple[ShardRecord | None, str]:
    """Write a planned shard, in a task of Ray or in a thread.

    Parameters
    ----------
    shard : ShardToWrite
    job : IngestJob

    Returns
    -------
    record : ShardRecord or None
    error : str
        A line on why the shard was not written, if it was not.
    """
    folder = IngestFolder(job.out)
    try:
        objects = read_objects(folder.objects_of(job.objects), shard.number)
        table, rejects = _read_objects(objects, job)
        if folder.plan_mark() != job.plan:
            return None, f"{shard.name}: {job.out} is another run's now"
        return folder.write_shard(shard, table, rejects, f"ingest {job.place}"), ""
    except Exception as error:  # the other shards go on, and the driver reports
        return None, f"{shard.name}: {type(error).__name__}: {words_of(error)}"


def _read_objects(objects: pa.Table, job: IngestJob) -> tuple[pa.Table, list[list[str]]]:
    """The shard's table, and the rejected objects."""
    gathered = pa.table({})
    if "files" in objects.column_names:
        packed = list(_pack_sets(objects, job))
    elif job.kind == "parquet":
        gathered = gather_rows(objects, job.parquet)
        packed = [pack_image(image.as_py(), job.rgb) for image in gathered["image"]]
    else:
        reading = _read(objects["file"].to_pylist(), objects["size"].to_pylist(), job)
        packed = [
            pack_image(content, job.rgb) if problem is None else PackedImage(None, problem)
            for content, problem in reading
        ]
    ids, files, rows = (objects[name].to_pylist() for name in ("object_id", "file", "row"))
    rejects = [
        [str(identifier), file if row is None else f"{file} row {row + 1}", image.problem]
        for identifier, file, row, image in zip(ids, files, rows, packed, strict=True)
        if image.problem is not None
    ]
    kept = pa.array([image.problem is None for image in packed])
    headers = {
        name: pa.chunked_array([pa.array([getattr(image, name) for image in packed], pa.float64())])
        for name in ("ra", "dec", "pixel_scale")
    }
    images = pa.chunked_array([pa.array([image.content for image in packed], pa.binary())])
    return _shard_table([objects, gathered, pa.table(headers)], images, job.carry).filter(kept), rejects


def _pack_sets(objects: pa.Table, job: IngestJob) -> Iterator[PackedImage]:
    """One image of the FITS files of each object."""
    if job.rgb is None:
        raise ValueError("sets of files need colors")
    bands, sets = job.rgb.bands, objects["files"].to_pylist()
    sizes = [
        size
        for size, files in zip(objects["largest"].to_pylist(), sets, strict=True)
        for _ in filter(None, files)
    ]
    reading = _read([file for files in sets for file in filter(None, files)], sizes, job)
    for files in sets:
        contents: dict[str, bytes] = {}
        problems: list[str] = []
        for band, file in zip(bands, files, strict=True):
            content, problem = next(reading) if file is not None else (None, None)
            if content is not None:
                contents[band] = content
            if problem is not None:
                problems.append(f"band {band}: {problem}")
        yield PackedImage(None, problems[0]) if problems else pack_bands(contents, job.rgb)


def _read(files: list[str], sizes: list[int], job: IngestJob) -> Iterator[Content]:
    """The contents of files or members of a zip, in order."""
    if job.kind == "files":
        return storage.in_threads(_read_file, zip(files, sizes, strict=True), FILES_AHEAD)
    return _read_members(job.place, files, sizes)


def _read_file(file: tuple[str, int]) -> Content:
    path, size = file
    if size > MAX_BYTES:
        return None, LARGER
    try:
        return storage.read_bytes(path), None
    except PermissionError:
        return None, "permission denied"
    except UserError:
        # A store that refuses everything is no fault of this image.
        if storage.exists(path):
            raise
        return None, "no such file"


def _read_members(archive: str, members: list[str], sizes: list[int]) -> Iterator[Content]:
    with storage.open_input(archive) as file, zipfile.ZipFile(file) as opened:
        for member, size in zip(members, sizes, strict=True):
            if size > MAX_BYTES:
                yield None, LARGER
                continue
            try:
                yield opened.read(member), None
            except (zipfile.BadZipFile, zlib.error, EOFError):
                yield None, "damaged in the zip file"
            except (RuntimeError, NotImplementedError) as error:  # encrypted, or packed by an unknown method
                yield None, f"cannot be unpacked: {words_of(error)}"


def _shard_table(tables: list[pa.Table], images: pa.ChunkedArray, carry: Sequence[str]) -> pa.Table:
    """Columns by the contract's names: first what the plan (the labels table) knows, then the source's own
    columns, then the images' headers."""
    objects, gathered, _ = tables
    columns: dict[str, pa.ChunkedArray] = {}
    fields: list[pa.Field] = []
    for standard in SHARD_SCHEMA:
        if standard.name == "object_id":
            standard = standard.with_type(objects["object_id"].type)
        there = [table[standard.name] for table in tables if standard.name in table.column_names]
        there = [images] if standard.name == "image" else [column.cast(standard.type) for column in there]
        empty = pa.nulls(objects.num_rows, standard.type)
        columns[standard.name] = pc.coalesce(*there) if there else empty
        fields.append(standard)
    for name in carry:
        table = objects if f"carry:{name}" in objects.column_names else gathered
        columns[name] = table[f"carry:{name}"]
        fields.append(pa.field(name, columns[name].type))
    return on_the_sky(pa.table(list(columns.values()), schema=pa.schema(fields)))
