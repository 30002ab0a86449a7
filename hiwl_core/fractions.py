"""Class fractions of a sample of galaxies, corrected for the misclassification that validation galaxies show.

Counts of predicted labels mislead where a class is rare: a percent of the common classes that is called so
can outnumber it. What a predicted label is worth is known from a confusion matrix of galaxies that people
classified. Both corrections here assume that the galaxies of a class look as they did in validation, only in
other numbers: the same p(image | class), other p(class).

- *adjusted*: the class shares under which the counts of predicted labels are most likely, given the rates at
  which each class is called what (Gart & Buck 1966, Am. J. Epidemiol. 83, 593; Forman 2008, Data Min. Knowl.
  Disc. 17, 164, there as adjusted count). Where the linear system has a solution with no negative share,
  that is the most likely one; elsewhere expectation maximization finds the most likely one that has none.
- *em*: the shares under which the calibrated probabilities themselves are most likely (Saerens, Latinne &
  Decaestecker 2002, Neural Comput. 14, 21). It uses more of each galaxy than its label, so its intervals are
  narrower, and leans on more: that the probabilities are calibrated within each label.

Intervals are of 95 % and carry two uncertainties. The sample's: its shares, or its rows, are drawn from their
Dirichlet posterior (the Bayesian bootstrap, Rubin 1981, Ann. Statist. 9, 130), which unlike resampling leaves
a class that happens to be absent its chance. And validation's, which bounds large samples: the rates of each
class are drawn from the Dirichlet posterior of its row of the confusion matrix. For *em*, the density of a
class over the images is its rate of each label times the density within the label: the first is drawn, as
for *adjusted*, the second is the probabilities' own. The rows' noise alone would not do: with a calibration
fitted to some thousand galaxies it covers a rare class's share in half of all samples of 60,000.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from hiwl_core.class_prior import estimate_prior
from hiwl_core.errors import UserError
from hiwl_core.metrics import wilson
from hiwl_core.mixture import TINY, adjusted_shares, mixture_shares

__all__ = ["FRACTION_COLUMNS", "SaidOfGalaxies", "class_fractions"]

FRACTION_COLUMNS = (
    *("group", "class", "rows", "naive", "naive_low", "naive_high"),
    *("adjusted", "adjusted_low", "adjusted_high", "em", "em_low", "em_high"),
)
# Jeffreys' prior of shares: half a galaxy a cell.
PSEUDO_COUNT = 0.5
INTERVAL = (0.025, 0.975)
DRAWS, EM_DRAWS = 1000, 200
# Galaxies whose probabilities agree within a step are drawn as one, with their mean. The steps are even in
# the square root, in which shares are equally uncertain everywhere, and wider where that leaves many cells.
GRIDS, MOST_CELLS = (24, 16, 12, 8), 4000
CELLS_AT_ONCE = 2_000_000


class SaidOfGalaxies(NamedTuple):
    """Labels and probabilities of galaxies, for *em*.

    Parameters
    ----------
    labels : numpy.ndarray of int, shape (N,)
        Those that the confusion matrix tells of.
    probabilities : numpy.ndarray of float, shape (N, C)
        Calibrated; rows with a NaN are left out.
    """

    labels: np.ndarray
    probabilities: np.ndarray


def class_fractions(
    counts: pd.DataFrame,
    confusion: np.ndarray,
    galaxies: Mapping[object, SaidOfGalaxies] | None = None,
    prior: np.ndarray | None = None,
    seed: int = 0,
    validated_counts: pd.DataFrame | None = None,
    draws: int = DRAWS,
    em_draws: int = EM_DRAWS,
) -> pd.DataFrame:
    """Fractions of the classes in each group of galaxies: counted, adjusted, and by expectation maximization.

    All groups are corrected with the same draws of the rates: where validation errs it errs for all of them
    in the same direction, and trends between groups are surer than each group's interval says.

    Parameters
    ----------
    counts : pandas.DataFrame of int, shape (G, C)
        Galaxies by group, the index, and predicted label, the columns.
    confusion : numpy.ndarray of int, shape (C, C)
        Held-out galaxies, true classes by row, predicted labels by column, both in the order of `counts`. A
        class without any has unknown rates, and the intervals say so.
    galaxies : mapping of SaidOfGalaxies, optional
        By group, all or a random part of its galaxies; without it *em* is NaN.
    prior : numpy.ndarray of float, shape (C,), optional
        Class shares that the probabilities assume. A class with a share of 0 has no probability to correct,
        and its *em* is NaN.
    seed : int
    validated_counts : pandas.DataFrame of int, shape (G, C), optional
        The same galaxies by the labels that the confusion matrix tells of, if those of `counts` are others,
        such as the most probable class under other class shares.
    draws, em_draws : int
        For the intervals.

    Returns
    -------
    pandas.DataFrame
        `FRACTION_COLUMNS`, a row for each group and class. `rows` are the galaxies of the group with the
        class as label, `naive` their share, with Wilson's interval; all fractions of a group without
        galaxies are NaN.

    Raises
    ------
    UserError
        If shapes do not fit, there is no validation galaxy, or galaxies are given without a prior.
    """
    confusion = _checked(counts, confusion)
    if galaxies and prior is None:
        raise UserError(
            "fractions by expectation maximization need the class shares that probabilities assume"
        )
    rng = np.random.default_rng(seed)
    posterior = confusion + PSEUDO_COUNT
    rates = _dirichlet(rng, posterior, max(draws, em_draws))
    rows: list[tuple[object, ...]] = []
    labeled = (counts if validated_counts is None else validated_counts).to_numpy(dtype=np.int64)
    for group, of_group, labels in zip(counts.index, counts.to_numpy(dtype=np.int64), labeled, strict=True):
        total = int(of_group.sum())
        adjusted = np.full((3, len(of_group)), np.nan)
        if total:
            estimate = adjusted_shares(labels, _rates(confusion))
            shares = _dirichlet(rng, labels + PSEUDO_COUNT, draws)
            adjusted = _with_interval(estimate, adjusted_shares(shares, rates[:draws]))
        em = np.full((3, len(of_group)), np.nan)
        some = (galaxies or {}).get(group)
        if total and some is not None and prior is not None:
            mean_rates = posterior / posterior.sum(axis=1, keepdims=True)
            em = _em(some, np.asarray(prior, dtype=np.float64), rates[:em_draws] / mean_rates, rng)
        for index, name in enumerate(counts.columns):
            count = int(of_group[index])
            naive = (count / total if total else np.nan, *wilson(count, total))
            rows.append((group, name, count, *naive, *adjusted[:, index].tolist(), *em[:, index].tolist()))
    return pd.DataFrame(rows, columns=list(FRACTION_COLUMNS))


def _em(
    galaxies: SaidOfGalaxies, prior: np.ndarray, doubt: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Estimate and interval, shape (3, C), from probabilities; `doubt` is drawn rates over their mean."""
    probabilities = np.asarray(galaxies.probabilities, dtype=np.float64)
    whole = np.isfinite(probabilities).all(axis=1)
    probabilities, labels = probabilities[whole], np.asarray(galaxies.labels)[whole]
    known = prior > 0
    result = np.full((3, len(prior)), np.nan)
    if not len(labels) or probabilities.shape[1:] != prior.shape:
        return result
    estimate = estimate_prior(probabilities[:, known], prior[known])
    weights, cell_labels, means = _cells(labels, probabilities)
    likelihood = np.maximum(means[:, known], TINY) / prior[known]
    drawn = []
    step = max(1, CELLS_AT_ONCE // likelihood.size)
    for start in range(0, len(doubt), step):
        # (R, C, C) rates, true class first, become (R, cells, known classes).
        factors = np.swapaxes(doubt[start : start + step][:, known][:, :, cell_labels], 1, 2)
        counts = rng.standard_gamma(weights, size=(len(factors), len(weights)))
        drawn.append(mixture_shares(counts, likelihood * factors))
    result[:, known] = _with_interval(estimate, np.concatenate(drawn))
    return result


def _cells(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Galaxies of the same label and almost the same probabilities: how many, the label, the mean."""
    roots = np.sqrt(np.clip(probabilities, 0, 1))
    for grid in GRIDS:
        key = labels.astype(np.uint64)
        for column in np.floor(roots * grid).astype(np.uint64).T:
            # A hash: it fits however many classes there are, and a collision would only merge two cells.
            key = key * np.uint64(0x9E3779B97F4A7C15) + column
        _, first, cell, weights = np.unique(key, return_index=True, return_inverse=True, return_counts=True)
        if len(first) <= MOST_CELLS:
            break
    sums = [np.bincount(cell, column, minlength=len(first)) for column in probabilities.T]
    return weights, labels[first], np.stack(sums, axis=1) / weights[:, None]


def _rates(confusion: np.ndarray) -> np.ndarray:
    """Rates as counted; of a class without galaxies, equal."""
    totals = confusion.sum(axis=1, keepdims=True)
    return np.where(totals > 0, confusion, 1.0) / np.where(totals > 0, totals, len(confusion))


def _dirichlet(rng: np.random.Generator, parameters: np.ndarray, draws: int) -> np.ndarray:
    """Draws of shape (draws, ...): along the last axis they are shares."""
    drawn = rng.standard_gamma(parameters, size=(draws, *parameters.shape))
    return np.asarray(drawn / drawn.sum(axis=-1, keepdims=True))


def _with_interval(estimate: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    low, high = np.quantile(drawn, INTERVAL, axis=0)
    return np.stack([estimate, np.minimum(low, estimate), np.maximum(high, estimate)])


def _checked(counts: pd.DataFrame, confusion: np.ndarray) -> np.ndarray:
    confusion = np.asarray(confusion, dtype=np.int64)
    classes = len(counts.columns)
    if confusion.shape != (classes, classes):
        raise UserError(f"counts of {classes} labels need a square confusion matrix, not {confusion.shape}")
    if (confusion < 0).any() or (counts.to_numpy() < 0).any():
        raise UserError("counts of galaxies cannot be negative")
    if not confusion.any():
        raise UserError(
            "a confusion matrix without galaxies corrects nothing: validate on some that are labeled"
        )
    return confusion
