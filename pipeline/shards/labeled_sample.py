"""Some labeled galaxies of many shards, drawn at random: for what cannot or need not look at all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from hiwl_core.cutouts import read_cutout
from hiwl_core.decoding import Cutout
from hiwl_core.errors import UserError
from hiwl_core.recipe_sections import RgbSettings
from hiwl_core.sampling import stratified_sample
from hiwl_core.statuses import OK
from hiwl_core.taxonomy import Taxonomy
from pipeline.shards.cutout_shards import Columns, iter_rows, read_columns
from pipeline.shards.wanted_scale import AS_IT_IS, WantedScale

__all__ = ["LabeledSample", "TrainedOn", "labeled_statuses", "sample_labeled"]


@dataclass(frozen=True)
class LabeledSample:
    """Galaxies with their classes.

    Parameters
    ----------
    ids : list of str, length N
    images : list of bytes or Cutout, length N
        Encoded cutouts, all of them readable.
    class_indices : numpy.ndarray of int64, shape (N,)
        Positions in the taxonomy's classes.
    """

    ids: list[str]
    images: list[bytes | Cutout]
    class_indices: np.ndarray


class TrainedOn(NamedTuple):
    """The stratified sample that a training takes of its shards.

    Parameters
    ----------
    galaxies : int
        Of the sample.
    smallest : int
        Pixels that a cutout's shorter side must have to be trained on.
    """

    galaxies: int
    smallest: int


def sample_labeled(
    shards: Sequence[str],
    columns: Columns,
    taxonomy: Taxonomy,
    smallest: int,
    rgb: RgbSettings,
    seed: int,
    count: int | None = None,
    per_class: int | None = None,
    trained_on: TrainedOn | None = None,
    scale: WantedScale = AS_IT_IS,
) -> LabeledSample:
    """Draw galaxies at random, from all classes together or so many of each.

    Only the labels of all rows are read, and the images of those drawn; all images are for `trained_on`.
    Cutouts that cannot be read are left out, so there may be fewer than asked for.

    Parameters
    ----------
    shards : sequence of str
    columns : Columns
    taxonomy : Taxonomy
    smallest : int
        Pixels that a cutout's shorter side must have.
    rgb : RgbSettings
        Colors of FITS cutouts.
    seed : int
    count : int, optional
        Galaxies in all; default: all of them.
    per_class : int, optional
        Galaxies of each class, instead of `count`.
    trained_on : TrainedOn, optional
        Draw from the galaxies alone that a training with this seed took of these shards.
    scale : WantedScale
        At which they are to be seen.

    Returns
    -------
    LabeledSample
        In the order of the shards' rows.

    Raises
    ------
    UserError
        If none is left.
    """
    labels = [read_columns(shard, columns, ["label"])["label"].to_pylist() for shard in shards]
    places = [
        (shard, row)
        for shard, of_shard in enumerate(labels)
        for row, label in enumerate(of_shard)
        if label is not None
    ]
    classes = taxonomy.encode([labels[shard][row] for shard, row in places])
    pool = np.arange(len(places))
    if trained_on is not None:
        statuses = [
            status
            for shard in shards
            for table in iter_rows(shard, columns, ["image", "label", *scale.wanted], scale.carry)
            for status in labeled_statuses(table, trained_on.smallest, rgb, scale)
            if status is not None
        ]
        pool = pool[np.array(statuses) == OK]
        pool = pool[stratified_sample(classes[pool], trained_on.galaxies, seed)]
    order = np.random.default_rng(seed).permutation(pool)
    if per_class is not None:
        of_each = [order[classes[order] == one][:per_class] for one in range(len(taxonomy.classes))]
        chosen = np.sort(np.concatenate(of_each))
    else:
        chosen = np.sort(order[:count])
    ids: list[str] = []
    images: list[bytes | Cutout] = []
    kept: list[int] = []
    for shard in sorted({places[index][0] for index in chosen}):
        of_row = {places[index][1]: int(classes[index]) for index in chosen if places[index][0] == shard}
        start = 0
        wanted = ["object_id", "image", *scale.wanted]
        for table in iter_rows(shards[shard], columns, wanted, scale.carry):
            rows = [row - start for row in of_row if start <= row < start + len(table)]
            picked = table.take(pa.array(rows, pa.int64()))
            for row, identifier, image in zip(
                rows, picked["object_id"].to_pylist(), scale.cutouts(picked), strict=True
            ):
                if image is not None and read_cutout(image, (), smallest, rgb).status == OK:
                    ids.append(str(identifier))
                    images.append(image)
                    kept.append(of_row[start + row])
            start += len(table)
    if not images:
        raise UserError(
            f"no readable cutout of {smallest} px or more with a label in {', '.join(shards[:2])}"
        )
    return LabeledSample(ids, images, np.array(kept, dtype=np.int64))


def labeled_statuses(
    table: pa.Table, smallest: int, rgb: RgbSettings, scale: WantedScale = AS_IT_IS
) -> list[str | None]:
    """Status of each row with a label, None of one without; a training takes those that are ok.

    Parameters
    ----------
    table : pyarrow.Table
        With `image` and `label`, and the columns that `scale` needs.
    smallest : int
        Pixels that a cutout's shorter side must have.
    rgb : RgbSettings
        Colors of FITS cutouts.
    scale : WantedScale
        At which they are to be seen.
    """
    pairs = zip(scale.cutouts(table), table["label"].to_pylist(), strict=True)
    return [None if label is None else read_cutout(image, (), smallest, rgb).status for image, label in pairs]
