"""Reliability diagrams (Murphy & Winkler 1977, Appl. Stat. 26, 41): are galaxies what they are said to be?"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hiwl_core.errors import UserError
from hiwl_core.figures.style import GRAY, INK, class_colors, in_style

__all__ = ["draw_reliability_diagram"]

COLUMNS = ("side", "class", "mean_confidence", "accuracy", "low", "high")
ALL, ALL_TITLE = "all", "most probable class"
PANEL, PANELS_A_ROW = 2.5, 3


@in_style
def draw_reliability_diagram(curves: pd.DataFrame, title: str = "") -> Figure:
    """A panel for the most probable class and one for each class: shares against probabilities.

    Before calibration open circles, after it filled ones, both with 95 % intervals. On the diagonal
    probabilities are what they say.

    Parameters
    ----------
    curves : pandas.DataFrame
        See `hiwl_core.probability_scores.ProbabilityScores`.
    title : str

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    UserError
        If there is no curve or a column is missing.
    """
    missing = [name for name in COLUMNS if name not in curves]
    if missing or curves.empty:
        what = f"no column {missing[0]!r}" if missing else "no curve"
        raise UserError(f"reliability diagram: {what}; give the curves of scored probabilities")
    names = list(dict.fromkeys(curves["class"]))
    colors = {**class_colors([name for name in names if name != ALL]), ALL: INK}
    across = min(PANELS_A_ROW, len(names))
    down = -(-len(names) // across)
    figure = Figure(figsize=(PANEL * across + 0.3, PANEL * down + 0.7), layout="constrained")
    panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, name in zip(panels, names, strict=False):
        axes.plot([0, 1], [0, 1], color=GRAY, linewidth=0.8, linestyle=":")
        for side in dict.fromkeys(curves["side"]):
            chosen = curves[(curves["class"] == name) & (curves["side"] == side)]
            _draw_curve(axes, chosen.dropna(subset="accuracy"), str(side), colors[name])
        axes.set_title(ALL_TITLE if name == ALL else name)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        axes.grid()
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    for axes in panels[: len(names) : across]:
        axes.set_ylabel("share that is of the class")
    for axes in panels[max(0, len(names) - across) : len(names)]:
        axes.set_xlabel("probability, mean of a bin")
        axes.tick_params(labelbottom=True)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    if title:
        figure.suptitle(title)
    return figure


def _draw_curve(axes: Axes, curve: pd.DataFrame, side: str, color: str) -> None:
    filled = side == "after"
    share = curve["accuracy"].to_numpy()
    lengths = [share - curve["low"], curve["high"] - share]
    axes.errorbar(
        curve["mean_confidence"],
        share,
        # By rounding an end may lie inside the share.
        yerr=np.maximum(lengths, 0),
        linestyle="-" if filled else "--",
        linewidth=1.2 if filled else 0.8,
        elinewidth=0.9,
        marker="o",
        markersize=3.5 if filled else 4,
        markerfacecolor=color if filled else "white",
        color=color if filled else GRAY,
        label=f"{side} calibration",
        gid=side,
        zorder=3 if filled else 2,
    )
