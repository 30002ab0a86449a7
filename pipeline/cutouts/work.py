"""The tasks of `cutouts`: a tile is read once and cut, and what several tiles have a part of is stitched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from hiwl_core.errors import UserError
from hiwl_core.stamps import FinishedStamp, StampSettings
from pipeline.cutouts.cutting import cut, cut_pieces, pieces_path, read_pieces, stitched, write_pieces
from pipeline.cutouts.tiles import Tile, TilePixels
from pipeline.ingestion.folder import IngestFolder, ShardRecord
from pipeline.ingestion.shard_plan import ShardToWrite, read_objects
from pipeline.shards.cutout_shards import SHARD_SCHEMA

__all__ = ["CutoutJob", "StitchTask", "TileTask", "cut_tiles", "stitch"]


@dataclass(frozen=True)
class CutoutJob:
    """What all tasks have in common; `plan` and `objects` are as in `pipeline.ingestion.shard.IngestJob`."""

    place: str
    out: str
    settings: StampSettings
    carry: tuple[str, ...]
    plan: bytes
    objects: str

    def planned(self, shard: int) -> pa.Table:
        """The objects of a shard, by its number."""
        return read_objects(IngestFolder(self.out).objects_of(self.objects), shard)


@dataclass(frozen=True)
class TileTask:
    """Tiles to read one after the other, and what to make of them.

    Parameters
    ----------
    tiles : dict of int to Tile
    shards : tuple of ShardToWrite
        All whose cutouts are from these tiles alone, in order.
    stitched : dict of int to tuple of int
        For a tile the shards, by number, that wait for parts of it.
    """

    tiles: dict[int, Tile]
    shards: tuple[ShardToWrite, ...]
    stitched: dict[int, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class StitchTask:
    """A shard of cutouts of several tiles each."""

    shard: ShardToWrite
    tiles: dict[int, Tile]


def cut_tiles(task: TileTask, job: CutoutJob) -> list[ShardRecord]:
    """Cut all that tiles have; the function of a Ray task.

    Returns
    -------
    list of ShardRecord
        Of the shards that were written.

    Raises
    ------
    OSError
        If the storage fails again and again.
    UserError
        If the folder has become another run's.
    """
    records: list[ShardRecord] = []
    shards = iter(task.shards)
    shard = next(shards, None)
    objects = job.planned(shard.number) if shard else None
    stamps: list[FinishedStamp] = []
    for number, tile in task.tiles.items():
        with TilePixels(tile, job.settings.bands) as pixels:
            while shard is not None and objects is not None:
                rest = objects.slice(len(stamps))
                count = int((rest["home"].to_numpy() == number).sum())
                stamps += cut(pixels, rest.slice(0, count), job.settings)
                if len(stamps) < objects.num_rows:
                    break
                records.append(_write(shard, objects, stamps, task.tiles, job))
                shard, stamps = next(shards, None), []
                objects = job.planned(shard.number) if shard else None
            for wanted in task.stitched.get(number, ()):
                pieces = cut_pieces(pixels, number, job.planned(wanted), job.settings)
                write_pieces(pieces_path(job.out, wanted, number), pieces)
    return records


def stitch(task: StitchTask, job: CutoutJob) -> ShardRecord:
    """Write a shard of cutouts that several tiles have parts of; the function of a Ray task."""
    objects = job.planned(task.shard.number)
    pieces = [
        piece
        for number in task.tiles
        for piece in read_pieces(pieces_path(job.out, task.shard.number, number), number)
    ]
    stamps = list(stitched(objects, pieces, task.tiles, job.settings))
    return _write(task.shard, objects, stamps, task.tiles, job)


def _write(
    shard: ShardToWrite,
    objects: pa.Table,
    stamps: Sequence[FinishedStamp],
    tiles: dict[int, Tile],
    job: CutoutJob,
) -> ShardRecord:
    kept = pa.array([stamp.problem is None for stamp in stamps])
    names = [tiles[home].name for home in objects["home"].to_pylist()]
    ids = objects["object_id"].to_pylist()
    rejects = [
        [str(identifier), name, stamp.problem]
        for identifier, name, stamp in zip(ids, names, stamps, strict=True)
        if stamp.problem is not None
    ]
    columns = {
        "object_id": objects["object_id"],
        "ra": objects["ra"],
        "dec": objects["dec"],
        "image": pa.array([stamp.content for stamp in stamps], pa.binary()),
        "pixel_scale": objects["pixel_scale"].cast(pa.float32()),
        "label": pa.nulls(objects.num_rows, pa.string()),
    }
    fields = [
        field.with_type(objects["object_id"].type) if field.name == "object_id" else field
        for field in SHARD_SCHEMA
    ]
    own = {
        "tile": pa.array(names, pa.string()),
        "observed_share": pa.array([stamp.observed for stamp in stamps], pa.float32()),
        "masked_share": pa.array([stamp.masked for stamp in stamps], pa.float32()),
        **{name: objects[f"carry:{name}"] for name in job.carry},
    }
    schema = pa.schema([*fields, *(pa.field(name, column.type) for name, column in own.items())])
    table = pa.table([*columns.values(), *own.values()], schema=schema).filter(kept)
    folder = IngestFolder(job.out)
    if folder.plan_mark() != job.plan:
        raise UserError(f"{shard.name}: {job.out} is another run's now")
    return folder.write_shard(shard, table, rejects, f"cutouts {job.place}")
