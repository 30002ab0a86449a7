"""The population stability index of two binned samples, with its noise and interval, and shares compared.

The index is sum (q - r) ln(q / r) over the bins: the symmetric Kullback-Leibler divergence (Jeffreys 1946,
Proc. R. Soc. A 186, 453; as PSI Yurdakul 2018, Western Michigan University, Dissertations 3208).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from hiwl_core.metrics import wilson

__all__ = ["StabilityIndex", "newcombe", "population_stability_index", "stability_index"]

# Jeffreys' prior of shares: half a galaxy a bin.
PSEUDO_COUNT = 0.5


class StabilityIndex(NamedTuple):
    """An index less its noise, with its interval; none is negative."""

    value: float
    low: float
    high: float
    noise: float


def population_stability_index(counts: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The index of two binned distributions, with half a count more in each bin.

    Parameters
    ----------
    counts, reference : numpy.ndarray of int, shape (..., B)

    Returns
    -------
    numpy.ndarray of float64, shape (...)
    """
    return _divergence(_smoothed(counts), _smoothed(reference))


def newcombe(
    successes: int, trials: int, other_successes: int, other_trials: int, z: float
) -> tuple[float, float]:
    """Interval of a difference of two proportions (Newcombe 1998, Stat. Med. 17, 873, method 10).

    Returns
    -------
    (float, float)
        Lower and upper end; NaN if either has no trials.
    """
    if not trials or not other_trials:
        return math.nan, math.nan
    share, other = successes / trials, other_successes / other_trials
    low, high = wilson(successes, trials, z)
    other_low, other_high = wilson(other_successes, other_trials, z)
    below = math.hypot(share - low, other_high - other)
    above = math.hypot(high - share, other - other_low)
    return share - other - below, share - other + above


def stability_index(
    counts: np.ndarray, reference: np.ndarray, level: float, rng: np.random.Generator, draws: int
) -> StabilityIndex:
    """The index of two samples, less what two samples of one distribution would have.

    That noise is about (B - 1)(1/n + 1/m) for n and m galaxies in B bins (Yurdakul 2018); here it is drawn,
    as it is less where bins are almost empty. The interval is a Bayesian bootstrap of both samples (Rubin
    1981, Ann. Statist. 9, 130), moved by what that adds to the index on average.

    Parameters
    ----------
    counts, reference : numpy.ndarray of int, shape (B,)
        Each with one galaxy at least.
    level : float
        Of the interval, such as 0.95.
    rng : numpy.random.Generator
    draws : int
    """
    # Bins that are empty in both tell nothing, but would add half a count each.
    used = (counts + reference) > 0
    counts, reference = counts[used], reference[used]
    found = float(population_stability_index(counts, reference))
    together = _smoothed(counts + reference)
    ours, theirs = (rng.multinomial(int(of.sum()), together, size=draws) for of in (counts, reference))
    noise = float(population_stability_index(ours, theirs).mean())
    shares, others = (
        rng.standard_gamma(of + PSEUDO_COUNT, size=(draws, len(of))) for of in (counts, reference)
    )
    drawn = _divergence(
        shares / shares.sum(axis=1, keepdims=True), others / others.sum(axis=1, keepdims=True)
    )
    value = found - noise
    low, high = np.quantile(drawn, [0.5 - level / 2, 0.5 + level / 2]) - drawn.mean() + value
    return StabilityIndex(max(0.0, value), max(0.0, float(low)), max(0.0, float(high)), noise)


def _smoothed(counts: np.ndarray) -> np.ndarray:
    counts = np.asarray(counts) + PSEUDO_COUNT
    return np.asarray(counts / counts.sum(axis=-1, keepdims=True))


def _divergence(q: np.ndarray, r: np.ndarray) -> np.ndarray:
    q, r = np.maximum(q, np.finfo(float).tiny), np.maximum(r, np.finfo(float).tiny)
    return np.asarray(((q - r) * np.log(q / r)).sum(axis=-1))
