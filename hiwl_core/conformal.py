"""Sets of classes that hold the true one with a promised probability, for each class: conformal prediction.

Class-conditional (Mondrian) split-conformal sets: Vovk (2012, ACML, PMLR 25, 475), with the probability of
the class as its score (Sadinle, Lei & Wasserman 2019, J. Am. Stat. Assoc. 114, 223; Angelopoulos & Bates
2021, arXiv:2107.07511).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Context
from itertools import compress
from typing import TYPE_CHECKING, Any

import numpy as np

from hiwl_core.errors import UserError
from hiwl_core.metrics import wilson

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["DEFAULT_COVERAGE", "ConformalScores", "coverage_table", "set_names"]

LOWEST_COVERAGE = 0.5
DEFAULT_COVERAGE = 0.95
SIX_DIGITS = Context(prec=6, rounding=ROUND_FLOOR)


@dataclass(frozen=True)
class ConformalScores:
    """What held-out galaxies of each class gave to their own class, the lowest half of it.

    A coverage of one half or more asks for no other scores. They are kept to six digits, rounded down so that
    no coverage is lost, and so are the same in memory and in a bundle.

    The promise is for galaxies that are like the held-out ones of their class; the class shares may be
    others. If the probabilities were calibrated on the held-out galaxies too, give those of cross-fitting,
    for which it holds but for the small differences between the folds' calibrations (Vovk 2015, Ann. Math.
    Artif. Intell. 74, 9). Probabilities that are moved to another prior need scores that were moved alike.

    Parameters
    ----------
    classes : tuple of str, length C
    scores : tuple of tuple of float, length C
        For each class, ascending: the ``(n + 1) // 2`` lowest.
    counts : tuple of int, length C
        n, the held-out galaxies of each class.

    Raises
    ------
    UserError
        If the scores are not as many as the counts ask for.
    """

    classes: tuple[str, ...]
    scores: tuple[tuple[float, ...], ...]
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        if [len(own) for own in self.scores] != [(n + 1) // 2 for n in self.counts] or len(
            self.counts
        ) != len(self.classes):
            raise UserError(
                f"conformal scores of {list(self.counts)} galaxies of the classes {list(self.classes)} have "
                f"the lengths {[len(own) for own in self.scores]}: take the model from its source again"
            )

    @classmethod
    def from_held_out(cls, p: np.ndarray, truth: np.ndarray, classes: tuple[str, ...]) -> ConformalScores:
        """Scores of galaxies that the probabilities were not fitted on.

        Parameters
        ----------
        p : numpy.ndarray of float, shape (N, C)
        truth : numpy.ndarray of int, shape (N,)
            True classes, in ``[0, C)``.
        classes : tuple of str, length C

        Raises
        ------
        UserError
            If shapes differ, a probability is not finite or a true class out of range.
        """
        p, truth = np.asarray(p, dtype=np.float64), np.asarray(truth)
        if p.shape != (len(truth), len(classes)):
            raise UserError(
                f"conformal scores of {len(truth)} galaxies and {len(classes)} classes need probabilities of "
                f"shape ({len(truth)}, {len(classes)}), not {p.shape}"
            )
        if truth.size and not (truth.min() >= 0 and truth.max() < len(classes) and np.isfinite(p).all()):
            raise UserError(
                f"conformal scores need finite probabilities and class indices in [0, {len(classes)}), not "
                f"{truth.min()} to {truth.max()}: leave out the galaxies that have none"
            )
        own = [np.sort(p[truth == index, index]) for index in range(len(classes))]
        return cls(
            classes=tuple(classes),
            scores=tuple(tuple(map(_six_digits, all_[: (len(all_) + 1) // 2].tolist())) for all_ in own),
            counts=tuple(map(len, own)),
        )

    def thresholds(self, coverage: float) -> np.ndarray:
        """The probability from which on a class is in a set, shape (C,).

        It is the k-th lowest score with k = floor((1 - coverage) (n + 1)): a new galaxy of the class is below
        it with a probability of k / (n + 1) at most. Where the galaxies are too few for the coverage, k is 0,
        the threshold too, and the class in every set.

        Parameters
        ----------
        coverage : float
            Of each class, in [0.5, 1).

        Raises
        ------
        UserError
            If it is not.
        """
        if not 0 < coverage < 1:
            raise UserError(f"--coverage {coverage}: a share between 0 and 1, such as 0.95")
        if coverage < LOWEST_COVERAGE:
            raise UserError(
                f"--coverage {coverage}: a model keeps the scores for {LOWEST_COVERAGE} and more; give a "
                f"share from {LOWEST_COVERAGE} to 1, such as 0.95"
            )
        thresholds = np.zeros(len(self.classes))
        for index, (own, count) in enumerate(zip(self.scores, self.counts, strict=True)):
            # (1 - 0.9) * 10 is a little less than 1 in floating point.
            rank = math.floor((1 - coverage) * (count + 1) + 1e-9)
            if rank:
                thresholds[index] = own[rank - 1]
        return thresholds

    def sets(self, p: np.ndarray, coverage: float) -> np.ndarray:
        """The classes that each galaxy may be of.

        Parameters
        ----------
        p : numpy.ndarray of float, shape (N, C)
            Probabilities, made as those of the held-out galaxies were.
        coverage : float
            See `thresholds`, whose errors it raises.

        Returns
        -------
        numpy.ndarray of bool, shape (N, C)
            True for a probability at or above the class's threshold. A set that would be empty has the most
            probable class, which can only raise the coverage; a row with a NaN has none.
        """
        p = np.asarray(p)
        thresholds = self.thresholds(coverage)
        if p.ndim != 2 or p.shape[1] != len(self.classes):
            raise UserError(
                f"conformal sets of the classes {', '.join(self.classes)} need probabilities of shape "
                f"(N, {len(self.classes)}), not {p.shape}"
            )
        known = np.isfinite(p).all(axis=1)
        sets = (p >= thresholds) & known[:, None]
        empty = np.flatnonzero(known & ~sets.any(axis=1))
        sets[empty, p[empty].argmax(axis=1)] = True
        return np.asarray(sets)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a bundle's JSON; `from_dict` is its inverse."""
        return {
            "classes": list(self.classes),
            "galaxies": list(self.counts),
            "lowest_scores": [list(own) for own in self.scores],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ConformalScores:
        """The scores that `to_dict` described.

        Raises
        ------
        UserError
            If a key is missing, or scores are.
        """
        try:
            return cls(
                classes=tuple(data["classes"]),
                scores=tuple(tuple(map(float, own)) for own in data["lowest_scores"]),
                counts=tuple(map(int, data["galaxies"])),
            )
        except KeyError as error:
            raise UserError(f"conformal scores without the key {error}") from None


def coverage_table(sets: np.ndarray, truth: np.ndarray, classes: tuple[str, ...]) -> pd.DataFrame:
    """How often the sets hold the true class, and how large they are.

    Parameters
    ----------
    sets : numpy.ndarray of bool, shape (N, C)
    truth : numpy.ndarray of int, shape (N,)
        True classes, in ``[0, C)``.
    classes : tuple of str, length C

    Returns
    -------
    pandas.DataFrame
        Columns `class`, `coverage`, `low`, `high` (95 % Wilson interval), `count`, `mean_size`; a row for the
        galaxies of each class, with NaN for a class without any, and one of the class ``all``.
    """
    sets, truth = np.asarray(sets, dtype=bool), np.asarray(truth)
    held, sizes = sets[np.arange(len(truth)), truth], sets.sum(axis=1)
    groups = [*((name, truth == index) for index, name in enumerate(classes)), ("all", truth >= 0)]
    rows = []
    for name, chosen in groups:
        count, covered = int(chosen.sum()), int(held[chosen].sum())
        share = covered / count if count else math.nan
        size = float(sizes[chosen].mean()) if count else math.nan
        rows.append((name, share, *wilson(covered, count), count, size))
    # Here, since it takes half a second, which the options of all verbs would wait for.
    import pandas as pd

    return pd.DataFrame(rows, columns=["class", "coverage", "low", "high", "count", "mean_size"])


def set_names(sets: np.ndarray, classes: tuple[str, ...]) -> list[str]:
    """The sets as text, such as ``"CSS|EO"``, in the order of the classes; empty for an empty set.

    Parameters
    ----------
    sets : numpy.ndarray of bool, shape (N, C)
    classes : tuple of str, length C
    """
    return ["|".join(compress(classes, row)) for row in np.asarray(sets).tolist()]


def _six_digits(value: float) -> float:
    return float(SIX_DIGITS.create_decimal(value))
