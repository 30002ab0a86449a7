"""Maps of galaxies by their features, as in Figure 6 of Ma et al. (2023, MNRAS 519, 4765)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hiwl_core.errors import UserError
from hiwl_core.explanation.embedding import Separation
from hiwl_core.figures.style import GRAY, class_colors, in_style

__all__ = ["EmbeddingPanel", "draw_embedding_map"]

PANEL_SIDE = 3.4


class EmbeddingPanel(NamedTuple):
    """One map.

    Parameters
    ----------
    points : numpy.ndarray of float, shape (N, 2)
        See `hiwl_core.explanation.tsne`.
    class_indices : numpy.ndarray of int, shape (N,)
        Positions in the classes.
    separation : Separation
    """

    points: np.ndarray
    class_indices: np.ndarray
    separation: Separation


@in_style
def draw_embedding_map(
    panels: Sequence[Sequence[EmbeddingPanel]],
    models: Sequence[str],
    samples: Sequence[str],
    classes: Sequence[str],
) -> Figure:
    """A grid of maps, with the classes as colors and the separation under each.

    Parameters
    ----------
    panels : sequence of sequence of EmbeddingPanel
        A row for each model, and in it a panel for each sample.
    models : sequence of str
        Names of the rows, such as ``"plain"`` and ``"HIWL"``.
    samples : sequence of str
        Names of the columns, such as ``"training"`` and ``"validation"``.
    classes : sequence of str
        In the order of the class indices.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    UserError
        If the grid is not one of a panel for each model and sample.
    """
    if not models or not samples or [len(row) for row in panels] != [len(samples)] * len(models):
        raise UserError(
            f"an embedding map needs a panel for each of {len(models)} models and {len(samples)} samples, "
            f"not rows of {[len(row) for row in panels]}"
        )
    colors = class_colors(classes)
    size = (PANEL_SIDE * len(samples) + 0.5, PANEL_SIDE * len(models) + 0.7)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(models), len(samples), squeeze=False)
    for row, model in enumerate(models):
        for column, sample in enumerate(samples):
            axes, panel = grid[row, column], panels[row][column]
            _draw_panel(axes, panel, list(colors.values()))
            axes.set_xlabel(_figures(panel), color=GRAY, fontsize=8)
            if row == 0:
                axes.set_title(sample)
        grid[row, 0].set_ylabel(model, fontweight="bold", fontsize=10)
    handles = [
        Line2D([], [], linestyle="none", marker="o", markersize=6, color=color, label=name)
        for name, color in colors.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), columnspacing=1.4)
    return figure


def _draw_panel(axes: Axes, panel: EmbeddingPanel, colors: list[str]) -> None:
    points = np.asarray(panel.points)
    classes = np.asarray(panel.class_indices)
    # The rarest last, or the others would hide them; those of about one size in random order.
    sizes = np.log2(np.bincount(classes, minlength=len(colors))[classes]).round()
    order = np.lexsort((np.random.default_rng(0).random(len(points)), -sizes))
    area = float(np.clip(9000 / max(len(points), 1), 4, 24))
    axes.scatter(
        points[order, 0],
        points[order, 1],
        s=area,
        c=np.array(colors)[classes[order]],
        alpha=0.75,
        linewidths=0,
        # Thousands of dots would make the SVG file megabytes.
        rasterized=True,
    )
    axes.set(xticks=[], yticks=[])
    axes.set_aspect("equal", adjustable="datalim")
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color("#CCCCCC")


def _figures(panel: EmbeddingPanel) -> str:
    parts = [f"{len(panel.points):,} galaxies"]
    for name, value in panel.separation._asdict().items():
        if not math.isnan(value):
            parts.append(f"{name} {value:.3f}")
    return " · ".join(parts)
