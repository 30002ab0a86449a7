"""Where the cutouts of a catalog's rows are: the shard of each part, and how images come out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hiwl_core.decoding import Cutout
from hiwl_core.errors import UserError
from pipeline.catalog.manifest import is_catalog, read_plan
from pipeline.catalog.parts import part_name
from pipeline.querying.sample_images import read_cutouts
from pipeline.shards.cutout_shards import Columns, list_shards

__all__ = ["Origin", "find_origin"]


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
