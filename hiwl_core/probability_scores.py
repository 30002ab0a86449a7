"""What there is to say of probabilities before and after calibration: metrics, reliability curves, coverage.

A calibration is judged on galaxies that it was not fitted on. Where there are no others, each galaxy is
judged by what was fitted on the other folds: `hiwl_core.calibration.cross_fitted` for its probabilities,
`cross_fitted_sets` for its set of classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from hiwl_core.calibration import folds
from hiwl_core.conformal import ConformalScores, coverage_table
from hiwl_core.errors import UserError
from hiwl_core.reliability import probability_table, reliability_curve

__all__ = ["ProbabilityScores", "cross_fitted_sets", "reliability_curves", "score_probabilities"]

ALL = "all"
SIDES = ("before", "after")


@dataclass(frozen=True)
class ProbabilityScores:
    """How good probabilities are.

    Parameters
    ----------
    table : pandas.DataFrame
        See `hiwl_core.reliability.probability_table`; NaN on a side that there is not.
    curves : pandas.DataFrame
        See `reliability_curves`, with a first column `side`, ``before`` or ``after``.
    coverage : pandas.DataFrame or None
        See `hiwl_core.conformal.coverage_table`; None without sets.
    """

    table: pd.DataFrame
    curves: pd.DataFrame
    coverage: pd.DataFrame | None


def score_probabilities(
    truth: np.ndarray,
    classes: tuple[str, ...],
    before: np.ndarray | None = None,
    after: np.ndarray | None = None,
    sets: np.ndarray | None = None,
) -> ProbabilityScores:
    """Score the probabilities of galaxies whose classes are known, before calibration, after it, or both.

    Parameters
    ----------
    truth : numpy.ndarray of int, shape (N,)
        True classes, in ``[0, C)``.
    classes : tuple of str, length C
    before, after : numpy.ndarray of float, shape (N, C), optional
        One at least.
    sets : numpy.ndarray of bool, shape (N, C), optional
        Classes that each galaxy may be of.

    Raises
    ------
    UserError
        Without any probabilities, and as `hiwl_core.reliability.probability_table` does.
    """
    given = [(side, p) for side, p in zip(SIDES, (before, after), strict=True) if p is not None]
    if not given:
        raise UserError("probabilities are scored before calibration, after it, or both: none were given")
    table = probability_table(given[0][1], given[-1][1], truth, classes)
    for side in SIDES:
        if side not in dict(given):
            table[[side, f"{side}_low", f"{side}_high"]] = np.nan
    curves = [reliability_curves(p, truth, classes) for _, p in given]
    for (side, _), curve in zip(given, curves, strict=True):
        curve.insert(0, "side", side)
    return ProbabilityScores(
        table=table,
        curves=pd.concat(curves, ignore_index=True),
        coverage=None if sets is None else coverage_table(sets, truth, classes),
    )


def reliability_curves(
    p: np.ndarray, truth: np.ndarray, classes: tuple[str, ...], bins: int = 15
) -> pd.DataFrame:
    """Share of galaxies that are of a class against its probability, by class and for the most probable.

    Parameters
    ----------
    p : numpy.ndarray of float, shape (N, C)
    truth : numpy.ndarray of int, shape (N,)
    classes : tuple of str, length C
    bins : int
        Of equal width in [0, 1].

    Returns
    -------
    pandas.DataFrame
        Column `class`, then those of `hiwl_core.reliability.reliability_curve`, a row for each bin of each
        curve: first that of the most probable class, called ``all``, then one over all galaxies for the
        probability of each class, whose `accuracy` is the share of galaxies that are of it.

    Raises
    ------
    UserError
        As `hiwl_core.reliability.reliability_curve` does.
    """
    p, truth = np.asarray(p, dtype=np.float64), np.asarray(truth)
    curves = [reliability_curve(p, truth, bins).assign(**{"class": ALL})]
    for index, name in enumerate(classes):
        # Beside nothing at all it is always the most probable, and right where the galaxy is of it.
        alone = np.column_stack([p[:, index], np.zeros(len(p))])
        curve = reliability_curve(alone, np.where(truth == index, 0, 1), bins)
        curves.append(curve.assign(**{"class": name}))
    table = pd.concat(curves, ignore_index=True)
    return table[["class", *[name for name in table.columns if name != "class"]]]


def cross_fitted_sets(
    p: np.ndarray, truth: np.ndarray, classes: tuple[str, ...], coverage: float, k: int = 5, seed: int = 0
) -> np.ndarray:
    """Each galaxy's set of classes by the thresholds that the other folds ask for.

    Parameters
    ----------
    p : numpy.ndarray of float, shape (N, C)
        Of `hiwl_core.calibration.cross_fitted`.
    truth : numpy.ndarray of int, shape (N,)
    classes : tuple of str, length C
    coverage : float
        See `hiwl_core.conformal.ConformalScores.thresholds`.
    k, seed : int
        See `hiwl_core.calibration.folds`.

    Returns
    -------
    numpy.ndarray of bool, shape (N, C)

    Raises
    ------
    UserError
        If there are fewer galaxies than folds, and as `hiwl_core.conformal.ConformalScores` does.
    """
    p, truth = np.asarray(p), np.asarray(truth)
    fold = folds(truth, k, seed)
    sets = np.zeros(p.shape, dtype=bool)
    for index in range(k):
        held_out, others = fold == index, fold != index
        scores = ConformalScores.from_held_out(p[others], truth[others], classes)
        sets[held_out] = scores.sets(p[held_out], coverage)
    return sets
