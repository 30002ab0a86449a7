"""Class fractions of groups of galaxies: corrected ones with their intervals, counted ones beside them."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hiwl_core.errors import UserError
from hiwl_core.figures.style import GRAY, class_colors, in_style

__all__ = ["draw_class_fractions"]

COLUMNS = ("group", "class", "naive", "adjusted", "adjusted_low", "adjusted_high")
PANEL_WIDTH, PANEL_HEIGHT = 3.0, 2.5
PANELS_A_ROW = 3


@in_style
def draw_class_fractions(table: pd.DataFrame, centers: pd.Series | None = None, by: str = "") -> Figure:
    """A panel a class: adjusted fractions with their intervals, and naive ones as open circles.

    Parameters
    ----------
    table : pandas.DataFrame
        See `hiwl_core.fractions.class_fractions`.
    centers : pandas.Series of float, optional
        Where each group stands on the axis, by its name; without it groups stand side by side.
    by : str
        What the groups are of, under the axes.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    UserError
        If the table is empty or lacks a column.
    """
    missing = [name for name in COLUMNS if name not in table]
    if missing or table.empty:
        raise UserError(
            f"class fractions: no column {missing[0]!r}" if missing else "class fractions: no rows"
        )
    classes = list(dict.fromkeys(table["class"]))
    groups = list(dict.fromkeys(table["group"]))
    across = min(PANELS_A_ROW, len(classes))
    down = -(-len(classes) // across)
    figure = Figure(figsize=(PANEL_WIDTH * across, PANEL_HEIGHT * down + 0.3), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    places = (
        np.arange(len(groups), dtype=float) if centers is None else centers.loc[groups].to_numpy(dtype=float)
    )
    for axes, (name, color) in zip(panels, class_colors(classes).items(), strict=False):
        rows = table[table["class"] == name].set_index("group").loc[groups]
        adjusted = 100 * rows["adjusted"].to_numpy()
        lengths = [adjusted - 100 * rows["adjusted_low"], 100 * rows["adjusted_high"] - adjusted]
        axes.errorbar(
            places,
            adjusted,
            yerr=np.abs(lengths),
            fmt="o-" if centers is not None else "o",
            color=color,
            markersize=4,
            linewidth=1,
            elinewidth=1.4,
            capsize=2,
            label="adjusted, 95 %",
        )
        axes.plot(
            places,
            100 * rows["naive"].to_numpy(),
            linestyle="none",
            marker="o",
            markersize=5.5,
            markerfacecolor="none",
            markeredgecolor=GRAY,
            label="counted",
            gid="naive",
        )
        axes.set_title(name)
        highest = 100 * np.nanmax(rows[["adjusted_high", "naive"]].to_numpy(), initial=0)
        axes.set_ylim(0, 1.08 * highest or 1)
        axes.grid(axis="y")
        axes.margins(x=0.08)
        if centers is None:
            slanted = {"rotation": 30, "ha": "right"} if len(groups) > 1 else {}
            axes.set_xticks(places, [str(group) for group in groups], **slanted)
            axes.set_xlim(-0.6, len(groups) - 0.4)
    for axes in panels[len(classes) :]:
        axes.set_visible(False)
    for axes in panels[::across][:down]:
        axes.set_ylabel("fraction, %")
    for axes in panels[max(0, len(classes) - across) : len(classes)]:
        axes.set_xlabel(by)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure
