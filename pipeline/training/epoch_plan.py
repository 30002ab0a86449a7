"""Which images a worker sees in an epoch, in which order, and in which steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from hiwl_core.recipe_sections import StageRecipe
from hiwl_core.sampling import batch_bounds, class_weights, epoch_draws, rank_share

__all__ = ["AUGMENTATION", "ORDER", "Batch", "EpochPlan", "epoch_plan"]

# What the generators of an epoch are for, beside those of `hiwl_core.sampling`.
AUGMENTATION, ORDER = 1, 5


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
    seeds = np.random.default_rng([seed, epoch, AUGMENTATION]).integers(2**62, size=len(draws))
    shares = [
        (rank_share(start, stop, rank, world_size), stop - start)
        for start, stop in batch_bounds(len(draws), recipe.batch_size)
    ]
    positions = np.concatenate([share for share, _ in shares])
    return EpochPlan(draws[positions], seeds[positions], [(len(share), size) for share, size in shares])
