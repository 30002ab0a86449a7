"""Positions as the shards of a catalog: rows whose images are cut from tiles where they are classified.

``CATALOG/_positions`` has them: Parquet files with all of a row but its image, and beside each the tiles that
it needs, as JSON. They are what the catalog is planned from, gone on with and verified by; no cutout is ever
stored. A row that cannot be cut is a row with a status, as everywhere.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hiwl_core.errors import UserError
from pipeline import storage
from pipeline.catalog.manifest import check_free, is_catalog, planned_meanwhile, read_plan
from pipeline.cutouts.assignment import Assignment, assign
from pipeline.cutouts.cutout_plan import CutoutOptions, describe_tiles, digest_of, iter_planned, tile_entries
from pipeline.cutouts.position_images import HOME, REASON, SCALE, TILES, tiles_path
from pipeline.cutouts.positions import read_positions
from pipeline.cutouts.tiles import Tile
from pipeline.progress import say
from pipeline.shards.cutout_shards import MAX_SHARD_ROWS, shard_name
from pipeline.task_pool import TaskPool

__all__ = ["Positions", "plan_positions"]

FOLDER = "_positions"
UNCUT = "uncut"
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
    pool: Callable[[int], TaskPool],
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
        The rows in a shard follow from those of the table.
    pool : callable
        From a number of files to a pool that looks at them.
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
    described = {"TILES": place, **options.describe(), "digest": digest_of(entries, options)}
    # As JSON keeps it.
    cutting: dict[str, Any] = json.loads(json.dumps(described))
    folder = f"{catalog}/{FOLDER}"
    if is_catalog(catalog):
        _check_same(catalog, read_plan(catalog).settings.get("cutting"), cutting)
        return folder, cutting
    check_free(catalog)
    table = read_positions(options.positions, options.columns)
    most = min(MAX_SHARD_ROWS, max(LEAST_SHARD_ROWS, table.num_rows // SHARDS))
    tiles, broken = describe_tiles([entry.path for entry in entries], options, pool(len(entries)))
    for path, problem in broken[:3]:
        say(f"{path} cannot be read: {problem}")
    found = assign(table, tiles, options.settings, options.scale)
    claim()
    if is_catalog(catalog):
        raise planned_meanwhile(catalog)
    # Those of a run that was killed before it had a plan.
    storage.remove(folder)
    shards: dict[str, list[pa.Table]] = {}
    for series, objects in iter_planned(table, found, tiles, options.settings, most):
        shards.setdefault(series, []).append(objects)
    shards[UNCUT] = list(_uncut(table, found, most))
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
        storage.write_bytes(tiles_path(f"{folder}/{name}"), json.dumps(described).encode())
        storage.write_bytes(f"{folder}/{name}", _encoded(objects, tiles, options.columns.carry))

    for _ in storage.in_threads(write, named):
        pass
    return folder, cutting


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
