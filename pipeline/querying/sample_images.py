"""Single cutouts out of a shard, by the ids of their rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hiwl_core.decoding import Cutout
from hiwl_core.errors import UserError
from hiwl_core.statuses import DUPLICATE_ID
from pipeline import storage
from pipeline.shards.cutout_shards import Columns, is_tar, iter_rows, read_columns

__all__ = ["read_cutouts"]


def read_cutouts(shard: str, columns: Columns, rows: Sequence[tuple[object, str]]) -> list[Cutout | None]:
    """The cutouts of some rows of a shard, with their pixel scales where it has them.

    Of a Parquet file only the ids and the row groups with these rows are read; a tar is read through.

    Parameters
    ----------
    shard : str
        Path or URL.
    columns : Columns
        What the id, the image and the pixel scale are called there.
    rows : sequence of (id, str), length N
        Ids, numbers or text, and their status in the catalog.

    Returns
    -------
    list of Cutout or None, length N
        None where the shard has no such row or no image in it.

    Raises
    ------
    UserError
        If there is no such shard, or it lacks the column of the ids or that of the images.
    """
    if is_tar(shard):
        table = read_columns(shard, columns, ["object_id", "image", "pixel_scale"])
        places = _places(table["object_id"], rows)
        return [None if place is None else _cutout(table, "image", "pixel_scale", place) for place in places]
    with storage.open_input(shard) as file:
        parquet = pq.ParquetFile(file)
        for name in (columns.id, columns.image):
            if name not in parquet.schema_arrow.names:
                raise UserError(f"no column {name!r}, but {', '.join(parquet.schema_arrow.names)}")
        ids = pa.concat_tables(iter_rows(shard, columns, ["object_id"]))["object_id"]
        places = _places(ids, rows)
        wanted = [columns.image, *({columns.pixel_scale} & set(parquet.schema_arrow.names))]
        groups = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
        found: dict[int, Cutout | None] = {}
        start = 0
        for group, count in enumerate(groups):
            here = {place for place in places if place is not None and start <= place < start + count}
            if here:
                table = parquet.read_row_group(group, columns=wanted)
                found.update(
                    {
                        place: _cutout(table, columns.image, columns.pixel_scale, place - start)
                        for place in here
                    }
                )
            start += count
    return [None if place is None else found[place] for place in places]


def _cutout(table: pa.Table, image: str, scale: str, place: int) -> Cutout | None:
    encoded = table[image][place].as_py()
    if isinstance(encoded, dict):
        encoded = encoded.get("bytes")
    own = table[scale][place].as_py() if scale in table.column_names else None
    return None if encoded is None else Cutout(encoded, _positive(own))


def _positive(value: Any) -> float | None:
    """A pixel scale; None for what is none, whatever the survey wrote there."""
    known = isinstance(value, int | float) and math.isfinite(value) and value > 0
    return float(value) if known else None


def _places(ids: pa.ChunkedArray, rows: Sequence[tuple[object, str]]) -> list[int | None]:
    """Where some rows stand among the ids of a shard."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for place, one in enumerate(ids.to_pylist()):
        if one is not None:
            first.setdefault(str(one), place)
            last[str(one)] = place
    # A repeated id is a row of its own, and never the first with it.
    return [(last if status == DUPLICATE_ID else first).get(str(one)) for one, status in rows]
