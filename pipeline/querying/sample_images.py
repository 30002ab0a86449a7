"""Single images out of a shard, by the ids of their rows."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hiwl_core.errors import UserError
from hiwl_core.statuses import DUPLICATE_ID
from pipeline import storage
from pipeline.shards.cutout_shards import Columns, is_tar, iter_rows, read_columns

__all__ = ["read_images"]


def read_images(shard: str, columns: Columns, rows: Sequence[tuple[object, str]]) -> list[bytes | None]:
    """The images of some rows of a shard.

    Of a Parquet file only the ids and the row groups with these rows are read; a tar is read through.

    Parameters
    ----------
    shard : str
        Path or URL.
    columns : Columns
        What the id and the image are called there.
    rows : sequence of (id, str), length N
        Ids, numbers or text, and their status in the catalog.

    Returns
    -------
    list of bytes or None, length N
        None where the shard has no such row or no image in it.

    Raises
    ------
    UserError
        If there is no such shard, or it lacks one of the columns.
    """
    if is_tar(shard):
        table = read_columns(shard, columns, ["object_id", "image"])
        places = _places(table["object_id"], rows)
        return [None if place is None else table["image"][place].as_py() for place in places]
    with storage.open_input(shard) as file:
        parquet = pq.ParquetFile(file)
        for name in (columns.id, columns.image):
            if name not in parquet.schema_arrow.names:
                raise UserError(f"no column {name!r}, but {', '.join(parquet.schema_arrow.names)}")
        ids = pa.concat_tables(iter_rows(shard, columns, ["object_id"]))["object_id"]
        places = _places(ids, rows)
        groups = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
        images: dict[int, bytes | None] = {}
        start = 0
        for group, count in enumerate(groups):
            here = {place for place in places if place is not None and start <= place < start + count}
            if here:
                column = parquet.read_row_group(group, columns=[columns.image])[columns.image]
                if pa.types.is_struct(column.type):
                    column = pc.struct_field(column, "bytes")
                images.update({place: column[place - start].as_py() for place in here})
            start += count
    return [None if place is None else images[place] for place in places]


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
