"""Labeled cutouts held in Ray's object store for training: encoded, checked once, reached by row number.

Weighted draws with replacement need any row at any time. Encoded cutouts are small (some 6 kB), so a
training set of a million takes 6 GB of the object store, which every worker of a node shares without a copy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from hiwl_core.decoding import DEFAULT_RGB
from hiwl_core.errors import UserError
from hiwl_core.recipe import RgbSettings
from hiwl_core.sampling import stratified_sample
from hiwl_core.statuses import OK
from hiwl_core.taxonomy import Taxonomy
from pipeline.shards.cutout_shards import (
    MAX_SHARD_ROWS,
    Columns,
    check_columns,
    count_rows,
    read_columns,
)
from pipeline.shards.labeled_sample import labeled_cutouts

__all__ = ["CutoutStore", "LabeledShards", "check_labeled", "load_cutouts"]


@dataclass(frozen=True)
class LabeledShards:
    """Shards whose labels were read and checked.

    Parameters
    ----------
    shards : tuple of str
    columns : Columns
    class_counts : dict of int
        Objects of each class.
    unlabeled : int
        Rows without a label, which training leaves out.
    """

    shards: tuple[str, ...]
    columns: Columns
    class_counts: dict[str, int]
    unlabeled: int


@dataclass(frozen=True)
class CutoutStore:
    """References to blocks of encoded cutouts, and the class of each row.

    Parameters
    ----------
    blocks : tuple of ObjectRef
        Arrow arrays of encoded images.
    starts : numpy.ndarray of int64, shape (B + 1,)
        Row number at which each block begins, and the number of rows.
    class_indices : numpy.ndarray of int64, shape (N,)
    left_out : dict of int
        Unreadable cutouts by status.
    rgb : RgbSettings
        Colors of FITS cutouts.
    chosen : numpy.ndarray of int64, shape (N,), optional
        The cutouts of the blocks that are rows, if not all are.
    """

    blocks: tuple[Any, ...]
    starts: np.ndarray
    class_indices: np.ndarray
    left_out: dict[str, int]
    rgb: RgbSettings = DEFAULT_RGB
    chosen: np.ndarray | None = None

    def sampled(self, count: int | None, seed: int) -> CutoutStore:
        """A stratified sample of the rows, or all of them; see `hiwl_core.sampling.stratified_sample`."""
        if count is None:
            return self
        rows = stratified_sample(self.class_indices, count, seed)
        chosen = rows if self.chosen is None else self.chosen[rows]
        return replace(self, class_indices=self.class_indices[rows], chosen=chosen)

    def images(self, rows: np.ndarray) -> list[bytes]:
        """Encoded images of some rows, in the order given."""
        if self.chosen is not None:
            rows = self.chosen[rows]
        block_of = np.searchsorted(self.starts, rows, side="right") - 1
        needed = np.unique(block_of)
        arrays = dict(zip(needed.tolist(), ray.get([self.blocks[block] for block in needed]), strict=True))
        return [
            arrays[block][int(row - self.starts[block])].as_py()
            for block, row in zip(block_of.tolist(), rows.tolist(), strict=True)
        ]


def check_labeled(shards: Sequence[str], columns: Columns, taxonomy: Taxonomy) -> LabeledShards:
    """Check columns and labels before any work.

    Raises
    ------
    UserError
        For a missing column, a label that is not a class, or shards without any label.
    """
    check_columns(shards, columns, required=("object_id", "image", "label"))
    counts: Counter[str] = Counter()
    unlabeled = 0
    for shard in shards:
        labels = read_columns(shard, columns, ["label"])["label"].to_pylist()
        known = [label for label in labels if label is not None]
        unlabeled += len(labels) - len(known)
        try:
            taxonomy.encode(known)
        except UserError as error:
            raise UserError(f"{error} ({shard}, column {columns.label!r})") from None
        counts.update(known)
    if not counts:
        raise UserError(
            f"no labels in column {columns.label!r} of {shards[0]}: nothing to learn from or score"
        )
    return LabeledShards(tuple(shards), columns, {name: counts[name] for name in taxonomy.classes}, unlabeled)


def load_cutouts(
    labeled: LabeledShards, taxonomy: Taxonomy, smallest: int, rgb: RgbSettings = DEFAULT_RGB
) -> CutoutStore:
    """Read shards into the object store, one task a shard, rows in the shards' order.

    Parameters
    ----------
    labeled : LabeledShards
    taxonomy : Taxonomy
    smallest : int
        Pixels that a cutout's shorter side must have; smaller and broken ones are left out and counted.
    rgb : RgbSettings
        Colors of FITS cutouts.
    """
    read = ray.remote(_read_shard)
    # A shard of a stranger's making can be large: more objects of a bounded size serve better than one.
    returns = [1 + max(1, -(-(count_rows(shard) or 0) // MAX_SHARD_ROWS)) for shard in labeled.shards]
    tasks = [
        read.options(num_returns=n, name=f"read {shard.rsplit('/', 1)[-1]}").remote(
            shard, labeled.columns, taxonomy, smallest, rgb, n - 1
        )
        for shard, n in zip(labeled.shards, returns, strict=True)
    ]
    indexes = ray.get([task[0] for task in tasks])
    left_out: Counter[str] = sum((index["left_out"] for index in indexes), Counter())
    sizes = [size for index in indexes for size in index["sizes"]]
    return CutoutStore(
        blocks=tuple(block for task in tasks for block in task[1:]),
        starts=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        class_indices=np.concatenate([index["class_indices"] for index in indexes]),
        left_out=dict(left_out),
        rgb=rgb,
    )


def _read_shard(
    shard: str, columns: Columns, taxonomy: Taxonomy, smallest: int, rgb: RgbSettings, num_blocks: int
) -> tuple[Any, ...]:
    """The labeled, readable cutouts of a shard: an index, then exactly `num_blocks` arrays of images."""
    images: list[bytes] = []
    labels: list[str] = []
    left_out: Counter[str] = Counter()
    for status, image, label in labeled_cutouts(shard, columns, smallest, rgb):
        if status == OK:
            images.append(image)
            labels.append(label)
        else:
            left_out[status] += 1
    parts = [list(part) for part in np.array_split(np.arange(len(images)), num_blocks)]
    blocks = [pa.array([images[row] for row in part], pa.binary()) for part in parts]
    index = {
        "sizes": [len(part) for part in parts],
        "class_indices": taxonomy.encode(labels),
        "left_out": left_out,
    }
    return (index, *blocks)
