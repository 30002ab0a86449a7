"""Where the cutouts of a catalog's rows are: the shard of each part, and how images come out of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hiwl_core.decoding import Cutout
from hiwl_core.errors import UserError
from hiwl_core.statuses import DUPLICATE_ID
from pipeline import storage
from pipeline.catalog.manifest import is_catalog, read_plan
from pipeline.catalog.parts import part_name
from pipeline.shards.cutout_shards import Columns, is_tar, iter_rows, list_shards, read_columns

__all__ = ["Origin", "find_origin", "read_cutouts"]


@dataclass(frozen=True)
class Origin:
    """The shards that a catalog was made of.

    Parameters
    ----------
    shards : mapping of str to str
        Path or URL of the shard of each part, by the part's file name.
    columns : Columns
        What the columns are called there.
    cutting : mapping or None
        How the images of a catalog of positions are cut; see `pipeline.cutouts.position_images`.
    """

    shards: Mapping[str, str]
    columns: Columns
    cutting: Mapping[str, Any] | None

    def cutouts(self, shard: str, rows: Sequence[tuple[object, str]]) -> list[Cutout | None]:
        """The cutouts of some rows of a shard, or of a shard of positions, which has none, from the tiles.

        Parameters
        ----------
        shard : str
        rows : sequence of (id, str), length N
            Ids and their status in the catalog.

        Returns
        -------
        list of Cutout or None, length N

        Raises
        ------
        UserError, OSError, ValueError
            If the shard cannot be read.
        """
        if self.cutting is None:
            return read_cutouts(shard, self.columns, rows)
        # Here, since catalogs of shards do without what it brings.
        from pipeline.cutouts.position_images import cut_images

        images = cut_images(shard, [one for one, _ in rows], self.cutting)
        # FITS images, which tell their scale themselves.
        return [None if image is None else Cutout(image) for image in images]


def find_origin(
    catalog: str, shards: str | None = None, id_column: str | None = None, image_column: str | None = None
) -> Origin:
    """Where the cutouts of a catalog are.

    Parameters
    ----------
    catalog : str
        As `pipeline.classification.classify.classify` wrote it, not its published form; local or a URL.
    shards : str, optional
        Where the shards are, if not where they were classified.
    id_column, image_column : str, optional
        What the columns are called in the shards, if not as they were classified.

    Raises
    ------
    UserError
        If the catalog does not say where its shards are, or there are none.
    """
    catalog = catalog.rstrip("/")
    columns, cutting = Columns(), None
    of_part: dict[str, str] = {}
    if is_catalog(catalog):
        plan = read_plan(catalog)
        noted = plan.settings.get("columns", {})
        columns = replace(
            columns, **{key: noted[key] for key in ("id", "image", "pixel_scale") if key in noted}
        )
        of_part = {part: planned.shard for part, planned in plan.shards.items()}
        cutting = plan.settings.get("cutting")
    elif shards is None:
        raise UserError(f"{catalog} does not say where its shards are: name them with --shards")
    if shards is not None:
        of_part, cutting = {part_name(shard): shard for shard in list_shards(shards)}, None
    columns = replace(columns, id=id_column or columns.id, image=image_column or columns.image)
    return Origin(of_part, columns, cutting)


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
