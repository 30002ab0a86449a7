"""Ids that more than one row of a catalog has, found by hashes of 64 bits: eight bytes a row are held of it.

Rows are spread over buckets by their hashes, so that none has more than a task has memory for. A hash that
is there twice is only a suspicion: the ids behind it are read again.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hiwl_core.statuses import DUPLICATE_ID, NO_ID
from pipeline import storage
from pipeline.task_pool import TaskPool

__all__ = ["buckets_for", "id_hashes", "in_buckets", "repeated_ids"]

ROWS_A_BUCKET = 50_000_000
# Of so many repeated ids each is read again and counted; of the others it is known that they are.
IDS_READ_AGAIN = 10_000
HASH_BITS = 64


def buckets_for(rows: int | None) -> int:
    """Buckets for the hashes of so many rows."""
    return max(1, math.ceil((rows or 0) / ROWS_A_BUCKET))


def id_hashes(table: pa.Table) -> np.ndarray:
    """Hashes (uint64) of the ids of a part's rows, without those that were found wanting in their own shard.

    Parameters
    ----------
    table : pyarrow.Table
        With `object_id`, and `status` if it is of a catalog.
    """
    return _hashes(_ids(table))


def in_buckets(hashes: np.ndarray, buckets: int) -> list[np.ndarray]:
    """Hashes by bucket, sorted."""
    hashes = np.sort(hashes)
    width = -(-(2**HASH_BITS) // buckets)
    ends = np.array([number * width for number in range(1, buckets)], dtype=np.uint64)
    return np.split(hashes, np.searchsorted(hashes, ends))


def repeated_ids(
    pool: TaskPool, buckets: Sequence[Sequence[Any]], groups: Sequence[Sequence[str]]
) -> tuple[dict[str, int], int]:
    """The ids that are there more than once.

    Parameters
    ----------
    pool : TaskPool
    buckets : sequence of sequence
        Of each bucket the hashes, from `in_buckets`, as arrays or references of Ray to them.
    groups : sequence of sequence of str
        Paths of the parts.

    Returns
    -------
    times : dict of int
        Rows by id, sorted by id.
    others : int
        Repeated ids beyond the first 10,000, which were not read.
    """
    found = [hashes for _, hashes in pool.run(_repeated, [list(bucket) for bucket in buckets])]
    repeated = np.sort(np.concatenate(found)) if found else np.empty(0, np.uint64)
    if not len(repeated):
        return {}, 0
    times: Counter[str] = Counter()
    for _, counts in pool.run(_count_ids, [list(group) for group in groups], repeated[:IDS_READ_AGAIN]):
        times.update(counts)
    several = {identifier: count for identifier, count in sorted(times.items()) if count > 1}
    return several, max(0, len(repeated) - IDS_READ_AGAIN)


def _repeated(bucket: Sequence[Any], _: None) -> np.ndarray:
    """Hashes that are in a bucket more than once."""
    arrays = [hashes if isinstance(hashes, np.ndarray) else _fetched(hashes) for hashes in bucket]
    hashes = np.sort(np.concatenate(arrays)) if arrays else np.empty(0, np.uint64)
    return np.unique(hashes[1:][hashes[1:] == hashes[:-1]])


def _fetched(reference: Any) -> np.ndarray:
    import ray

    hashes: np.ndarray = ray.get(reference)
    return hashes


def _count_ids(parts: Sequence[str], wanted: np.ndarray) -> Counter[str]:
    """How often the ids with some hashes are in some parts."""
    counts: Counter[str] = Counter()
    for ids in storage.in_threads(_read_ids, parts):
        counts.update(ids.filter(pa.array(np.isin(_hashes(ids), wanted))).to_pylist())
    return counts


def _read_ids(part: str) -> pa.Array:
    with storage.open_input(part) as file:
        try:
            return _ids(pq.ParquetFile(file).read(columns=["object_id", "status"]))
        except storage.StoreError:
            raise
        except (pa.ArrowException, OSError):
            return pa.array([], pa.string())  # that it cannot be read was found before


def _ids(table: pa.Table) -> pa.Array:
    rows = table
    if "status" in table.column_names:
        own = pa.array([DUPLICATE_ID, NO_ID])
        rows = table.filter(pc.invert(pc.is_in(table["status"], value_set=own)))
    # As text: a number in one part may be text in another.
    return rows["object_id"].cast(pa.string()).combine_chunks()


def _hashes(ids: pa.Array) -> np.ndarray:
    values = ids.to_numpy(zero_copy_only=False)
    hashes: np.ndarray = pd.util.hash_array(values, categorize=False)
    return hashes
