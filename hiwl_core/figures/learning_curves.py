"""Learning curves of the stages, as in Figure 5 of Ma et al. (2023, MNRAS 519, 4765)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hiwl_core.errors import UserError
from hiwl_core.figures.style import GRAY, INK, class_colors, in_style

__all__ = ["draw_learning_curves"]

COLUMNS = ("epoch", "train_loss", "val_loss", "val_accuracy")
RECALL = "val_recall_"
PANEL_WIDTH, HEIGHT = 4.6, 6.2


@in_style
def draw_learning_curves(
    epochs: Mapping[str, pd.DataFrame], kept: Mapping[str, Collection[int]], title: str = ""
) -> Figure:
    """Loss and accuracy over the epochs, a column of panels for each stage.

    Parameters
    ----------
    epochs : mapping of DataFrame
        For each stage, such as ``"stage1"``, its table of epochs, with the columns `epoch`, `train_loss`,
        `val_loss`, `val_accuracy` and, for thin lines beside the accuracy, ``val_recall_<class>``.
    kept : mapping of collection of int
        For each stage the epochs that are marked; a stage may be missing.
    title : str

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    UserError
        If there is no stage or no epoch, a column is missing, or a kept epoch is not in the table.
    """
    if not epochs:
        raise UserError("learning curves need the epochs of a stage: there are none")
    for stage, table in epochs.items():
        _check(stage, table, kept.get(stage, ()))
    figure = Figure(figsize=(PANEL_WIDTH * len(epochs) + 0.4, HEIGHT), layout="constrained")
    grid = figure.subplots(2, len(epochs), sharex="col", squeeze=False)
    for column, (stage, table) in enumerate(epochs.items()):
        loss, accuracy = grid[:, column]
        marked = table[table["epoch"].isin(list(kept.get(stage, ())))]
        if len(epochs) > 1:
            loss.set_title(stage.replace("stage", "Stage "))
        _draw_losses(loss, table, marked)
        _draw_accuracies(accuracy, table, marked)
        accuracy.set_xlabel("epoch")
        accuracy.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        accuracy.set_xlim(table["epoch"].min() - 0.4, table["epoch"].max() + 0.4)
    grid[0, 0].set_ylabel("loss")
    grid[1, 0].set_ylabel("share of the validation galaxies")
    figure.align_ylabels(grid[:, 0])
    if title:
        figure.suptitle(title)
    return figure


def _check(stage: str, table: pd.DataFrame, kept: Collection[int]) -> None:
    missing = [column for column in COLUMNS if column not in table]
    if missing:
        raise UserError(f"epochs of {stage}: no column {missing[0]!r}; there are {', '.join(table.columns)}")
    if table.empty:
        raise UserError(f"epochs of {stage}: the table is empty, no epoch was finished")
    strangers = sorted(set(kept) - set(table["epoch"]))
    if strangers:
        raise UserError(f"epochs of {stage}: kept epoch {strangers[0]} is not in the table")


def _draw_losses(axes: Axes, table: pd.DataFrame, marked: pd.DataFrame) -> None:
    _line(axes, table, "train_loss", "training", GRAY, linestyle="--")
    _line(axes, table, "val_loss", "validation", INK)
    _mark(axes, marked["epoch"], marked["val_loss"])
    axes.grid(axis="y")
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper right")


def _draw_accuracies(axes: Axes, table: pd.DataFrame, marked: pd.DataFrame) -> None:
    columns = [str(column) for column in table.columns]
    classes = [column.removeprefix(RECALL) for column in columns if column.startswith(RECALL)]
    for name, color in class_colors(classes).items():
        _line(axes, table, RECALL + name, f"recall {name}", color, linewidth=1.0)
    _line(axes, table, "val_accuracy", "accuracy", INK, linewidth=2.2)
    _mark(axes, marked["epoch"], marked["val_accuracy"])
    axes.grid(axis="y")
    # Below, since anywhere inside there may be the recall of a class.
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=4)


def _line(axes: Axes, table: pd.DataFrame, column: str, label: str, color: str, **look: Any) -> None:
    # A dot for each epoch, unless they would run into each other.
    marker = "." if len(table) < 40 else ""
    axes.plot(table["epoch"], table[column], color=color, marker=marker, label=label, **look)


def _mark(axes: Axes, epochs: pd.Series, values: pd.Series) -> None:
    axes.plot(
        epochs,
        values,
        linestyle="none",
        marker="o",
        markersize=8,
        markerfacecolor="none",
        markeredgecolor="#D55E00",
        markeredgewidth=1.6,
        label="kept" if len(epochs) else "_kept",
        gid="kept",
        zorder=5,
    )
