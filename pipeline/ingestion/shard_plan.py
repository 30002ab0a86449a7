"""Which object goes to which shard: decided before any image is read, and kept in the folder of the shards.

OUT/_ingest/plan.json               what was planned from what: the options, the source's digest, the shards
OUT/_ingest/plan-5f3a/00003.parquet the objects of 16 shards, a row group each; a task reads only its own
OUT/_ingest/plan-5f3a/without_image.csv  labels whose image the source does not have

Two runs may plan one folder at once: each has a place of its own for what it plans, and the first whose
``plan.json`` is there has the folder. Plans of before have ``plan/``, and ``without_image.csv`` beside it.

The plan depends on the source's files, not on the order in which the storage lists them: the objects of a
series stand in the order of their files' paths (then of their rows) and are cut into shards in that order.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.ingestion.labels import LabelsTable
from pipeline.shards.cutout_shards import shard_name

__all__ = [
    "OBJECTS_OF_BEFORE",
    "IngestPlan",
    "ShardToWrite",
    "cut_shards",
    "plan_lines",
    "read_objects",
    "write_objects",
]

SHARDS_PER_SEGMENT = 16
OBJECTS_OF_BEFORE = "plan"


@dataclass(frozen=True)
class ShardToWrite:
    """A shard to write: its number among all, its file name, its series (``train``, ...) and its objects."""

    number: int
    name: str
    series: str
    rows: int


@dataclass(frozen=True)
class IngestPlan:
    """All shards to write, without their objects, which `read_objects` reads.

    Parameters
    ----------
    kind : {"files", "zip", "parquet", "tiles"}
    place : str
        The source.
    digest : str
        Of the source's files, whatever their order.
    settings : dict
        Every option that decides what the shards will hold.
    series : dict of str to list of int
        The series in order, and the objects of each of its shards.
    images, unlabeled, dropped, without_image, other_files : int
        Files that are images; objects without a label that are kept, and that are left out; labels without an
        image; files of the source that are neither images nor tables.
    objects : str
        Name of the folder with its objects.
    """

    kind: str
    place: str
    digest: str
    settings: dict[str, Any]
    series: dict[str, list[int]] = field(default_factory=dict)
    images: int = 0
    unlabeled: int = 0
    dropped: int = 0
    without_image: int = 0
    other_files: int = 0
    objects: str = field(default=OBJECTS_OF_BEFORE, compare=False)

    @property
    def rows(self) -> int:
        """Objects in all shards."""
        return sum(map(sum, self.series.values()))

    def shards(self) -> list[ShardToWrite]:
        """The shards in order."""
        named = (
            (shard_name(series, index, len(counts)), series, rows)
            for series, counts in self.series.items()
            for index, rows in enumerate(counts)
        )
        return [ShardToWrite(number, *shard) for number, shard in enumerate(named)]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``plan.json``, the name of its objects' folder first, which no other plan has."""
        return {"objects": self.objects, **asdict(self)}


def cut_shards(
    batches: Iterable[pa.Table], most_rows: int, most_bytes: int
) -> Iterator[tuple[str, pa.Table]]:
    """Cut a stream of objects, sorted by ``series``, into shards of at most so many rows and bytes.

    An image larger than that is alone in its shard.

    Yields
    ------
    series : str
    objects : pyarrow.Table
        Without the column ``series``.
    """
    pending: list[pa.Table] = []
    current, rows, filled = "", 0, 0
    for batch in batches:
        series, sizes = batch["series"].to_pylist(), batch["size"].to_pylist()
        batch = batch.drop_columns("series")
        start = 0
        for index, (one, size) in enumerate(zip(series, sizes, strict=True)):
            if rows and (one != current or rows == most_rows or filled + size > most_bytes):
                yield current, pa.concat_tables([*pending, batch.slice(start, index - start)])
                pending, start, rows, filled = [], index, 0, 0
            current = one
            rows += 1
            filled += size
        pending.append(batch.slice(start))
    if rows:
        yield current, pa.concat_tables(pending)


def write_objects(
    folder: str, shards: Iterable[tuple[str, pa.Table]], labels: LabelsTable | None
) -> dict[str, list[int]]:
    """Write the objects of the shards, with what the labels table knows of them, as segments of the plan.

    Parameters
    ----------
    folder : str
    shards : iterable of (str, pyarrow.Table)
        What `cut_shards` yields.
    labels : LabelsTable, optional
        Whose rows the column ``labels_row`` numbers.

    Returns
    -------
    dict of str to list of int
        `IngestPlan.series`.
    """
    series: dict[str, list[int]] = {}
    segment: list[pa.Table] = []
    segments = 0

    def write() -> None:
        buffer = io.BytesIO()
        with pq.ParquetWriter(buffer, segment[0].schema, compression="zstd") as writer:
            for objects in segment:
                writer.write_table(objects, row_group_size=objects.num_rows)
        storage.write_bytes(_segment_path(folder, segments), buffer.getvalue())

    for name, objects in shards:
        series.setdefault(name, []).append(objects.num_rows)
        segment.append(_with_labels(objects, labels))
        if len(segment) == SHARDS_PER_SEGMENT:
            write()
            segment, segments = [], segments + 1
    if segment:
        write()
    return series


def read_objects(folder: str, number: int) -> pa.Table:
    """The objects of a shard by its number.

    Returns
    -------
    pyarrow.Table
        ``object_id`` (int64, or string if one of them is no 64-bit integer), ``file``, ``row``, ``size``,
        ``mark`` and ``label``, then those of ``ra``, ``dec``, ``pixel_scale`` and, as ``carry:<name>``, the
        carried columns that the labels table has. Sets of FITS files have ``files``, a list of paths in the
        order of the recipe's bands, null where there is none, and ``largest``, the bytes of the largest.
    """
    segment, group = divmod(number, SHARDS_PER_SEGMENT)
    with storage.open_input(_segment_path(folder, segment)) as file:
        return pq.ParquetFile(file).read_row_group(group)


def plan_lines(rejects: Iterable[Sequence[str]]) -> bytes:
    """Rejects (object id, file, reason) as lines of ``rejects.csv``."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rejects)
    return text.getvalue().encode()


def _segment_path(folder: str, segment: int) -> str:
    return f"{folder}/{segment:05d}.parquet"


def _with_labels(objects: pa.Table, labels: LabelsTable | None) -> pa.Table:
    rows = objects["labels_row"]
    objects = objects.drop_columns("labels_row")
    if labels is not None:
        for column in labels.table.column_names:
            if column not in ("id", "label", "split", "together"):
                objects = objects.append_column(column, labels.table[column].take(rows))
    return objects
