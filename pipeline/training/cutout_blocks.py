"""Labeled shards as blocks of encoded cutouts in Ray's object store, read through Ray Data."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from hiwl_core.decoding import Cutout
from pipeline import storage
from pipeline.cluster import beside_driver, ordered_streams
from pipeline.cores import usable_cores
from pipeline.retry_policy import LOADER_RESTARTS
from pipeline.shards.cutout_shards import Columns
from pipeline.shards.shard_groups import (
    FAILED_COLUMN,
    ROW_COLUMN,
    SHARD_COLUMN,
    ShardToRead,
    group_shards,
    iter_group,
)
from pipeline.shards.wanted_scale import AS_IT_IS, OWN, WANTED, WantedScale
from pipeline.training.labeled_shards import LabeledShards

__all__ = [
    "CutoutBlocks",
    "LabeledSource",
    "iter_blocks",
    "iter_tables",
    "read_blocks",
    "shard_size",
    "start_loader",
]

# A task that wants an image fetches the block that it is in.
BLOCK_BYTES = 64 * 2**20
TASKS_A_CPU = 2
# The one that is drawn from and the next; a worker that is a little behind holds its own.
WINDOWS_HELD = 2
# Workers may all wait at once.
MAX_CALLS = 1000


@dataclass(frozen=True)
class LabeledSource:
    """Labeled shards, and which rows of all are a shard's.

    Parameters
    ----------
    shards : tuple of ShardToRead
    columns : Columns
    starts : numpy.ndarray of int64, shape (S + 1,)
        Number of the first row of each shard, and of all rows.
    scale : WantedScale
        At which the galaxies are to be seen.
    """

    shards: tuple[ShardToRead, ...]
    columns: Columns
    starts: np.ndarray
    scale: WantedScale = AS_IT_IS

    @classmethod
    def of(cls, labeled: LabeledShards, fingerprints: Sequence[str] | None = None) -> LabeledSource:
        """Shards whose labels were checked; if fingerprints are given, what changed since is not read."""
        marks = fingerprints or [""] * len(labeled.shards)
        sizes = storage.in_threads(shard_size, labeled.shards)
        shards = map(ShardToRead, labeled.shards, sizes, labeled.rows, marks)
        starts = np.concatenate([[0], np.cumsum(labeled.rows)])
        return cls(tuple(shards), labeled.columns, starts, labeled.scale)

    @property
    def wanted(self) -> tuple[str, ...]:
        """Columns that are read, by the contract's names."""
        return ("image", "label", *self.scale.wanted)


@dataclass(frozen=True)
class CutoutBlocks:
    """Encoded images, some hundred a block, by number.

    Parameters
    ----------
    refs : tuple of ObjectRef, or of pyarrow.Table
        Tables with a column ``image``, and those of `WantedScale.of_rows`.
    starts : numpy.ndarray of int64, shape (B + 1,)
        Number of the first image of each block, and of all images.
    """

    refs: tuple[Any, ...]
    starts: np.ndarray

    @property
    def here(self) -> bool:
        """Whether they are in this process's own memory: no Ray is needed to come to them."""
        return all(isinstance(one, pa.Table) for one in self.refs)

    @classmethod
    def of(cls, blocks: Iterable[tuple[Any, int]]) -> CutoutBlocks:
        """Blocks and their lengths, in order."""
        pairs = list(blocks)
        lengths = np.array([rows for _, rows in pairs], np.int64)
        return cls(tuple(ref for ref, _ in pairs), np.concatenate([[0], np.cumsum(lengths)]))

    def images(self, numbers: np.ndarray) -> list[bytes | Cutout]:
        """Some images, in the order given; cutouts where they are to be seen at a scale."""
        block_of = np.searchsorted(self.starts, numbers, side="right") - 1
        needed = np.unique(block_of)
        found = [self.refs[block] for block in needed]
        tables = found if self.here else ray.get(found)
        of_block = dict(zip(needed.tolist(), tables, strict=True))
        return [
            _cutout(of_block[block], int(number - self.starts[block]))
            for block, number in zip(block_of.tolist(), numbers.tolist(), strict=True)
        ]


def _cutout(table: pa.Table, row: int) -> bytes | Cutout:
    image: bytes = table["image"][row].as_py()
    if WANTED not in table.column_names:
        return image
    return Cutout(image, table[OWN][row].as_py(), table[WANTED][row].as_py())


def shard_size(shard: str) -> int:
    """Bytes of a shard."""
    with storage.open_input(shard) as file:
        return file.seek(0, io.SEEK_END)


def iter_blocks(
    source: LabeledSource, shards: np.ndarray, change: Callable[[pa.Table], pa.Table]
) -> Iterator[tuple[Any, int]]:
    """Read shards by tasks; references to what is made of their rows, with the number of rows, in order.

    Parameters
    ----------
    source : LabeledSource
    shards : numpy.ndarray of int64
        Numbers of shards.
    change : callable
        From a table as `pipeline.shards.shard_groups.iter_group` gives it, with image and label, to what is
        kept of it.
    """
    # Here, since it takes a second, which a training in this process should not wait for.
    from ray.data import DataContext

    from pipeline.shards.shards_datasource import ShardsDatasource

    tasks = TASKS_A_CPU * max(1, int(ray.cluster_resources().get("CPU", 1)))
    groups = group_shards([source.shards[shard] for shard in shards], tasks)
    context = ordered_streams()
    context.target_max_block_size = BLOCK_BYTES
    with DataContext.current(context):
        read = ray.data.read_datasource(
            ShardsDatasource(groups, source.columns, source.wanted, source.scale.carry),
            override_num_blocks=len(groups),
        )
        stream = read.map_batches(change, batch_size=None, batch_format="pyarrow", zero_copy_batch=True)
        for bundle in stream.iter_internal_ref_bundles():
            for block in bundle.blocks:
                yield block.ref, block.metadata.num_rows


def iter_tables(
    source: LabeledSource, change: Callable[[pa.Table], pa.Table]
) -> Iterator[tuple[pa.Table, int]]:
    """The same of all shards, read by threads of this process; the tables themselves."""
    rows = iter_group(source.shards, source.columns, source.wanted, source.scale.carry)
    with ThreadPoolExecutor(usable_cores(), "cutouts") as threads:
        for table in threads.map(change, rows):
            yield table, table.num_rows


def read_blocks(source: LabeledSource, shards: np.ndarray, wanted: np.ndarray) -> CutoutBlocks:
    """The images of some shards, one after the other, by their number among all rows of these shards.

    Parameters
    ----------
    source : LabeledSource
    shards : numpy.ndarray of int64
        Numbers of shards.
    wanted : numpy.ndarray of bool, shape (R,)
        For each row of the source whether its image is held; else it is null.
    """
    of_shard = {
        source.shards[shard].path: wanted[source.starts[shard] : source.starts[shard + 1]] for shard in shards
    }
    change = partial(_wanted_images, of_shard=ray.put(of_shard), scale=source.scale)
    return CutoutBlocks.of(iter_blocks(source, shards, change))


def _wanted_images(table: pa.Table, of_shard: Any, scale: WantedScale) -> pa.Table:
    failed = table[FAILED_COLUMN].drop_null()
    if len(failed):
        # Who reads again is the trainer, from its last checkpoint.
        raise OSError(f"{table[SHARD_COLUMN][-1].as_py()}: {failed[0].as_py()}")
    wanted = ray.get(of_shard)
    rows = table[ROW_COLUMN].to_numpy()
    shards = table[SHARD_COLUMN].cast(pa.string()).combine_chunks()
    start, masks = 0, []
    for end in pc.run_end_encode(shards).run_ends.to_pylist():
        masks.append(wanted[shards[start].as_py()][rows[start:end]])
        start = end
    mask = np.concatenate(masks) if masks else np.empty(0, bool)
    return pa.table({"image": pc.if_else(pa.array(mask), table["image"], None), **scale.of_rows(table)})


class _WindowLoader:
    """Reads the windows of a large training set, one ahead, for all workers of a training.

    The workers go through an epoch in step, so each window is read once, not once a worker. What a window is,
    they know by themselves: the loader keeps nothing that it could not read again.
    """

    def __init__(self, source: LabeledSource, wanted: np.ndarray) -> None:
        self._source, self._wanted = source, wanted
        self._held: OrderedDict[tuple[int, ...], Future[CutoutBlocks]] = OrderedDict()
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(WINDOWS_HELD, thread_name_prefix="window")

    def load(self, shards: tuple[int, ...], following: tuple[int, ...] | None) -> CutoutBlocks:
        """The images of a window, once they are read; those of the next one are begun."""
        with self._lock:
            blocks = self._begin(shards)
            if following is not None:
                self._begin(following)
        try:
            return blocks.result()
        except Exception:
            # It may be readable the next time.
            with self._lock:
                self._held.pop(shards, None)
            raise

    def _begin(self, shards: tuple[int, ...]) -> Future[CutoutBlocks]:
        if shards not in self._held:
            self._held[shards] = self._threads.submit(
                read_blocks, self._source, np.array(shards), self._wanted
            )
        self._held.move_to_end(shards)
        while len(self._held) > WINDOWS_HELD:
            self._held.popitem(last=False)
        return self._held[shards]


def start_loader(source: LabeledSource, wanted: np.ndarray) -> Any:
    """An actor beside the driver that loads windows; it ends with its last handle.

    Parameters
    ----------
    source, wanted
        See `read_blocks`.
    """
    return (
        ray.remote(_WindowLoader)
        .options(
            num_cpus=0,
            scheduling_strategy=beside_driver(),
            max_concurrency=MAX_CALLS,
            max_restarts=LOADER_RESTARTS,
            max_task_retries=LOADER_RESTARTS,
        )
        .remote(source, wanted)
    )
