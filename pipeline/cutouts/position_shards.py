"""Positions as the shards of a catalog: rows whose images are cut from tiles where they are classified.

``CATALOG/_positions`` has them: Parquet files with all of a row but its image, and beside each the tiles that
it needs, as JSON. They are what the catalog is planned from, gone on with and verified by; no cutout is ever
stored. A row that cannot be cut is a row with a status, as everywhere.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hiwl_core.errors import UserError
from hiwl_core.stamps import FinishedStamp, StampSettings
from pipeline import storage
from pipeline.catalog.plan import check_free, is_catalog, read_plan
from pipeline.cutouts.assignment import Assignment, assign
from pipeline.cutouts.cutting import cut, cut_pieces, stitched
from pipeline.cutouts.planning import (
    CutoutOptions,
    describe_tiles,
    digest_of,
    iter_planned,
    tile_entries,
    tile_of,
)
from pipeline.cutouts.positions import read_positions
from pipeline.cutouts.tile_pixels import TilePixels
from pipeline.cutouts.tiles import Tile
from pipeline.progress import say
from pipeline.shards.cutout_shards import MAX_SHARD_ROWS, Columns, shard_name
from pipeline.shards.shard_groups import ShardToRead, checked_rows
from pipeline.shards.webdataset import STATUS_COLUMN
from pipeline.task_pool import TaskPool

__all__ = ["Positions", "cut_rows", "plan_positions", "rows_a_shard"]

FOLDER = "_positions"
UNCUT = "uncut"
HOME, TILES, SCALE, REASON = "_home", "_tiles", "_scale", "_reason"
TABLE_BYTES = 32 * 2**20
"""Of images that are cut before they are decoded."""
LEAST_SHARD_ROWS, SHARDS = 256, 64
"""A part is what is lost at most with a worker, and what one of many does: neither few rows nor all."""


@dataclass(frozen=True)
class Positions:
    """A table of positions of which a catalog is made.

    Parameters
    ----------
    path : str
        See `pipeline.cutouts.positions.read_positions`.
    mask_planes : tuple of str
        Names of the planes of masks that make a pixel bad.
    """

    path: str
    mask_planes: tuple[str, ...]


def plan_positions(
    catalog: str,
    place: str,
    options: CutoutOptions,
    pool: Callable[[], TaskPool],
    claim: Callable[[], object],
) -> tuple[str, dict[str, Any]]:
    """The positions of a catalog as shards: those that are there, or new ones, written.

    Parameters
    ----------
    catalog : str
        Folder of the catalog, absolute.
    place : str
        The tiles.
    options : CutoutOptions
        Its rows in a shard are decided here.
    pool : callable
        Gives a pool, if the tiles have to be looked at.
    claim : callable
        Called when all is found to be in order, before the first write.

    Returns
    -------
    folder : str
        Of the shards.
    cutting : dict
        What decides what is cut, as plain data for the settings of the catalog.

    Raises
    ------
    UserError
        For mistakes in the tiles and the table; and if the catalog is of other ones, or of shards.
    """
    entries = tile_entries(place)
    cutting = _plain({"TILES": place, **options.describe(), "digest": digest_of(entries, options)})
    folder = f"{catalog}/{FOLDER}"
    if is_catalog(catalog):
        _check_same(catalog, read_plan(catalog).settings.get("cutting"), cutting)
        return folder, cutting
    check_free(catalog)
    table = read_positions(options.positions, options.columns)
    tiles, broken = describe_tiles([entry.path for entry in entries], options, pool())
    for path, problem in broken[:3]:
        say(f"{path} cannot be read: {problem}")
    found = assign(table, tiles, options.settings, options.scale)
    claim()
    # Those of a run that was killed before it had a plan.
    storage.remove(folder)
    shards: dict[str, list[pa.Table]] = {}
    for series, objects in iter_planned(table, found, tiles, options, rows_a_shard(table.num_rows)):
        shards.setdefault(series, []).append(objects)
    shards |= {UNCUT: list(_uncut(table, found, rows_a_shard(table.num_rows)))}
    named = [
        (shard_name(series, index, len(tables)), objects)
        for series, tables in shards.items()
        for index, objects in enumerate(tables)
    ]

    def write(one: tuple[str, pa.Table]) -> None:
        name, objects = one
        needed = {number for order in objects["tiles"].to_pylist() for number in order}
        needed |= {home for home in objects["home"].to_pylist() if home >= 0}
        described = {number: asdict(tiles[number]) for number in sorted(needed)}
        storage.write_bytes(_tiles_path(f"{folder}/{name}"), json.dumps(described).encode())
        storage.write_bytes(f"{folder}/{name}", _encoded(objects, tiles, options.columns.carry))

    for _ in storage.in_threads(write, named):
        pass
    return folder, cutting


def rows_a_shard(rows: int) -> int:
    """Rows of a shard of so many positions, at most but for tiles that have more."""
    return min(MAX_SHARD_ROWS, max(LEAST_SHARD_ROWS, rows // SHARDS))


def cut_rows(
    shard: ShardToRead,
    columns: Columns,
    wanted: Sequence[str],
    carry: Sequence[str],
    cutting: Mapping[str, Any],
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """The rows of a shard of positions, some at a time, as they are and with their images.

    Parameters
    ----------
    shard, columns, wanted, carry
        See `pipeline.shards.shard_groups.checked_rows`; `wanted` without the image.
    cutting : mapping
        From `plan_positions`.

    Yields
    ------
    rows : pyarrow.Table
        Columns `wanted` and `carry`.
    cut : pyarrow.Table
        The same, with ``image`` and, for rows that cannot be cut, their status in `STATUS_COLUMN`.

    Raises
    ------
    ValueError, OSError
        One of `pipeline.shards.shard_groups.SHARD_DAMAGE`.
    """
    names = list(dict.fromkeys([*carry, HOME, TILES, SCALE, REASON]))
    rows = pa.concat_tables(checked_rows(shard, columns, wanted, names))
    described = json.loads(storage.read_bytes(_tiles_path(shard.path)))
    tiles = {int(number): tile_of(tile) for number, tile in described.items()}
    settings = StampSettings(tuple(cutting["--bands"]), int(cutting["--size"]))
    stamps = _stamps(rows, tiles, settings)
    at_once = max(1, min(LEAST_SHARD_ROWS, TABLE_BYTES // settings.bytes))
    for start in range(0, rows.num_rows, at_once):
        some = rows.slice(start, at_once).select([*wanted, *carry])
        yield some, _with_images(some, list(islice(stamps, some.num_rows)))


def _stamps(rows: pa.Table, tiles: Mapping[int, Tile], settings: StampSettings) -> Iterator[FinishedStamp]:
    """The cutouts of a shard, in order; a tile at a time is held, and pieces of those that are stitched."""
    reasons = rows[REASON].to_pylist()
    if any(reasons):
        yield from (FinishedStamp(None, reason) for reason in reasons)
        return
    objects = rows.select(["ra", "dec", SCALE, HOME, TILES])
    objects = objects.rename_columns(["ra", "dec", "pixel_scale", "home", "tiles"])
    if any(objects["tiles"].to_pylist()):
        pieces = []
        for number, tile in tiles.items():
            with TilePixels(tile, settings.bands) as pixels:
                pieces += cut_pieces(pixels, number, objects, settings)
        yield from stitched(objects, pieces, tiles, settings)
        return
    homes = objects["home"].to_numpy()
    # The rows of a tile stand together.
    starts = np.flatnonzero(np.diff(homes, prepend=-1))
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(homes)], strict=True):
        with TilePixels(tiles[homes[start]], settings.bands) as pixels:
            yield from cut(pixels, objects.slice(start, end - start), settings)


def _with_images(rows: pa.Table, stamps: Sequence[FinishedStamp]) -> pa.Table:
    said = {
        "observed_share": [one.observed for one in stamps],
        "masked_share": [one.masked for one in stamps],
    }
    for name, shares in said.items():
        if name in rows.column_names:
            place = rows.column_names.index(name)
            rows = rows.set_column(place, name, pa.array(shares, pa.float32()))
    rows = rows.append_column("image", pa.array([one.content for one in stamps], pa.binary()))
    statuses = [None if one.problem is None else one.problem.split(":")[0] for one in stamps]
    return rows.append_column(STATUS_COLUMN, pa.array(statuses, pa.string()))


def _uncut(table: pa.Table, found: Assignment, most: int) -> Iterator[pa.Table]:
    """The positions that no tile has, as shards."""
    rows = np.array(sorted(found.rejects), int)
    for start in range(0, len(rows), most):
        some = rows[start : start + most]
        objects = table.take(some).drop_columns("size")
        objects = objects.append_column("pixel_scale", pa.nulls(len(some), pa.float64()))
        objects = objects.append_column("home", pa.array([-1] * len(some), pa.int64()))
        objects = objects.append_column("tiles", pa.array([[]] * len(some), pa.list_(pa.int64())))
        yield objects.append_column("reason", pa.array([found.rejects[row] for row in some.tolist()]))


def _encoded(objects: pa.Table, tiles: Sequence[Tile], carry: Sequence[str]) -> bytes:
    count = objects.num_rows
    homes = objects["home"].to_pylist()
    columns = {
        "object_id": objects["object_id"],
        "ra": objects["ra"],
        "dec": objects["dec"],
        "pixel_scale": objects["pixel_scale"].cast(pa.float32()),
        HOME: objects["home"],
        TILES: objects["tiles"],
        SCALE: objects["pixel_scale"],
        REASON: objects["reason"] if "reason" in objects.column_names else pa.nulls(count, pa.string()),
        # What `hiwl cutouts` says of each cutout, for --carry; the shares are known when it is cut.
        "tile": pa.array([None if home < 0 else tiles[home].name for home in homes], pa.string()),
        "observed_share": pa.nulls(count, pa.float32()),
        "masked_share": pa.nulls(count, pa.float32()),
        **{name: objects[f"carry:{name}"] for name in carry},
    }
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, compression="zstd")
    return buffer.getvalue()


def _tiles_path(shard: str) -> str:
    return f"{shard.removesuffix('.parquet')}.tiles.json"


def _check_same(catalog: str, there: dict[str, Any] | None, now: dict[str, Any]) -> None:
    if there is None:
        raise UserError(
            f"{catalog} was made from shards, not from tiles and positions: choose another folder for the "
            "catalog"
        )
    for option in {**there, **now}:
        old, new = there.get(option), now.get(option)
        if old != new:
            what = f"{option} is not the same ({old!r} there, now {new!r})"
            if option == "digest":
                what = f"the files of {now['TILES']} or {now['POSITIONS']} have changed"
            raise UserError(f"{catalog} is of other cutouts: {what}; choose another folder for the catalog")


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(value))
    return plain
