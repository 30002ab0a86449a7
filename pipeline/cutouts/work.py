"""The tasks of `cutouts`: a tile is read once and cut, and what several tiles have a part of is stitched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from hiwl_core.errors import UserError
from hiwl_core.stamps import FinishedStamp, Stamp, StampSettings
from hiwl_core.statuses import UnreadableCutout
from pipeline import storage
from pipeline.cutouts.assignment import pixels_of
from pipeline.cutouts.pieces import Piece, paste, pieces_path, read_pieces, write_pieces
from pipeline.cutouts.tile_pixels import TilePixels
from pipeline.cutouts.tiles import Tile
from pipeline.ingestion.folder import IngestFolder, ShardRecord
from pipeline.ingestion.plan import PlannedShard, lines_of, read_objects
from pipeline.shards.cutout_shards import SHARD_SCHEMA, encode_shard

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
    shards : tuple of PlannedShard
        All whose cutouts are from these tiles alone, in order.
    stitched : dict of int to tuple of int
        For a tile the shards, by number, that wait for parts of it.
    """

    tiles: dict[int, Tile]
    shards: tuple[PlannedShard, ...]
    stitched: dict[int, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class StitchTask:
    """A shard of cutouts of several tiles each."""

    shard: PlannedShard
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
                stamps += _cut(pixels, rest.slice(0, count), job.settings)
                if len(stamps) < objects.num_rows:
                    break
                records.append(_write(shard, objects, stamps, task.tiles, job))
                shard, stamps = next(shards, None), []
                objects = job.planned(shard.number) if shard else None
            for wanted in task.stitched.get(number, ()):
                _cut_pieces(pixels, number, wanted, job)
    return records


def stitch(task: StitchTask, job: CutoutJob) -> ShardRecord:
    """Write a shard of cutouts that several tiles have parts of; the function of a Ray task."""
    objects = job.planned(task.shard.number)
    pieces: dict[int, list[Piece]] = {}
    for number in task.tiles:
        for piece in read_pieces(pieces_path(job.out, task.shard.number, number), number):
            pieces.setdefault(piece.row, []).append(piece)
    stamps: list[FinishedStamp] = []
    places: dict[int, Stamp] = {}
    homes = objects["home"].to_numpy()
    for number in np.unique(homes).tolist():
        rows = np.flatnonzero(homes == number)
        of_tile = _stamps(task.tiles[number], objects.take(rows), job.settings)
        places |= dict(zip(rows.tolist(), of_tile, strict=True))
    grids = {number: tile.wcs() for number, tile in task.tiles.items()}
    for row, order in enumerate(objects["tiles"].to_pylist()):
        where, home = places[row], grids[homes[row]]
        planes = np.full((len(job.settings.bands), where.side, where.side), np.nan, np.float32)
        bad = np.zeros((where.side, where.side), bool)
        found = {piece.tile: piece for piece in pieces.get(row, [])}
        for number in order:
            if number in found:
                paste(planes, bad, (where.left, where.bottom), home, found[number], grids[number])
        stamps.append(where.finished(planes, bad, job.settings))
    return _write(task.shard, objects, stamps, task.tiles, job)


def _stamps(tile: Tile, objects: pa.Table, settings: StampSettings) -> Iterator[Stamp]:
    """Where objects lie in a tile."""
    if not objects.num_rows:
        return
    wcs = tile.wcs()
    ra, dec, scales = (objects[name].to_numpy() for name in ("ra", "dec", "pixel_scale"))
    points = pixels_of(wcs, ra, dec)
    jacobians = _jacobians(wcs, points, ra, dec)
    for number, (x, y) in enumerate(points):
        zoom = settings.zoom(float(scales[number]), tile.place.scale)
        side = settings.window(zoom)
        left, bottom = round(x - (side - 1) / 2), round(y - (side - 1) / 2)
        where = (float(x), float(y), zoom, float(ra[number]), float(dec[number]))
        yield Stamp(left, bottom, side, *where, jacobians[number])


def _jacobians(wcs: Any, points: np.ndarray, ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Degrees east and north that a step along x and along y is, shape (N, 2, 2)."""
    found = np.empty((len(points), 2, 2))
    for axis in range(2):
        step = np.zeros(2)
        step[axis] = 1
        ends = [wcs.all_pix2world(points + sign * step, 0) for sign in (0.5, -0.5)]
        east = (ends[0][:, wcs.wcs.lng] - ends[1][:, wcs.wcs.lng] + 180) % 360 - 180
        found[:, 0, axis] = east * np.cos(np.radians(dec))
        found[:, 1, axis] = ends[0][:, wcs.wcs.lat] - ends[1][:, wcs.wcs.lat]
    return found


def _cut(pixels: TilePixels, objects: pa.Table, settings: StampSettings) -> Iterator[FinishedStamp]:
    problem = ""
    for where in _stamps(pixels.tile, objects, settings):
        if problem:
            yield FinishedStamp(None, problem)
            continue
        try:
            window = pixels.window(where.left, where.bottom, where.side, where.side)
        except UnreadableCutout as error:
            # A broken file costs its own positions, not the night.
            problem = f"tile {error}"
            yield FinishedStamp(None, problem)
            continue
        yield where.finished(*window, settings)


def _cut_pieces(pixels: TilePixels, number: int, shard: int, job: CutoutJob) -> None:
    """Keep what a tile has of the cutouts of a shard that is stitched later."""
    objects = job.planned(shard)
    rows = [row for row, tiles in enumerate(objects["tiles"].to_pylist()) if number in tiles]
    homes = objects["home"].to_numpy()
    pieces: list[Piece] = []
    try:
        for row, where in zip(rows, _stamps(pixels.tile, objects.take(rows), job.settings), strict=True):
            side, left, bottom = where.side, where.left, where.bottom
            if homes[row] != number:
                # Another tile's pixels may be turned against these, and have another scale.
                side = int(side * 1.5) + 4
                left, bottom = (round(one - (side - 1) / 2) for one in (where.x, where.y))
            height, width = pixels.tile.place.shape
            start, end = max(left, 0), min(left + side, width)
            low, high = max(bottom, 0), min(bottom + side, height)
            if start < end and low < high:
                planes, bad = pixels.window(start, low, end - start, high - low)
                pieces.append(Piece(row, number, start, low, planes, bad))
    except UnreadableCutout:
        pieces = []
    write_pieces(pieces_path(job.out, shard, number), pieces)


def _write(
    shard: PlannedShard,
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
    record = ShardRecord(shard.name, shard.series, table.num_rows, {"": table.num_rows}, len(rejects))
    folder = IngestFolder(job.out)
    if folder.plan_mark() != job.plan:
        raise UserError(f"{shard.name}: {job.out} is another run's now")
    # The record first: where there is a shard, there is its record.
    folder.write_record(record, lines_of(rejects))
    if record.rows:
        storage.write_bytes(f"{job.out}/{record.name}", encode_shard(table, f"cutouts {job.place}"))
    return record
