"""Shards to train on or to score by: their columns and labels, checked before any work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np

from hiwl_core.errors import UserError
from hiwl_core.taxonomy import Taxonomy
from pipeline import storage
from pipeline.shards.cutout_shards import Columns, check_columns, read_columns
from pipeline.shards.fingerprints import fingerprint
from pipeline.shards.wanted_scale import AS_IT_IS, WantedScale

__all__ = ["LabeledShards", "check_labeled"]


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
    rows : tuple of int
        Of each shard.
    scale : WantedScale
        At which the galaxies are to be seen.
    chosen : tuple of numpy.ndarray of bool, optional
        For each row of each shard whether it is meant; default: all are. See `pipeline.training.held_out`.
    """

    shards: tuple[str, ...]
    columns: Columns
    class_counts: dict[str, int]
    unlabeled: int
    rows: tuple[int, ...]
    scale: WantedScale = AS_IT_IS
    chosen: tuple[np.ndarray, ...] | None = field(default=None, compare=False)

    @property
    def galaxies(self) -> int:
        """Rows that are meant."""
        return sum(self.rows) if self.chosen is None else sum(int(mask.sum()) for mask in self.chosen)

    @property
    def mask(self) -> np.ndarray:
        """For each row of all shards whether it is meant; shape (R,), bool."""
        return np.ones(sum(self.rows), bool) if self.chosen is None else np.concatenate(self.chosen)

    def only(self, numbers: Sequence[int]) -> LabeledShards:
        """Some of the shards, by their numbers; the counts of classes stay those of all."""
        return replace(
            self,
            shards=tuple(self.shards[number] for number in numbers),
            rows=tuple(self.rows[number] for number in numbers),
            chosen=None if self.chosen is None else tuple(self.chosen[number] for number in numbers),
        )

    @cached_property
    def fingerprints(self) -> tuple[str, ...]:
        """Of each shard; see `pipeline.shards.fingerprints.fingerprint`. They are read once."""
        return tuple(storage.in_threads(fingerprint, self.shards))


def check_labeled(
    shards: Sequence[str], columns: Columns, taxonomy: Taxonomy, scale: WantedScale = AS_IT_IS
) -> LabeledShards:
    """Check columns and labels before any work.

    Raises
    ------
    UserError
        For a missing column, a label that is not a class, or shards without any label.
    """
    check_columns(shards, columns, required=("object_id", "image", "label"), scale=scale)
    counts: Counter[str | None] = Counter()
    rows = []
    looks = storage.in_threads(partial(_count_labels, columns=columns), shards)
    for shard, found in zip(shards, looks, strict=True):
        try:
            taxonomy.encode([label for label in found if label is not None])
        except UserError as error:
            raise UserError(f"{error} ({shard}, column {columns.label!r})") from None
        counts.update(found)
        rows.append(found.total())
    unlabeled = counts.pop(None, 0)
    if not counts:
        raise UserError(
            f"no labels in column {columns.label!r} of {shards[0]}: nothing to learn from or score"
        )
    of_class = {name: counts[name] for name in taxonomy.classes}
    return LabeledShards(tuple(shards), columns, of_class, unlabeled, tuple(rows), scale)


def _count_labels(shard: str, columns: Columns) -> Counter[str | None]:
    """Rows of each label of a shard."""
    labels = read_columns(shard, columns, ["label"])["label"]
    return Counter({pair["values"]: pair["counts"] for pair in labels.value_counts().to_pylist()})
