"""The images of positions that a catalog is made of: cut from tiles when they are asked for, never stored."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from hiwl_core.stamps import FinishedStamp, StampSettings
from pipeline import storage
from pipeline.cutouts.cutting import cut, cut_pieces, stitched
from pipeline.cutouts.tiles import Tile, TilePixels, tile_of
from pipeline.shards.cutout_shards import ROW_GROUP_ROWS, Columns, iter_rows
from pipeline.shards.shard_groups import ShardToRead, checked_rows
from pipeline.shards.webdataset import STATUS_COLUMN

__all__ = ["HOME", "REASON", "SCALE", "TILES", "cut_images", "cut_rows", "tiles_path"]

HOME, TILES, SCALE, REASON = "_home", "_tiles", "_scale", "_reason"
"""Of a position: the tile that it is cut from, those that it is stitched of, the cutout's scale in arcsec a
pixel, and why it cannot be cut."""
TABLE_BYTES = 32 * 2**20
"""Of images that are cut before they are decoded."""


def tiles_path(shard: str) -> str:
    """The file beside a shard of positions with the tiles that it needs."""
    return f"{shard.removesuffix('.parquet')}.tiles.json"


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
    settings = _settings(cutting)
    stamps = _stamps(rows, _tiles_of(shard.path), settings)
    at_once = max(1, min(ROW_GROUP_ROWS, TABLE_BYTES // settings.bytes))
    for start in range(0, rows.num_rows, at_once):
        some = rows.slice(start, at_once).select([*wanted, *carry])
        yield some, _with_images(some, list(islice(stamps, some.num_rows)))


def cut_images(shard: str, ids: Sequence[object], cutting: Mapping[str, Any]) -> list[bytes | None]:
    """The images of some rows of a shard of positions.

    Parameters
    ----------
    shard : str
    ids : sequence of int or str, length N
    cutting : mapping

    Returns
    -------
    list of bytes or None, length N
        FITS cutouts; None for rows that cannot be cut, or are not there.
    """
    rows = pa.concat_tables(
        iter_rows(shard, Columns(), ["object_id", "ra", "dec"], [HOME, TILES, SCALE, REASON])
    )
    places = {str(one): place for place, one in enumerate(rows["object_id"].to_pylist())}
    chosen = [places.get(str(one)) for one in ids]
    # In their order, in which the rows of a tile stand together.
    there = sorted({place for place in chosen if place is not None})
    stamps = _stamps(rows.take(there), _tiles_of(shard), _settings(cutting))
    found = {place: stamp.content for place, stamp in zip(there, stamps, strict=True)}
    return [None if place is None else found[place] for place in chosen]


def _settings(cutting: Mapping[str, Any]) -> StampSettings:
    return StampSettings(tuple(cutting["--bands"]), int(cutting["--size"]))


def _tiles_of(shard: str) -> dict[int, Tile]:
    described = json.loads(storage.read_bytes(tiles_path(shard)))
    return {int(number): tile_of(tile) for number, tile in described.items()}


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
        for number in sorted({number for order in objects["tiles"].to_pylist() for number in order}):
            with TilePixels(tiles[number], settings.bands) as pixels:
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
