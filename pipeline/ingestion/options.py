"""What decides, besides the source's files, what the shards of an ingest will hold."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hiwl_core.errors import UserError
from hiwl_core.recipe_sections import RgbSettings
from pipeline import storage
from pipeline.ingestion.labels import SERIES_NAME, UNLABELED
from pipeline.ingestion.split import Split
from pipeline.shards.cutout_shards import MAX_SHARD_BYTES, MAX_SHARD_ROWS, Columns

__all__ = ["IngestOptions"]


@dataclass(frozen=True)
class IngestOptions:
    """The options of an ingest; see `pipeline.ingestion.ingest.ingest`."""

    labels: str | None = None
    labels_id_column: str | None = None
    labels_class_column: str | None = None
    columns: Columns = field(default_factory=Columns)
    carry: tuple[str, ...] = ()
    name: str = "cutouts"
    drop_unlabeled: bool = False
    bands: tuple[str, ...] = ()
    rgb: RgbSettings | None = None
    split: Split | None = None
    class_folders: bool = False
    renamed: Mapping[str, str] = field(default_factory=dict)
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
            digest = hashlib.sha256()
            while piece := file.read(2**20):
                digest.update(piece)
            return digest.hexdigest()
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"no file {path!r}") from None
