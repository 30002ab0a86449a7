"""Samples cut out of a catalog by a probability: how pure and how complete they are at each threshold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from hiwl_core.metrics import wilson

__all__ = ["threshold_table"]

THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def threshold_table(
    p: np.ndarray, truth: np.ndarray, classes: tuple[str, ...], thresholds: Sequence[float] = THRESHOLDS
) -> pd.DataFrame:
    """Purity and completeness of ``p_<class> >= threshold``, with 95 % Wilson intervals.

    Parameters
    ----------
    p : numpy.ndarray of float, shape (N, C)
        Probabilities of galaxies that they were not fitted on.
    truth : numpy.ndarray of int, shape (N,)
        True classes, in ``[0, C)``.
    classes : tuple of str, length C
    thresholds : sequence of float

    Returns
    -------
    pandas.DataFrame
        Columns `class`, `threshold`, `selected` (galaxies in the sample), `purity`, `purity_low`,
        `purity_high` (share of the sample that is of the class; NaN for an empty one), `completeness`,
        `completeness_low`, `completeness_high` (share of the class that is in the sample), `expected_purity`
        (mean probability of the sample: what a reader of the catalog can compute without labels).
    """
    rows = []
    for index, name in enumerate(classes):
        own = truth == index
        for threshold in thresholds:
            taken = p[:, index] >= threshold
            right, selected = int((taken & own).sum()), int(taken.sum())
            rows.append(
                {
                    "class": name,
                    "threshold": threshold,
                    "selected": selected,
                    "purity": right / selected if selected else np.nan,
                    **dict(zip(("purity_low", "purity_high"), wilson(right, selected), strict=True)),
                    "completeness": right / own.sum() if own.any() else np.nan,
                    **dict(
                        zip(
                            ("completeness_low", "completeness_high"),
                            wilson(right, int(own.sum())),
                            strict=True,
                        )
                    ),
                    "expected_purity": float(p[taken, index].mean()) if selected else np.nan,
                }
            )
    return pd.DataFrame(rows)
