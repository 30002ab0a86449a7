"""Labeled cutouts to train on, by row number: the class of each, and their images as windows of shards.

Weighted draws with replacement need any row at any time, and encoded cutouts are small (some 6 kB). So a set
that fits into one window is read once, into Ray's object store, which all workers of a node share without a
copy. A larger one is read window by window in each epoch (`pipeline.training.cutout_blocks`); of its rows
nothing is held but the class, a byte each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from hiwl_core.decoding import DEFAULT_RGB, Cutout
from hiwl_core.errors import UserError
from hiwl_core.recipe_sections import RgbSettings
from hiwl_core.sampling import epoch_windows, stratified_sample
from hiwl_core.statuses import OK
from hiwl_core.taxonomy import Taxonomy
from pipeline.progress import progress
from pipeline.shards.labeled_sample import labeled_statuses
from pipeline.shards.shard_groups import FAILED_COLUMN, SHARD_COLUMN
from pipeline.shards.wanted_scale import WantedScale
from pipeline.training.cutout_blocks import (
    CutoutBlocks,
    LabeledSource,
    iter_blocks,
    iter_tables,
    read_blocks,
    start_loader,
)
from pipeline.training.labeled_shards import LabeledShards

__all__ = ["MEBIBYTE", "CutoutStore", "load_cutouts"]

MEBIBYTE = 2**20
LEFT_OUT = -1
"""The class index of rows without a label, or with an image that cannot be read."""


@dataclass(frozen=True)
class CutoutStore:
    """Rows of labeled shards, and their images.

    Parameters
    ----------
    source : LabeledSource
    codes : numpy.ndarray of int8, shape (R,)
        Class index of each row of the shards; -1 for those that are none of this set.
    left_out : dict of int
        Unreadable cutouts by status.
    rgb : RgbSettings
        Colors of FITS cutouts.
    window_bytes : int
        Of shards that may be held together.
    blocks : CutoutBlocks or None
        All images, where they fit into one window.
    loader : ActorHandle or None
        Else, what reads the windows; see `pipeline.training.cutout_blocks`.
    """

    source: LabeledSource
    codes: np.ndarray
    left_out: dict[str, int]
    rgb: RgbSettings
    window_bytes: int
    blocks: CutoutBlocks | None = None
    loader: Any = None

    def __len__(self) -> int:
        """Rows of this set, without a number held for each."""
        return int(np.count_nonzero(self.codes >= 0))

    @property
    def here(self) -> bool:
        """Whether all images are in this process's own memory."""
        return self.blocks is not None and self.blocks.here

    @property
    def rows(self) -> np.ndarray:
        """Numbers of the rows of this set among those of the shards, ascending; shape (N,)."""
        return np.flatnonzero(self.codes >= 0)

    @property
    def class_indices(self) -> np.ndarray:
        """Class index of each row of this set; shape (N,), int8."""
        return self.codes[self.codes >= 0]

    def stage_targets(self, taxonomy: Taxonomy, stage: str) -> np.ndarray:
        """Target of each row of the shards, -1 for those that are not the stage's; shape (R,), int8."""
        of_class = taxonomy.stage_targets(stage, np.arange(len(taxonomy.classes))).astype(np.int8)
        # The last is what -1 finds.
        return np.append(of_class, np.int8(LEFT_OUT))[self.codes]

    def of_shard(self, shard: int, values: np.ndarray) -> np.ndarray:
        """The part of an array of all rows of the shards that is one shard's."""
        return values[self.source.starts[shard] : self.source.starts[shard + 1]]

    def windows(self, seed: int = 0, epoch: int | None = None) -> list[np.ndarray]:
        """Numbers of shards that are held together; see `hiwl_core.sampling.epoch_windows`."""
        everything = np.arange(len(self.source.shards))
        if self.blocks is not None:
            return [everything]
        sizes = np.array([shard.size for shard in self.source.shards])
        return epoch_windows(sizes, self.window_bytes, seed, epoch)

    def window(self, shards: np.ndarray, following: np.ndarray | None = None) -> CutoutBlocks:
        """The images of a window, by the number of the row in it.

        Parameters
        ----------
        shards : numpy.ndarray of int64
            Numbers of shards, as `windows` gives them.
        following : numpy.ndarray of int64, optional
            The window that will be wanted next: it is read meanwhile.
        """
        if self.blocks is not None:
            return self.blocks
        ahead = None if following is None else tuple(following.tolist())
        blocks: CutoutBlocks = ray.get(self.loader.load.remote(tuple(shards.tolist()), ahead))
        return blocks

    def images(self, rows: np.ndarray) -> list[bytes | Cutout]:
        """Encoded images of some rows of the shards, in the order given."""
        if self.blocks is not None:
            return self.blocks.images(rows)
        shard_of = np.searchsorted(self.source.starts, rows, side="right") - 1
        needed = np.unique(shard_of)
        wanted = np.zeros(len(self.codes), bool)
        wanted[rows] = True
        blocks = read_blocks(self.source, needed, wanted)
        lengths = np.diff(self.source.starts)[needed]
        first_in_window = np.cumsum(lengths) - lengths
        places = np.searchsorted(needed, shard_of)
        return blocks.images(rows - self.source.starts[shard_of] + first_in_window[places])

    def sampled(self, count: int | None, seed: int) -> CutoutStore:
        """A stratified sample of the rows, or all of them; see `hiwl_core.sampling.stratified_sample`."""
        if count is None or count >= len(self):
            return self
        chosen = np.zeros(len(self.codes), bool)
        chosen[self.rows[stratified_sample(self.class_indices, count, seed)]] = True
        return self.part(chosen)

    def part(self, chosen: np.ndarray) -> CutoutStore:
        """Those of the rows that are chosen, by a mask of all rows of the shards."""
        return replace(self, codes=np.where(chosen, self.codes, np.int8(LEFT_OUT))).held()

    def held(self) -> CutoutStore:
        """The same with its images where they can be reached: all in memory, or behind a loader."""
        if self.blocks is not None:
            return self
        of_all = len(self) / max(1, len(self.codes))
        if of_all * sum(shard.size for shard in self.source.shards) <= self.window_bytes:
            every_shard = np.arange(len(self.source.shards))
            return replace(self, blocks=read_blocks(self.source, every_shard, self.codes >= 0))
        return replace(self, loader=start_loader(self.source, self.codes >= 0))


def load_cutouts(
    labeled: LabeledShards,
    taxonomy: Taxonomy,
    smallest: int,
    rgb: RgbSettings = DEFAULT_RGB,
    window_bytes: int = 1024 * MEBIBYTE,
    fingerprints: Sequence[str] | None = None,
    here: bool = False,
) -> CutoutStore:
    """Look at all cutouts of some shards, and keep them if they fit into one window.

    Parameters
    ----------
    labeled : LabeledShards
    taxonomy : Taxonomy
    smallest : int
        Pixels that a cutout's shorter side must have; smaller and broken ones are left out and counted.
    rgb : RgbSettings
        Colors of FITS cutouts.
    window_bytes : int
        Of shards that may be held together.
    fingerprints : sequence of str, optional
        Of the shards as they are meant; what changed since is refused.
    here : bool
        Hold them in this process's own memory, which no Ray is needed for; they have to fit into one window.

    Raises
    ------
    UserError
        If a shard cannot be read to its end, or is not as it was.
    """
    source = LabeledSource.of(labeled, fingerprints)
    fits = sum(shard.size for shard in source.shards) <= window_bytes
    look = partial(_looked_at, taxonomy=taxonomy, smallest=smallest, rgb=rgb, keep=fits, scale=labeled.scale)
    notes_of = _notes if here else ray.remote(_notes).remote
    everything = np.arange(len(source.shards))
    blocks: list[tuple[Any, int]] = []
    pending = []
    with progress("reading", sum(labeled.rows)) as advance:
        for ref, rows in iter_tables(source, look) if here else iter_blocks(source, everything, look):
            pending.append(notes_of(ref))
            if fits:
                blocks.append((ref, rows))
            advance(rows)
    notes = pending if here else ray.get(pending)
    failed = [failed for note in notes for failed in note.failed]
    codes = np.concatenate([note.codes for note in notes])
    if failed or len(codes) != source.starts[-1]:
        raise UserError(failed[0] if failed else f"the shards changed meanwhile: {labeled.shards[0]}, ...")
    store = CutoutStore(
        source=source,
        codes=codes,
        left_out=dict(sum((note.left_out for note in notes), Counter())),
        rgb=rgb,
        window_bytes=window_bytes,
        blocks=CutoutBlocks.of(blocks) if fits else None,
    )
    return store.held()


class _Notes(NamedTuple):
    """What is known of the rows of a block: class indices, what was left out, which shards are broken."""

    codes: np.ndarray
    left_out: Counter[str]
    failed: list[str]


def _looked_at(
    table: pa.Table, taxonomy: Taxonomy, smallest: int, rgb: RgbSettings, keep: bool, scale: WantedScale
) -> pa.Table:
    """For each row its class index, why it has none, and, to keep, its image."""
    statuses = labeled_statuses(table, smallest, rgb, scale)
    readable = np.array([status == OK for status in statuses], bool)
    codes = np.full(table.num_rows, LEFT_OUT, np.int8)
    codes[readable] = taxonomy.encode(table["label"].filter(pa.array(readable)).to_pylist())
    failed = [
        None if why is None else f"{shard}: {why}"
        for shard, why in zip(table[SHARD_COLUMN].to_pylist(), table[FAILED_COLUMN].to_pylist(), strict=True)
    ]
    return pa.table(
        {
            "image": pc.if_else(pa.array(readable & keep), table["image"], None).cast(pa.binary()),
            "code": codes,
            "status": pa.array([None if status == OK else status for status in statuses], pa.string()),
            "failed": pa.array(failed, pa.string()),
            **scale.of_rows(table),
        }
    )


def _notes(block: pa.Table) -> _Notes:
    left_out = Counter(block["status"].drop_null().to_pylist())
    return _Notes(block["code"].to_numpy(), left_out, block["failed"].drop_null().to_pylist())
