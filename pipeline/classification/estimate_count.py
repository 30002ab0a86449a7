"""Counting the rows of shards without reading them, and what comes over the network meanwhile."""

from __future__ import annotations

import contextlib
import sys
import tarfile
from dataclasses import dataclass

import numpy as np

from pipeline import storage
from pipeline.catalog.manifest import part_names
from pipeline.classification.catalog_plan import shard_entries
from pipeline.progress import progress
from pipeline.shards.inspection import WantedColumns, inspect_shards
from pipeline.shards.tar_members import BrokenTar, iter_members
from pipeline.shards.webdataset import sample_key
from pipeline.storage.places import in_s3
from pipeline.storage.s3_store import shared_store

__all__ = ["ShardCounts", "bytes_got", "count_shards", "tar_bytes_a_row"]

TAR_ROWS = 512


@dataclass(frozen=True)
class ShardCounts:
    """The shards as their footers show them.

    Parameters
    ----------
    paths : list of str
    rows : numpy.ndarray of int64, shape (N,)
    size : int
        Bytes of all.
    counted : bool
        False if tars are among them, whose rows are estimated from their sizes.
    requests, bytes_got : int
        What the counting itself took from the object store.
    """

    paths: list[str]
    rows: np.ndarray
    size: int
    counted: bool
    requests: int
    bytes_got: int


def count_shards(shards_path: str, wanted: WantedColumns) -> ShardCounts:
    """Count the rows of shards, and check that they can be classified.

    Raises
    ------
    UserError
        For missing shards or columns, and for two shards that would become one part.
    """
    entries = shard_entries(shards_path)
    paths = [entry.path for entry in entries]
    part_names(paths)
    requests, got = bytes_got(paths[0])
    rows: list[int | None] = []
    with progress("counting", None) as advance:
        # By this process alone, whose requests are counted.
        for ends in inspect_shards(paths, wanted, many=sys.maxsize):
            rows.append(ends.rows)
            advance(ends.rows or 0)
    tars = [index for index, count in enumerate(rows) if count is None]
    if tars:
        bytes_a_row = tar_bytes_a_row(paths[tars[len(tars) // 2]])
        for index in tars:
            rows[index] = round(entries[index].size / bytes_a_row)
    after, got_after = bytes_got(paths[0])
    return ShardCounts(
        paths,
        np.array(rows, dtype=np.int64),
        sum(entry.size for entry in entries),
        not tars,
        after - requests,
        got_after - got,
    )


def bytes_got(path: str) -> tuple[int, int]:
    """GET requests that this process has sent to the path's store so far, and the bytes that came."""
    if not in_s3(path):
        return 0, 0
    store = shared_store()
    return store.reads, store.bytes_read


def tar_bytes_a_row(shard: str) -> float:
    """Bytes that a sample takes in an unpacked tar, by its first ones; infinite if it has none."""
    keys: set[str] = set()
    end = 0
    with storage.open_input(shard) as file, contextlib.suppress(BrokenTar):
        for member in iter_members(file, lambda name: False, 0):
            keys.add(sample_key(member.name))
            if len(keys) > TAR_ROWS:
                return member.offset / TAR_ROWS
            end = member.offset + (1 + -(-member.size // tarfile.BLOCKSIZE)) * tarfile.BLOCKSIZE
    return end / len(keys) if keys else float("inf")
