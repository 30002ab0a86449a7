"""The scored galaxies one by one: which to look at, their cutouts, and what the model says of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from hiwl_core.decoding import Cutout
from hiwl_core.recipe_sections import RgbSettings
from hiwl_core.statuses import OK
from hiwl_core.taxonomy import FIRST_STAGE, Taxonomy, probability_column
from pipeline import storage
from pipeline.catalog.catalog_schema import TRUE_LABEL, stage_columns, stage_outputs
from pipeline.catalog.parts import read_part
from pipeline.pages.cards import Card, thumbnail
from pipeline.querying.origin import read_cutouts
from pipeline.shards.cutout_shards import Columns

__all__ = [
    "confident_mistakes",
    "galaxy_cards",
    "galaxy_columns",
    "least_certain",
    "read_galaxies",
    "read_pictures",
    "scored",
]

SHARD = "shard"
NO_BREAK = "\N{NO-BREAK SPACE}"


def galaxy_columns(taxonomy: Taxonomy) -> list[str]:
    """Columns of a scored catalog that are about the galaxy and not about the model."""
    return [
        "object_id",
        "ra",
        "dec",
        TRUE_LABEL,
        "label",
        "confidence",
        *map(probability_column, taxonomy.classes),
        "label_map",
        "class_set",
        *stage_columns(taxonomy),
        "views_used",
        "ood_score",
        "flags",
        "status",
    ]


def read_galaxies(parts: Sequence[str], shards: Sequence[str], taxonomy: Taxonomy) -> pd.DataFrame:
    """All rows of a scored catalog.

    Parameters
    ----------
    parts, shards : sequence of str, length P
        The parts, and the shards that they are of.
    taxonomy : Taxonomy

    Returns
    -------
    pandas.DataFrame
        The columns of `galaxy_columns`, ids as text, and `shard`.
    """
    tables = []
    for part, shard in zip(parts, shards, strict=True):
        table = read_part(part, galaxy_columns(taxonomy))
        # Integers beside a null would be floats, and ids may be text in another shard.
        table = table.set_column(0, "object_id", table["object_id"].cast(pa.string()))
        tables.append(table.append_column(SHARD, pa.array([shard] * len(table), pa.string())))
    # At once: integers have another type in the tables of a part that has none of a column.
    return pa.concat_tables(tables).to_pandas()


def scored(galaxies: pd.DataFrame) -> pd.DataFrame:
    """Those that have both a label of people's and one of the model's."""
    return galaxies[(galaxies["status"] == OK) & galaxies[TRUE_LABEL].notna()]


def confident_mistakes(galaxies: pd.DataFrame, count: int) -> pd.DataFrame:
    """The wrong labels with the highest confidence, the most confident first."""
    rows = scored(galaxies)
    wrong = rows[rows[TRUE_LABEL] != rows["label"]]
    return wrong.sort_values(["confidence", "object_id"], ascending=[False, True]).head(count)


def least_certain(galaxies: pd.DataFrame, count: int) -> pd.DataFrame:
    """The labels with the lowest confidence, right or wrong, the least confident first."""
    return scored(galaxies).sort_values(["confidence", "object_id"]).head(count)


def read_pictures(galaxies: pd.DataFrame, columns: Columns) -> dict[Any, Cutout | None]:
    """The cutouts of some galaxies, by their index in the table; only their shards are read.

    Parameters
    ----------
    galaxies : pandas.DataFrame
        Rows of `read_galaxies`.
    columns : Columns
        What the id, the image and the pixel scale are called in the shards.
    """
    groups = list(galaxies.groupby(SHARD, sort=False))

    def read(item: tuple[Any, pd.DataFrame]) -> list[Cutout | None]:
        shard, rows = item
        return read_cutouts(str(shard), columns, list(zip(rows["object_id"], rows["status"], strict=True)))

    found: dict[Any, Cutout | None] = {}
    for (_, rows), cutouts in zip(groups, storage.in_threads(read, groups), strict=True):
        found.update(zip(rows.index, cutouts, strict=True))
    return found


def galaxy_cards(
    galaxies: pd.DataFrame,
    pictures: Mapping[Any, Cutout | None],
    taxonomy: Taxonomy,
    rgb: RgbSettings,
    pixels: int,
) -> list[Card]:
    """Galaxies to look at, in the order of the table.

    Parameters
    ----------
    galaxies : pandas.DataFrame
        Rows of `read_galaxies`.
    pictures : mapping
        Of `read_pictures`.
    taxonomy : Taxonomy
    rgb : RgbSettings
        Colors of FITS cutouts.
    pixels : int
        Of a picture's longer side, at most.
    """
    return [
        _card(row, pictures.get(index), taxonomy, rgb, pixels)
        for index, row in zip(galaxies.index, galaxies.to_dict("records"), strict=True)
    ]


def _card(
    row: Mapping[Any, Any], cutout: Cutout | None, taxonomy: Taxonomy, rgb: RgbSettings, pixels: int
) -> Card:
    shown, words = thumbnail(cutout, pixels, "no picture of it", rgb)
    return Card(
        object_id=str(row["object_id"]),
        label=row["label"],
        confidence=row["confidence"],
        probabilities={name: row[probability_column(name)] for name in taxonomy.classes},
        ra=row["ra"],
        dec=row["dec"],
        status=row["status"],
        image=shown and shown.image,
        words=words,
        arcsec=shown and shown.arcsec,
        truth=row[TRUE_LABEL],
        stages=_stage_lines(row, taxonomy),
    )


def _stage_lines(row: Mapping[Any, Any], taxonomy: Taxonomy) -> list[str]:
    if not taxonomy.groups:
        return []
    first = taxonomy.stage_classes(FIRST_STAGE)
    said = {
        first[place]: float(row[column])
        for column, (stage, place) in stage_columns(taxonomy).items()
        if stage == FIRST_STAGE and place is not None
    }
    lines = [f"stage 1: {_shares(said)}"]
    for stage in taxonomy.later_stages:
        name = stage.replace("stage", "stage ")
        members = stage_outputs(row, taxonomy, stage)[0]
        shares = dict(zip(taxonomy.stage_classes(stage), members.tolist(), strict=True))
        lines.append(f"{name} did not run" if np.isnan(members).any() else f"{name}: {_shares(shares)}")
    return lines


def _shares(of: Mapping[str, float]) -> str:
    return ", ".join(f"{name}{NO_BREAK}{share:.3f}" for name, share in of.items())
