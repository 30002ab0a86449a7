"""Which object is drawn when: stratified samples, plain and weighted epochs, and the shares of workers.

Everything here is a pure function of the labels, the seed and the epoch, so that one, two or four
workers train on the same draws in the same global batches, and a resumed run goes on as if never killed.
"""

from __future__ import annotations

import numpy as np

from hiwl_core.errors import UserError

__all__ = [
    "batch_bounds",
    "class_weights",
    "draws_of_shards",
    "epoch_draws",
    "epoch_windows",
    "rank_share",
    "rows_of_shard",
    "stratified_sample",
]

# What the generators of an epoch are for, beside that of `epoch_draws` and of augmentation.
_DRAWS, _WINDOWS, _ROWS = 2, 3, 4


def stratified_sample(targets: np.ndarray, count: int, seed: int) -> np.ndarray:
    """A random sample in which each class has the share that it has in the whole.

    Numbers are rounded by the largest remainders, and no class that is there is lost: each keeps one at
    least.

    Parameters
    ----------
    targets : numpy.ndarray of int, shape (N,)
        Class index of each object.
    count : int
        Objects to take; all are taken where there are no more.
    seed : int

    Returns
    -------
    numpy.ndarray of int64, shape (min(count, N),)
        Positions in `targets`, ascending.

    Raises
    ------
    UserError
        If there are more classes than `count`.
    """
    if count >= len(targets):
        return np.arange(len(targets))
    classes, sizes = np.unique(targets, return_counts=True)
    if count < len(classes):
        raise UserError(f"a sample of {count} cannot hold an object of each of {len(classes)} classes")
    # One of each, then the rest in proportion to what is left of them.
    wanted = (sizes - 1) * ((count - len(classes)) / (sizes - 1).sum())
    taken = 1 + np.floor(wanted).astype(np.int64)
    most_wanted = np.argsort(np.floor(wanted) - wanted, kind="stable")
    taken[most_wanted[: count - taken.sum()]] += 1
    generator = np.random.default_rng(seed)
    chosen = [
        generator.choice(np.flatnonzero(targets == one), size, replace=False)
        for one, size in zip(classes, taken, strict=True)
    ]
    return np.sort(np.concatenate(chosen))


def class_weights(targets: np.ndarray, num_classes: int, power: float = 1.0) -> np.ndarray:
    """Sampling weight of each object: one over the number of objects of its class, to a power.

    With a power of 1 every class is drawn equally often in expectation, whatever its size
    (Ma et al. 2023, MNRAS 519, 4765); with less a rare class is drawn more often than it is there, but not
    as often as a common one.

    Parameters
    ----------
    targets : numpy.ndarray of int, shape (N,)
        Class index of each object, in ``[0, num_classes)``.
    num_classes : int
    power : float
        In [0, 1]; 0 is plain sampling with replacement.

    Returns
    -------
    numpy.ndarray of float64, shape (N,)
        Weights that sum to 1.

    Raises
    ------
    UserError
        If a class has no object: it could never be drawn.
    """
    counts = np.bincount(targets, minlength=num_classes)
    empty = np.flatnonzero(counts == 0)
    if empty.size:
        raise UserError(f"weighted sampling: no object of class index {empty.tolist()} to draw from")
    weights = 1.0 / counts[targets] ** power
    return weights / weights.sum()


def epoch_draws(num_objects: int, seed: int, epoch: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Indices drawn in one epoch, in the order of training; as many draws as there are objects.

    Parameters
    ----------
    num_objects : int
    seed, epoch : int
        Together they fix the draws.
    weights : numpy.ndarray of float64, shape (num_objects,), optional
        Probabilities of a draw with replacement: the epoch is one multinomial sample. Without weights
        every object is drawn once, in random order.

    Returns
    -------
    numpy.ndarray of int64, shape (num_objects,)
    """
    generator = np.random.default_rng([seed, epoch])
    if weights is None:
        return generator.permutation(num_objects).astype(np.int64)
    return generator.choice(num_objects, size=num_objects, replace=True, p=weights).astype(np.int64)


def draws_of_shards(counts: np.ndarray, seed: int, epoch: int, power: float | None) -> np.ndarray:
    """How often each class is drawn from each shard in one epoch.

    Together with `rows_of_shard` this is one sample of the law of `epoch_draws` with `class_weights`, but
    for the order, while nobody has to hold the labels of all objects: the numbers of a multinomial sample's
    groups are multinomial themselves, first over the classes, then for each class over the shards.

    Parameters
    ----------
    counts : numpy.ndarray of int64, shape (S, K)
        Objects of each class in each shard.
    seed, epoch : int
        Together they fix the draws.
    power : float or None
        See `class_weights`; None: each object once.

    Returns
    -------
    numpy.ndarray of int64, shape (S, K)
        As many in all as there are objects.

    Raises
    ------
    UserError
        If a class has no object: it could never be drawn.
    """
    if power is None:
        return counts
    of_class = counts.sum(axis=0)
    empty = np.flatnonzero(of_class == 0)
    if empty.size:
        raise UserError(f"weighted sampling: no object of class index {empty.tolist()} to draw from")
    shares = of_class / of_class.astype(np.float64) ** power
    generator = np.random.default_rng([seed, epoch, _DRAWS])
    wanted = generator.multinomial(of_class.sum(), shares / shares.sum())
    return np.stack(
        [
            generator.multinomial(draws, in_shard / in_shard.sum())
            for draws, in_shard in zip(wanted, counts.T, strict=True)
        ],
        axis=1,
    )


def rows_of_shard(
    targets: np.ndarray, draws: np.ndarray | None, seed: int, epoch: int, shard: int
) -> np.ndarray:
    """Which rows of a shard are drawn in one epoch, class after class.

    Parameters
    ----------
    targets : numpy.ndarray of int, shape (R,)
        Class index of each row; -1 for rows that are never drawn.
    draws : numpy.ndarray of int64, shape (K,), or None
        How often each class is drawn, with replacement; None: each row once.
    seed, epoch, shard : int
        Together they fix the rows.

    Returns
    -------
    numpy.ndarray of int64, shape (draws.sum(),)
    """
    if draws is None:
        return np.flatnonzero(targets >= 0)
    generator = np.random.default_rng([seed, epoch, _ROWS, shard])
    return np.concatenate(
        [generator.choice(np.flatnonzero(targets == one), size) for one, size in enumerate(draws) if size]
        or [np.empty(0, np.int64)]
    )


def epoch_windows(sizes: np.ndarray, most: int, seed: int, epoch: int | None = None) -> list[np.ndarray]:
    """Shards in groups that are held together, within which an epoch's draws are mixed.

    Parameters
    ----------
    sizes : numpy.ndarray of int64, shape (S,)
        Bytes of each shard.
    most : int
        Bytes of a window, unless its only shard has more.
    seed : int
    epoch : int, optional
        Each epoch has an order of its own; default: the shards in order.

    Returns
    -------
    list of numpy.ndarray of int64
        Numbers of shards, each in one window.
    """
    order = np.arange(len(sizes))
    if epoch is not None:
        order = np.random.default_rng([seed, epoch, _WINDOWS]).permutation(order)
    starts, size = [0], 0
    for place, of_shard in enumerate(sizes[order].tolist()):
        if size and size + of_shard > most:
            starts.append(place)
            size = 0
        size += of_shard
    return np.split(order, starts[1:])


def batch_bounds(num_draws: int, batch_size: int) -> list[tuple[int, int]]:
    """Where each global batch of an epoch begins and ends.

    All batches have `batch_size` draws but the last: a remainder of at least half a batch is a batch of
    its own, a smaller one joins the batch before it. No draw is dropped and no batch is tiny, which
    would upset batch normalization.

    Parameters
    ----------
    num_draws, batch_size : int

    Returns
    -------
    list of (int, int)
        Half-open ranges that cover ``range(num_draws)``.
    """
    full, remainder = divmod(num_draws, batch_size)
    bounds = [(i * batch_size, (i + 1) * batch_size) for i in range(full)]
    if remainder:
        if bounds and 2 * remainder < batch_size:
            bounds[-1] = (bounds[-1][0], num_draws)
        else:
            bounds.append((full * batch_size, num_draws))
    return bounds


def rank_share(start: int, stop: int, rank: int, world_size: int) -> np.ndarray:
    """Positions of one worker in the global batch ``[start, stop)``: every `world_size`-th, from its rank.

    Raises
    ------
    UserError
        If the batch is too small to give each worker an image.
    """
    if stop - start < world_size:
        raise UserError(f"a batch of {stop - start} images cannot be shared by {world_size} workers")
    return np.arange(start + rank, stop, world_size)
