"""What a shard's file is known by: its size and both ends, since a shard of a terabyte is not read for it."""

from __future__ import annotations

import hashlib
import io
from typing import BinaryIO

from pipeline import storage

__all__ = ["ends_of", "fingerprint", "fingerprint_of"]

FINGERPRINT_BYTES = 65536


def fingerprint(shard: str) -> str:
    """A short hash of a shard's size and its two ends, cheap to read from object storage.

    A Parquet footer, at the end of the file, holds the row counts, sizes and statistics of all columns, so
    two different shards of one name share a fingerprint only if one is the other, mended in its middle.
    Plans have ``<fingerprint>+<state>`` for such; see `pipeline.catalog.shard_content`.
    """
    with storage.open_input(shard) as file:
        return fingerprint_of(file)


def ends_of(planned: str) -> str:
    """The fingerprint in that of a plan."""
    return planned.split("+")[0]


def fingerprint_of(file: BinaryIO) -> str:
    """The same of a file that is open, which is at its beginning afterwards."""
    size = file.seek(0, io.SEEK_END)
    digest = hashlib.sha256(str(size).encode())
    for start in (0, max(0, size - FINGERPRINT_BYTES)):
        file.seek(start)
        digest.update(file.read(FINGERPRINT_BYTES))
    file.seek(0)
    return digest.hexdigest()[:16]
