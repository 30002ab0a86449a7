"""The paper's metrics as small pure functions of a confusion matrix, with an interval beside each figure."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hiwl_core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "CLASS_METRICS",
    "ClassMetric",
    "WithInterval",
    "accuracy",
    "bootstrap_intervals",
    "class_table",
    "confusion_matrix",
    "f1",
    "precision",
    "recall",
    "wilson",
]

Z_95 = 1.959963984540054  # the normal distribution's 97.5 % quantile


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts of true against predicted classes.

    Parameters
    ----------
    truth, predicted : numpy.ndarray of int, shape (N,)
        Class indices in ``[0, num_classes)``.
    num_classes : int
        C.

    Returns
    -------
    numpy.ndarray of int64, shape (C, C)
        Rows are true classes, columns predicted ones.

    Raises
    ------
    UserError
        If the shapes differ or an index is out of range.
    """
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if truth.shape != predicted.shape or truth.ndim != 1:
        raise UserError(
            f"truth and predictions must be of one length, not {truth.shape} and {predicted.shape}"
        )
    both = np.concatenate([truth, predicted])
    if both.size and not (both.min() >= 0 and both.max() < num_classes):
        raise UserError(f"class indices must be in [0, {num_classes}), not {both.min()} to {both.max()}")
    flat = truth.astype(np.int64) * num_classes + predicted.astype(np.int64)
    return np.bincount(flat, minlength=num_classes**2).reshape(num_classes, num_classes)


def accuracy(matrix: np.ndarray) -> np.ndarray:
    """Share of right predictions; `matrix` has shape (..., C, C), the result (...)."""
    return _ratio(_diagonal(matrix).sum(-1), matrix.sum((-2, -1)))


def recall(matrix: np.ndarray) -> np.ndarray:
    """Share of each true class that was found (completeness), shape (..., C); NaN for an absent class."""
    return _ratio(_diagonal(matrix), matrix.sum(-1))


def precision(matrix: np.ndarray) -> np.ndarray:
    """Share of each predicted class that is right (purity), shape (..., C); NaN for one never predicted."""
    return _ratio(_diagonal(matrix), matrix.sum(-2))


def f1(matrix: np.ndarray) -> np.ndarray:
    """Harmonic mean of precision and recall, shape (..., C): 2 TP / (2 TP + FP + FN)."""
    return _ratio(2 * _diagonal(matrix), matrix.sum(-1) + matrix.sum(-2))


class WithInterval(NamedTuple):
    """A figure with its 95 % interval, which may be NaN."""

    value: float
    low: float
    high: float


class ClassMetric(NamedTuple):
    """A figure that each class has.

    Parameters
    ----------
    title : str
        On pages.
    function : callable
        From matrices of shape (..., C, C) to figures of shape (..., C).
    summed : int
        The axis of a matrix along which the objects that the figure is of are counted: 0 for those called so,
        1 for those that are so.
    is_share : bool
        Whether it is the share of these that are right, which has an interval in closed form.
    """

    title: str
    function: Callable[[np.ndarray], np.ndarray]
    summed: int = 1
    is_share: bool = False


CLASS_METRICS: Mapping[str, ClassMetric] = {
    "precision": ClassMetric("Precision", precision, summed=0, is_share=True),
    "recall": ClassMetric("Recall", recall, is_share=True),
    "f1": ClassMetric("F1", f1),
}
"""All that is said of a class, in the order in which it is said: another one is entered here."""


def wilson(successes: int, trials: int, z: float = Z_95) -> tuple[float, float]:
    """Interval of a proportion (Wilson 1927, J. Am. Stat. Assoc. 22, 209), 95 % by default.

    Returns
    -------
    (float, float)
        Lower and upper end; NaN without trials.
    """
    if trials == 0:
        return math.nan, math.nan
    share = successes / trials
    center = share + z**2 / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    scale = 1 + z**2 / trials
    return max(0.0, (center - spread) / scale), min(1.0, (center + spread) / scale)


def class_table(
    matrix: np.ndarray, classes: tuple[str, ...], resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Precision, recall and F1 of each class, their averages, and accuracy (the paper's Table 4).

    Recall, precision and accuracy are proportions and have Wilson intervals; F1 and the averages have
    percentile bootstrap intervals. All are 95 %.

    Parameters
    ----------
    matrix : numpy.ndarray of int, shape (C, C)
        See `confusion_matrix`.
    classes : tuple of str, length C
    resamples, seed : int
        Of the bootstrap.

    Returns
    -------
    pandas.DataFrame
        Columns `class`, `metric`, `value`, `low`, `high`, `count`: the objects that the figure is a share of.
        The averages over classes are rows of the class ``average``, accuracy of the class ``all``. A class
        without objects is in no average; one that is never predicted counts with precision 0.
    """
    rows: list[tuple[str, str, float, float, float, int]] = []
    right, total = np.diagonal(matrix), int(matrix.sum())
    values = {metric: of.function(matrix) for metric, of in CLASS_METRICS.items()}
    counts = {metric: matrix.sum(of.summed) for metric, of in CLASS_METRICS.items()}
    intervals = {
        metric: [wilson(int(hits), int(count)) for hits, count in zip(right, counts[metric], strict=True)]
        if of.is_share
        else bootstrap_intervals(matrix, of.function, resamples, seed)
        for metric, of in CLASS_METRICS.items()
    }
    for index, name in enumerate(classes):
        for metric in CLASS_METRICS:
            low, high = intervals[metric][index]
            rows.append((name, metric, float(values[metric][index]), low, high, int(counts[metric][index])))
    for metric, of in CLASS_METRICS.items():
        average = partial(_average, of.function)
        low, high = bootstrap_intervals(matrix, average, resamples, seed)
        rows.append(("average", metric, float(average(matrix)), float(low), float(high), total))
    rows.append(("all", "accuracy", float(accuracy(matrix)), *wilson(int(right.sum()), total), total))
    # Here, since it takes half a second, which the options of all verbs would wait for.
    import pandas as pd

    return pd.DataFrame(rows, columns=["class", "metric", "value", "low", "high", "count"])


def bootstrap_intervals(
    matrix: np.ndarray, function: Callable[[np.ndarray], np.ndarray], resamples: int, seed: int
) -> np.ndarray:
    """95 % percentile bootstrap intervals of figures of a confusion matrix (Efron 1979).

    Resampling N objects with replacement is a multinomial draw of the matrix's cells.

    Parameters
    ----------
    matrix : numpy.ndarray of int, shape (C, C)
    function : callable
        From matrices of shape (R, C, C) to figures of shape (R, ...).
    resamples, seed : int

    Returns
    -------
    numpy.ndarray of float64, shape (..., 2)
    """
    total = int(matrix.sum())
    generator = np.random.default_rng(seed)
    draws = generator.multinomial(total, matrix.ravel() / total, size=resamples).reshape(-1, *matrix.shape)
    with warnings.catch_warnings():
        # A class that is absent from all resamples has no interval: NaN says so.
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.moveaxis(np.nanpercentile(function(draws), [2.5, 97.5], axis=0), 0, -1)


def _diagonal(matrix: np.ndarray) -> np.ndarray:
    return np.diagonal(matrix, axis1=-2, axis2=-1)


def _average(metric: Callable[[np.ndarray], np.ndarray], matrix: np.ndarray) -> np.ndarray:
    """Unweighted mean over the classes that there are; a class that is never predicted has precision 0."""
    there = matrix.sum(-1) > 0
    return _ratio((np.nan_to_num(metric(matrix)) * there).sum(-1), there.sum(-1))


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(numerator / denominator)
