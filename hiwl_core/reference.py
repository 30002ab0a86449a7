"""What a model says of its validation galaxies, in a few numbers: to see how another night differs."""

from __future__ import annotations

from typing import Any

import numpy as np

from hiwl_core.flags import FLAGS

__all__ = ["reference_histograms"]

BINS = 20


def reference_histograms(
    probabilities: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray,
    flags: np.ndarray,
    columns: tuple[str, ...],
    classes: tuple[str, ...],
) -> dict[str, Any]:
    """Histograms of validation galaxies' catalog columns, as plain data.

    Parameters
    ----------
    probabilities : numpy.ndarray of float, shape (N, C)
        Calibrated on others.
    labels : numpy.ndarray of int, shape (N,)
        Class indices of the column `label`, whose probability `confidence` is.
    scores : numpy.ndarray of float, shape (N,)
        Of `hiwl_core.unlikeness`.
    flags : numpy.ndarray of int, shape (N,)
        Bits of `hiwl_core.flags`.
    columns : tuple of str, length C
        The catalog's names of the probabilities.
    classes : tuple of str, length C

    Returns
    -------
    dict
        ``columns``: for each column ``edges`` and ``counts`` of 20 bins, equal in width for probabilities, in
        galaxies for scores; ``flags``: galaxies with each bit, and ``rows`` in all; ``labels``: galaxies of
        each most probable class; ``rows``.
    """
    rows, most_probable = len(labels), np.asarray(probabilities).argmax(axis=1)
    values = dict(zip(columns, np.asarray(probabilities, dtype=np.float64).T, strict=True))
    values["confidence"] = probabilities[np.arange(rows), labels]
    histograms = {name: _histogram(of_it, np.linspace(0, 1, BINS + 1)) for name, of_it in values.items()}
    histograms["ood_score"] = _histogram(scores, np.unique(np.quantile(scores, np.linspace(0, 1, BINS + 1))))
    return {
        "columns": histograms,
        "flags": {"rows": rows, **{str(bit): int(((flags & bit) != 0).sum()) for bit in FLAGS}},
        "labels": dict(
            zip(classes, np.bincount(most_probable, minlength=len(classes)).tolist(), strict=True)
        ),
        "rows": rows,
    }


def _histogram(values: np.ndarray, edges: np.ndarray) -> dict[str, list[float]]:
    counts, _ = np.histogram(values, edges)
    return {"edges": edges.tolist(), "counts": counts.tolist()}
