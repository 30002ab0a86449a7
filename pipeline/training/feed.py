"""Streams of training and validation batches: Ray Data decodes and transforms, a worker iterates.

What a worker gets is fixed by the draws, the seed and the epoch alone. Each row of a stream names a cutout
and the seed of its augmentation, so one, two or four workers see the same images in the same global batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import ray.data
import torch
from torch import Tensor

from hiwl_core.augmentation import TrainTransform
from hiwl_core.cutouts import EvalTransform, Preprocessing
from hiwl_core.decoding import Scratch, decode_pixels
from hiwl_core.recipe import StageRecipe
from hiwl_core.sampling import batch_bounds, class_weights, epoch_draws, rank_share
from pipeline.cluster import use_ordered_streams
from pipeline.training.cutout_store import CutoutStore

__all__ = ["Batch", "StageFeed", "epoch_plan"]

# Rows a task: long enough to make the cost of a task small, short enough to start an epoch soon.
ROWS_A_TASK = 256


@dataclass(frozen=True)
class Batch:
    """One worker's part of a global batch.

    Parameters
    ----------
    pixels : Tensor of uint8, shape (N, H, W, 3)
    targets : Tensor of int64, shape (N,)
    global_size : int
        Images of the batch over all workers.
    """

    pixels: Tensor
    targets: Tensor
    global_size: int


@dataclass(frozen=True)
class EpochPlan:
    """One worker's rows of an epoch.

    Parameters
    ----------
    rows : numpy.ndarray of int64, shape (n,)
        Row numbers in the stage's cutouts, in order.
    seeds : numpy.ndarray of int64, shape (n,)
        Of the augmentation of each.
    sizes : list of (int, int)
        For each batch, the rows of this worker and of all workers.
    """

    rows: np.ndarray
    seeds: np.ndarray
    sizes: list[tuple[int, int]]


def epoch_plan(
    targets: np.ndarray,
    num_classes: int,
    recipe: StageRecipe,
    seed: int,
    epoch: int,
    rank: int,
    world_size: int,
) -> EpochPlan:
    """What one worker trains on in one epoch; over all workers, the same for any number of them.

    Parameters
    ----------
    targets : numpy.ndarray of int64, shape (N,)
        The stage's targets.
    num_classes : int
    recipe : StageRecipe
    seed, epoch : int
        Fix the draws and the augmentation.
    rank, world_size : int
    """
    weights = class_weights(targets, num_classes, recipe.weighting) if recipe.sampling == "weighted" else None
    draws = epoch_draws(len(targets), seed, epoch, weights)
    seeds = np.random.default_rng([seed, epoch, 1]).integers(2**62, size=len(draws))
    shares = [
        (rank_share(start, stop, rank, world_size), stop - start)
        for start, stop in batch_bounds(len(draws), recipe.batch_size)
    ]
    positions = np.concatenate([share for share, _ in shares])
    return EpochPlan(draws[positions], seeds[positions], [(len(share), size) for share, size in shares])


class StageFeed:
    """The cutouts of one stage as batches.

    Parameters
    ----------
    store : CutoutStore
    targets : numpy.ndarray of int64, shape (N,)
        The stage's target of each row of the store; -1 leaves a row out.
    num_classes : int
    recipe : StageRecipe
    preprocessing : Preprocessing
    seed : int
    num_cpus : float
        Logical CPUs that a decoding task takes.
    """

    def __init__(
        self,
        store: CutoutStore,
        targets: np.ndarray,
        num_classes: int,
        recipe: StageRecipe,
        preprocessing: Preprocessing,
        seed: int,
        num_cpus: float,
    ) -> None:
        self._store, self._recipe, self._seed, self._num_cpus = store, recipe, seed, num_cpus
        self._num_classes = num_classes
        self._rows = np.flatnonzero(targets >= 0)
        self.targets = targets[self._rows]
        self._preprocessing = preprocessing

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        return len(batch_bounds(len(self.targets), self._recipe.batch_size))

    def train_batches(self, epoch: int, rank: int, world_size: int) -> Iterator[Batch]:
        """One worker's batches of an epoch, freshly drawn and augmented."""
        recipe = self._recipe
        plan = epoch_plan(self.targets, self._num_classes, recipe, self._seed, epoch, rank, world_size)
        transform = TrainTransform(recipe.augmentation, recipe.train_size(epoch))
        return self._stream(transform, transform.input_size, plan.rows, plan.sizes, plan.seeds)

    def eval_batches(self, rank: int, world_size: int, batch_size: int = 128) -> Iterator[Batch]:
        """One worker's share of all rows, in order, without augmentation."""
        rows = np.arange(rank, len(self.targets), world_size)
        bounds = [(i, min(i + batch_size, len(rows))) for i in range(0, len(rows), batch_size)]
        sizes = [(stop - start, stop - start) for start, stop in bounds]
        return self._stream(EvalTransform(self._preprocessing), self._preprocessing.input_size, rows, sizes)

    def _stream(
        self,
        transform: Callable[..., np.ndarray],
        size: int,
        rows: np.ndarray,
        sizes: list[tuple[int, int]],
        seeds: np.ndarray | None = None,
    ) -> Iterator[Batch]:
        """Batches of some rows, transformed to images of `size` pixels on a side."""
        store = self._store

        def load(table: pa.Table) -> dict[str, np.ndarray]:
            pixels = np.empty((len(table), size, size, 3), np.uint8)
            scratch = Scratch()
            seeds = table["seed"].to_pylist() if "seed" in table.column_names else None
            for i, encoded in enumerate(store.images(table["row"].to_numpy())):
                image = decode_pixels(encoded, store.rgb, scratch).pixels
                pixels[i] = transform(image) if seeds is None else transform(image, seeds[i])
            return {"pixels": pixels, "target": table["target"].to_numpy()}

        columns = {"row": self._rows[rows], "target": self.targets[rows]}
        if seeds is not None:
            columns["seed"] = seeds
        tables = [
            pa.table({name: values[start : start + ROWS_A_TASK] for name, values in columns.items()})
            for start in range(0, len(rows), ROWS_A_TASK)
        ]
        use_ordered_streams()
        dataset = ray.data.from_blocks(tables).map_batches(
            load, batch_size=None, batch_format="pyarrow", num_cpus=self._num_cpus
        )
        return _rebatch(
            dataset.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=2), sizes
        )


def _rebatch(blocks: Iterator[dict[str, np.ndarray]], sizes: list[tuple[int, int]]) -> Iterator[Batch]:
    """Cut a stream of blocks of any length into batches of the given lengths."""
    source = iter(blocks)
    block: dict[str, np.ndarray] = {"pixels": np.empty(0), "target": np.empty(0)}
    start = 0
    for size, global_size in sizes:
        parts, missing = [], size
        while missing:
            if start == len(block["target"]):
                block, start = next(source), 0
            part = {name: values[start : start + missing] for name, values in block.items()}
            parts.append(part)
            start, missing = start + len(part["target"]), missing - len(part["target"])
        # A copy even of one part: the object store's arrays are read-only, and torch warns of those.
        pixels, targets = (np.concatenate([part[name] for part in parts]) for name in ("pixels", "target"))
        yield Batch(torch.from_numpy(pixels), torch.from_numpy(targets), global_size)
