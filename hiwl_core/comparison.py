"""Is one model better than another? Intervals over seeds, and paired tests on the same galaxies.

Two things vary: the galaxies that are scored, and the training that a seed decides. A paired test asks of
the first whether the galaxies could as well have favored the other model; an interval over seeds asks the
same of the second. A difference that is to be believed should stand before both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import permutation_test
from scipy.stats import t as student

from hiwl_core.errors import UserError

__all__ = [
    "PairedComparison",
    "compare_paired",
    "holm",
    "mean_interval",
    "mean_recall_test",
    "sign_flip_test",
]

RESAMPLES = 9999


@dataclass(frozen=True)
class PairedComparison:
    """A model against another one, seed by seed on the same galaxies.

    Parameters
    ----------
    difference : float
        Of the accuracies, mean over the seeds; positive where the first model is better.
    low, high : float
        95 % interval of the difference over the seeds; NaN for one seed.
    only_first, only_second : tuple of int
        For each seed, the galaxies that only one of the two gets right.
    seed_p_values : tuple of float
        McNemar's exact test of each seed.
    p_value : float
        Of all seeds together; see `sign_flip_test`.
    """

    difference: float
    low: float
    high: float
    only_first: tuple[int, ...]
    only_second: tuple[int, ...]
    seed_p_values: tuple[float, ...]
    p_value: float

    def is_significant(self, level: float = 0.05) -> bool:
        """Whether the difference stands before both: other galaxies, and other seeds.

        Before other galaxies alone where there is one seed only.
        """
        return self.p_value < level and (math.isnan(self.low) or not self.low <= 0.0 <= self.high)


def compare_paired(first: np.ndarray, second: np.ndarray) -> PairedComparison:
    """Compare two models on the same galaxies.

    Parameters
    ----------
    first, second : numpy.ndarray of bool, shape (S, N)
        Which of the N galaxies a model gets right, for each of S seeds.

    Raises
    ------
    UserError
        If the shapes differ, or there is nothing to compare.
    """
    first, second = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if first.shape != second.shape or first.ndim != 2 or not first.size:
        raise UserError(
            f"a paired comparison needs the same seeds and galaxies, not {first.shape} and {second.shape}"
        )
    signed = first.astype(np.int64) - second
    differences = signed.mean(axis=1)
    low, high = mean_interval(differences)
    return PairedComparison(
        difference=float(differences.mean()),
        low=low,
        high=high,
        only_first=tuple((signed > 0).sum(axis=1).tolist()),
        only_second=tuple((signed < 0).sum(axis=1).tolist()),
        seed_p_values=tuple(sign_flip_test(row) for row in signed),
        p_value=sign_flip_test(signed.sum(axis=0)),
    )


def sign_flip_test(differences: np.ndarray) -> float:
    """Two-sided p-value of paired differences: how often random signs give as large a sum, exactly.

    If neither model is better, each galaxy's difference is as likely to have the other sign (Fisher 1935, The
    Design of Experiments). For differences of -1, 0 and 1 this is McNemar's test in its exact
    form (McNemar 1947, Psychometrika 12, 153); for the sums over several seeds each galaxy still counts
    once, as seeds that see the same galaxies are not independent of each other.

    Parameters
    ----------
    differences : numpy.ndarray of int, shape (N,)
        For each galaxy, how much more often the first model is right than the second.

    Returns
    -------
    float
        1 if no galaxy differs.
    """
    sizes = np.abs(differences[differences != 0]).astype(np.int64)
    # Probabilities of all sums from -total to total, from one difference to the next.
    chances = np.ones(1)
    for size in sizes:
        step = np.zeros(2 * size + 1)
        step[[0, -1]] = 0.5
        chances = np.convolve(chances, step)
    sums = np.abs(np.arange(len(chances)) - len(chances) // 2)
    return float(min(1.0, chances[sums >= abs(int(differences.sum()))].sum()))


def mean_recall_test(differences: np.ndarray, truth: np.ndarray, seed: int = 0) -> float:
    """Two-sided p-value of a difference of mean recalls: `sign_flip_test`, with one weight for all classes.

    A galaxy counts as one over the number of its class, so the sums are on no grid and random signs are
    drawn instead of counted: the smallest p-value is 0.0002, that of 9,999 draws.

    Parameters
    ----------
    differences : numpy.ndarray of int, shape (N,)
        For each galaxy, how much more often the first model is right than the second.
    truth : numpy.ndarray of int, shape (N,)
        Class of each.
    seed : int
        Of the draws.

    Returns
    -------
    float
        1 if no galaxy differs.
    """
    weighted = differences / np.bincount(truth)[truth]
    weighted = weighted[weighted != 0]
    if len(weighted) < 2:
        return 1.0
    found = permutation_test(
        (weighted,),
        np.sum,
        permutation_type="samples",
        n_resamples=RESAMPLES,
        batch=1000,
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def mean_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean of a few values (Student 1908, Biometrika 6, 1).

    Returns
    -------
    (float, float)
        Lower and upper end; NaN for one value, which says nothing of how others would vary.
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2:
        return math.nan, math.nan
    half = float(student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    return float(values.mean()) - half, float(values.mean()) + half


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for how many tests were made (Holm 1979, Scand. J. Statist. 6, 65).

    Parameters
    ----------
    p_values : sequence of float

    Returns
    -------
    list of float
        In the same order.
    """
    adjusted = [1.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable").tolist()):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted
