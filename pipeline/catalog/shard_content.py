"""What parts are made from: the columns of a shard that decide them, and a digest of their values.

A shard's fingerprint is of its size and its two ends, so that thousands are looked at in seconds; one that
was mended in its middle has the same. So the rows themselves are hashed as they are classified, and where the
storage says that a file was written since (its time of change, its ETag) they are read and hashed again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from pipeline.shards.cutout_shards import Columns, iter_rows
from pipeline.shards.inspection import WantedColumns
from pipeline.shards.wanted_scale import WantedScale

__all__ = ["RowDigest", "content_of", "wanted_columns"]


def wanted_columns(settings: dict[str, Any]) -> WantedColumns:
    """What shards must have for the parts of a catalog, by the settings of its plan."""
    # The images of positions are cut from tiles; see `pipeline.cutouts.position_images`.
    image = [] if "cutting" in settings else ["image"]
    truth = ["label"] if settings["keep_truth"] else []
    columns, scale = Columns(**settings["columns"]), WantedScale(**settings["scale"])
    return WantedColumns(columns, ["object_id", *image, *truth], settings["carry"], scale)


def content_of(shard: str, settings: dict[str, Any]) -> str:
    """The digest of all rows of a shard, for the settings of a catalog.

    Raises
    ------
    OSError, pyarrow.ArrowException, tarfile.TarError, ValueError
        If the shard is damaged.
    """
    digest = RowDigest()
    for table in iter_rows(shard, *wanted_columns(settings).to_read):
        digest.add(table)
    return digest.hexdigest()


class RowDigest:
    """A digest of rows, some at a time; how they are divided does not matter."""

    def __init__(self) -> None:
        self._columns: dict[str, Any] = {}

    def add(self, rows: pa.Table) -> None:
        """Take in the rows that follow."""
        for name in rows.column_names:
            digest = self._columns.setdefault(name, hashlib.sha256())
            for value in _values(rows[name]):
                is_binary = isinstance(value, pa.Buffer)
                content = value if is_binary else repr(value).encode("utf-8", "backslashreplace")
                digest.update(b"%d %d " % (is_binary, len(content)))
                digest.update(content)

    def hexdigest(self) -> str:
        """Of all rows so far, 32 digits."""
        said = sorted((name, digest.hexdigest()) for name, digest in self._columns.items())
        return hashlib.sha256(repr(said).encode()).hexdigest()[:32]


def _values(column: pa.ChunkedArray) -> Iterable[Any]:
    """Bytes as they lie in memory: images of megabytes would cost as much to copy as to hash."""
    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        return column.to_pylist()
    return (scalar.as_buffer() if scalar.is_valid else None for scalar in column)
