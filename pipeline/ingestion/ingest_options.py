"""What a user says of an ingest: what is taken of the source, and how its shards are cut."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hiwl_core.errors import UserError
from hiwl_core.recipe_sections import RgbSettings
from hiwl_core.taxonomy import GALAXY_ZOO, Taxonomy
from pipeline import storage
from pipeline.ingestion.labels import SERIES_NAME, UNLABELED
from pipeline.ingestion.split import Split
from pipeline.shards.cutout_shards import CONTRACT_NAMES, MAX_SHARD_BYTES, MAX_SHARD_ROWS, Columns

__all__ = ["AS_THEY_ARE", "IngestOptions"]


@dataclass(frozen=True)
class IngestOptions:
    """What is taken of a source of images, under which names, and how it is cut into shards.

    Parameters
    ----------
    labels : str, optional
        Table of classes, see `pipeline.ingestion.labels.read_labels`.
    labels_id_column, labels_class_column : str, optional
        What the columns of `labels` are called.
    columns : Columns
        What the columns of a Parquet source are called.
    carry : sequence of str
        Further columns to keep.
    name : str
        First part of the shards' names where the labels have no split.
    drop_unlabeled : bool
        Leave out the objects without a label, which otherwise become shards of their own.
    bands : sequence of str
        Bands of sets of FITS files, one file a band, named as `pipeline.ingestion.source.split_band` says.
    rgb : RgbSettings, optional
        Colors to make of FITS images; without them single FITS files stay as they are. `bands` needs it.
    split : Split, optional
        Which objects with a label become ``train``, ``val`` and ``test``, where no column says so.
    class_folders : bool
        Whether each class has a folder of its own in the source, which is named like it.
    renamed : mapping of str
        What classes are called in the taxonomy, where the labels call them otherwise.
    taxonomy : Taxonomy
        The allowed classes.
    shard_rows, shard_bytes : int
        Upper bounds of a shard; bytes are those of the images.
    """

    labels: str | None = None
    labels_id_column: str | None = None
    labels_class_column: str | None = None
    columns: Columns = CONTRACT_NAMES
    carry: Sequence[str] = ()
    name: str = "cutouts"
    drop_unlabeled: bool = False
    bands: Sequence[str] = ()
    rgb: RgbSettings | None = None
    split: Split | None = None
    class_folders: bool = False
    renamed: Mapping[str, str] = field(default_factory=dict)
    taxonomy: Taxonomy = GALAXY_ZOO
    shard_rows: int = MAX_SHARD_ROWS
    shard_bytes: int = MAX_SHARD_BYTES

    def check(self) -> None:
        """Check what can be checked without the source.

        Raises
        ------
        UserError
        """
        if not re.fullmatch(SERIES_NAME, self.name) or self.name == UNLABELED:
            raise UserError(
                f"--name {self.name!r} cannot name shards: use letters and digits, such as cutouts"
            )
        if self.bands:
            _check_bands(self.bands, self.rgb)
        if self.class_folders and (self.labels or self.bands):
            other = "--labels" if self.labels else "--bands"
            raise UserError(f"--class-folders: the folders name the classes; leave it out, or {other}")
        if self.split and self.split.group_by and not self.labels:
            raise UserError(f"--group-by {self.split.group_by}: give the table that has it with --labels")

    def describe(self) -> dict[str, Any]:
        """Plain data, by the words that a user knows the options by; of the labels table its content's hash.

        Raises
        ------
        UserError
            If there is no such table.
        """
        return {
            "--labels": _digest(self.labels) if self.labels else None,
            "--labels-id-column": self.labels_id_column,
            "--labels-class-column": self.labels_class_column,
            "--carry": list(self.carry),
            "--name": self.name,
            "--drop-unlabeled": self.drop_unlabeled,
            "--bands": list(self.bands),
            "--recipe": self.rgb.model_dump(mode="json") if self.rgb else None,
            **(self.split.describe() if self.split else {}),
            **({"--class-folders": True} if self.class_folders else {}),
            **({"--map": dict(self.renamed)} if self.renamed else {}),
            **{f"the column of {name}": column for name, column in self.columns.standard_names().items()},
            "the number of rows in a shard": self.shard_rows,
            "the number of bytes in a shard": self.shard_bytes,
        }


AS_THEY_ARE = IngestOptions()
"""All images, with no labels but those of a Parquet source."""


def _check_bands(bands: Sequence[str], rgb: RgbSettings | None) -> None:
    given, lower = ",".join(bands), [band.lower() for band in bands]
    if not all(lower) or len(set(lower)) < len(lower):
        raise UserError(f"--bands {given!r}: write different names with commas, such as g,r,i")
    if rgb is None:
        raise UserError(
            f"--bands {given} needs --recipe NAME, whose section [rgb] says how bands become colors"
        )
    missing = [band for band in rgb.bands if band.lower() not in lower]
    if missing:
        raise UserError(
            f"--bands {given} lacks {missing[0]!r}: the recipe makes red, green and blue of "
            f"{', '.join(rgb.bands)} ([rgb] bands)"
        )


def _digest(path: str) -> str:
    try:
        with storage.open_input(path) as file:
            return storage.sha256_of(file)
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"no file {path!r}") from None
