"""Can probabilities be trusted? Proper scores, calibration errors and reliability curves, with intervals."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from hiwl_core.errors import UserError
from hiwl_core.metrics import wilson

__all__ = [
    "brier",
    "classwise_ece",
    "expected_calibration_error",
    "negative_log_likelihood",
    "probability_table",
    "reliability_curve",
]

FLOOR = 1e-12  # a class that was called impossible costs 27.6 nats, not infinitely many
BINS = 15  # of the tables
BLOCK = 2**22  # numbers of a block of resamples: 32 MB, whatever the number of galaxies


def negative_log_likelihood(p: np.ndarray, truth: np.ndarray) -> float:
    """Mean of -log p(true class), in nats; probabilities below 1e-12 count as that.

    Parameters
    ----------
    p : numpy.ndarray of float, shape (N, C)
        Probabilities, rows summing to 1.
    truth : numpy.ndarray of int, shape (N,)
        True classes, in ``[0, C)``.

    Raises
    ------
    UserError
        If there is no galaxy, shapes differ, a probability is not in [0, 1] or a class out of range.
    """
    p, truth = _checked(p, truth)
    return float(_log_losses(p, truth).mean())


def brier(p: np.ndarray, truth: np.ndarray) -> float:
    """Mean over galaxies of the sum over classes of (p - [true])^2, in [0, 2] (Brier 1950, MWR 78, 1).

    Parameters and errors are those of `negative_log_likelihood`.
    """
    p, truth = _checked(p, truth)
    return float(_squares(p, truth).mean())


def expected_calibration_error(p: np.ndarray, truth: np.ndarray, bins: int = BINS) -> float:
    """How far the most probable class's probability is from its accuracy, on average.

    The sum over bins of equal width of their share of galaxies times |accuracy - mean probability| (Naeini et
    al. 2015, AAAI, 2901; Guo et al. 2017, ICML, PMLR 70, 1321). A bin has its upper edge and not its
    lower one. The error of a perfect model is above zero by the noise of the bins.

    Parameters
    ----------
    p, truth
        See `negative_log_likelihood`, whose errors it raises.
    bins : int
    """
    p, truth = _checked(p, truth)
    return float(_binned_error(p.max(axis=1), p.argmax(axis=1) == truth, bins))


def classwise_ece(p: np.ndarray, truth: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Calibration error of each class's own probability, over all galaxies, shape (C,).

    As `expected_calibration_error`, with p_c for the confidence and the share of class c for the accuracy;
    the mean over the classes is the classwise ECE of Kull et al. (2019, NeurIPS 32).

    Parameters
    ----------
    p, truth
        See `negative_log_likelihood`, whose errors it raises.
    bins : int
    """
    p, truth = _checked(p, truth)
    return np.array([_binned_error(p[:, index], truth == index, bins) for index in range(p.shape[1])])


def reliability_curve(p: np.ndarray, truth: np.ndarray, bins: int = BINS) -> pd.DataFrame:
    """Accuracy against confidence, in bins of the most probable class's probability.

    Parameters
    ----------
    p, truth
        See `negative_log_likelihood`, whose errors it raises.
    bins : int
        Of equal width in [0, 1].

    Returns
    -------
    pandas.DataFrame
        A row for each bin, columns `bin_low`, `bin_high`, `count`, `mean_confidence`, `accuracy`, and
        `low`, `high`: the accuracy's 95 % Wilson interval. An empty bin has NaN.
    """
    p, truth = _checked(p, truth)
    confidence, right = p.max(axis=1), p.argmax(axis=1) == truth
    index = _bin_index(confidence, bins)
    counts = np.bincount(index, minlength=bins)
    hits = np.bincount(index, right, minlength=bins).astype(np.int64)
    with np.errstate(invalid="ignore"):
        means = np.bincount(index, confidence, minlength=bins) / counts
        shares = hits / counts
    edges = np.linspace(0, 1, bins + 1)
    intervals = np.array([wilson(int(hit), int(count)) for hit, count in zip(hits, counts, strict=True)])
    table = pd.DataFrame({"bin_low": edges[:-1], "bin_high": edges[1:], "count": counts})
    return table.assign(mean_confidence=means, accuracy=shares, low=intervals[:, 0], high=intervals[:, 1])


def probability_table(
    before: np.ndarray,
    after: np.ndarray,
    truth: np.ndarray,
    classes: tuple[str, ...],
    resamples: int = 500,
    seed: int = 0,
) -> pd.DataFrame:
    """What calibration changed: every metric of two sets of probabilities, with 95 % bootstrap intervals.

    Galaxies are resampled, the same ones for both columns. Means (`nll`, `brier`, `accuracy`) have
    percentile intervals (Efron 1979). A calibration error is biased upwards, as noise in a bin never
    cancels, and a resample's error once more by as much: percentiles would all but exclude zero for a
    perfect model. The errors therefore have basic intervals, 2 x - x* (Davison & Hinkley 1997, Bootstrap
    Methods and their Application, ch. 5), cut at 0, which take the bias off; so the interval of a small
    error lies mostly below the figure itself.

    Parameters
    ----------
    before, after : numpy.ndarray of float, shape (N, C)
        Probabilities of the same galaxies.
    truth : numpy.ndarray of int, shape (N,)
    classes : tuple of str, length C
    resamples, seed : int
        Of the bootstrap.

    Returns
    -------
    pandas.DataFrame
        Columns `metric`, `before`, `before_low`, `before_high`, `after`, `after_low`, `after_high`; rows
        `nll`, `brier`, `ece`, `ece_<class>` for each class, and `accuracy` of the most probable class.

    Raises
    ------
    UserError
        As `negative_log_likelihood` does, or if the classes are not those of the probabilities.
    """
    names = ["nll", "brier", "ece", *(f"ece_{name}" for name in classes), "accuracy"]
    errors = np.char.startswith(names, "ece")
    sides = {"before": _checked(before, truth)[0], "after": _checked(after, truth)[0]}
    truth = np.asarray(truth)
    count, block = len(truth), max(1, BLOCK // len(truth))
    if {p.shape[1] for p in sides.values()} != {len(classes)}:
        raise UserError(
            f"probabilities of shapes {[p.shape for p in sides.values()]} for {len(classes)} classes: "
            f"both must have the shape ({count}, {len(classes)})"
        )
    table = pd.DataFrame({"metric": names})
    for side, p in sides.items():
        terms = _terms(p, truth)
        figures = _figures(np.ones((1, count)), terms)[0]
        # From the same seed both sides see the same galaxies.
        generator = np.random.default_rng(seed)
        sizes = [min(block, resamples - start) for start in range(0, resamples, block)]
        drawn = np.concatenate([_figures(_draws(generator, count, size), terms) for size in sizes])
        low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
        table[side] = figures
        table[f"{side}_low"] = np.where(errors, np.maximum(2 * figures - high, 0), low)
        table[f"{side}_high"] = np.where(errors, np.maximum(2 * figures - low, 0), high)
    return table


def _checked(p: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    p, truth = np.asarray(p, dtype=np.float64), np.asarray(truth)
    if p.ndim != 2 or truth.shape != p.shape[:1] or not p.size:
        raise UserError(
            f"metrics need one true class for each row of probabilities, not shapes {truth.shape} and "
            f"{p.shape}; give at least one galaxy with a label"
        )
    # A float32 probability may be above 1 by its rounding.
    if not (p.min() >= 0 and p.max() <= 1 + 1e-5):
        raise UserError(
            f"probabilities must be in [0, 1], not {p.min()} to {p.max()}: leave out what was not classified"
        )
    if not (truth.min() >= 0 and truth.max() < p.shape[1]):
        raise UserError(f"class indices must be in [0, {p.shape[1]}), not {truth.min()} to {truth.max()}")
    return p, truth


def _log_losses(p: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return np.asarray(-np.log(np.maximum(p[np.arange(len(truth)), truth], FLOOR)))


def _squares(p: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return np.asarray(((p - np.eye(p.shape[1])[truth]) ** 2).sum(axis=1))


def _bin_index(confidence: np.ndarray, bins: int) -> np.ndarray:
    return np.digitize(confidence, np.linspace(0, 1, bins + 1)[1:-1], right=True)


def _binned_error(confidence: np.ndarray, right: np.ndarray, bins: int) -> float:
    """Sum over bins of n_bin / N |mean(right) - mean(confidence)|, where n_bin cancels."""
    surplus = np.bincount(_bin_index(confidence, bins), right - confidence, minlength=bins)
    return float(np.abs(surplus).sum() / len(confidence))


def _terms(p: np.ndarray, truth: np.ndarray) -> csr_array:
    """What each galaxy adds to the sums that the metrics are made of, shape (N, 3 + BINS (1 + C)).

    Log loss, squares and hits, then a group of bins for the most probable class and for each class, with the
    galaxy's surplus in its own bin.
    """
    right = p.argmax(axis=1) == truth
    confidences = np.column_stack([p.max(axis=1), p])
    hits = np.column_stack([right, truth[:, None] == np.arange(p.shape[1])])
    values = np.column_stack([_log_losses(p, truth), _squares(p, truth), right, hits - confidences])
    groups = 3 + BINS * np.arange(confidences.shape[1])
    columns = np.column_stack(
        [np.broadcast_to(np.arange(3), (len(p), 3)), groups + _bin_index(confidences, BINS)]
    )
    width = values.shape[1]
    return csr_array(
        (values.ravel(), columns.ravel(), np.arange(0, values.size + 1, width)),
        shape=(len(p), 3 + BINS * confidences.shape[1]),
    )


def _figures(weights: np.ndarray, terms: csr_array) -> np.ndarray:
    """The metrics, in the table's order, of galaxies that count `weights` times; shape (R, C + 4)."""
    means = (terms.T @ weights.T).T / terms.shape[0]
    errors = np.abs(means[:, 3:].reshape(len(means), -1, BINS)).sum(axis=2)
    return np.column_stack([means[:, :2], errors, means[:, 2]])


def _draws(generator: np.random.Generator, count: int, resamples: int) -> np.ndarray:
    """How often each galaxy is in a resample with replacement, shape (R, N)."""
    return np.stack(
        [np.bincount(generator.integers(count, size=count), minlength=count) for _ in range(resamples)]
    ).astype(np.float64)
