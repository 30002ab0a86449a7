"""A confusion matrix as a heat map, as in Table 3 of Ma et al. (2023, MNRAS 519, 4765)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from hiwl_core.errors import UserError
from hiwl_core.figures.style import INK, in_style

__all__ = ["draw_confusion_heat_map"]

CELL = 0.86


@in_style
def draw_confusion_heat_map(matrix: np.ndarray, classes: Sequence[str], title: str = "") -> Figure:
    """Counts of true against predicted classes, colored by their share of the true class.

    Parameters
    ----------
    matrix : numpy.ndarray of int, shape (C, C)
        See `hiwl_core.metrics.confusion_matrix`: rows are true classes.
    classes : sequence of str, length C
    title : str

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    UserError
        If the matrix does not fit the classes.
    """
    matrix = np.asarray(matrix)
    if matrix.shape != (len(classes), len(classes)) or not matrix.size:
        raise UserError(f"a confusion matrix of {len(classes)} classes is not of shape {matrix.shape}")
    totals = matrix.sum(axis=1, keepdims=True)
    # A class without galaxies has no shares, and an empty row.
    shares = np.divide(matrix, totals, out=np.zeros(matrix.shape), where=totals > 0)
    figure = Figure(figsize=(CELL * len(classes) + 2.1, CELL * len(classes) + 1.2), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(np.broadcast_to(totals > 0, matrix.shape)).tolist():
        color = "white" if shares[row, column] > 0.55 else INK
        weight = "bold" if row == column else "normal"
        centered: dict[str, Any] = {"color": color, "ha": "center", "va": "center"}
        axes.text(column, row - 0.09, f"{matrix[row, column]:,}", weight=weight, **centered)
        axes.text(column, row + 0.19, f"{shares[row, column]:.1%}", fontsize=7, **centered)
    places = range(len(classes))
    axes.set_xticks(places, list(classes))
    axes.set_yticks(
        places, [f"{name}\n{total:,}" for name, total in zip(classes, totals[:, 0].tolist(), strict=True)]
    )
    axes.set(xlabel="predicted class", ylabel="true class, galaxies")
    axes.set_xticks(np.arange(len(classes) - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(classes) - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    bar.outline.set_visible(False)
    if title:
        figure.suptitle(title)
    return figure
