"""A confusion matrix and the figures of the classes, cell by cell for a page."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from hiwl_core.metrics import CLASS_METRICS, WithInterval
from pipeline.pages.confusion_cells import anchor

__all__ = ["FigureRow", "FigureTable", "MatrixCell", "MatrixRow", "figure_table", "matrix_rows"]

AVERAGE, ALL = "average", "all"
# Letters on a deeper color than this are light.
DEEP = 0.85


class MatrixCell(NamedTuple):
    """How many galaxies of a class were called so, their share of the class, and where some are shown."""

    called: str
    galaxies: int
    share: float
    right: bool
    anchor: str

    @property
    def deep(self) -> bool:
        """Whether its color is so deep that letters on it must be light."""
        return self.share > DEEP


class MatrixRow(NamedTuple):
    """A true class."""

    name: str
    cells: Sequence[MatrixCell]


class FigureRow(NamedTuple):
    """A class, or the average of all; None where a figure does not exist."""

    name: str
    figures: Sequence[WithInterval | None]
    average: bool


class FigureTable(NamedTuple):
    """Figures of the classes, a column a metric, and the accuracy, which is of no single class."""

    metrics: Sequence[str]
    rows: Sequence[FigureRow]
    accuracy: WithInterval


def matrix_rows(confusion: pd.DataFrame, anchors: Collection[str] = ()) -> list[MatrixRow]:
    """The rows of a confusion matrix.

    Parameters
    ----------
    confusion : pandas.DataFrame
        True classes by row.
    anchors : collection of str
        Of the cells of which galaxies are on the page; see `pipeline.pages.confusion_cells`.
    """
    counts = confusion.to_numpy()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return [
        MatrixRow(
            str(name),
            [
                MatrixCell(
                    str(confusion.columns[place]),
                    int(count),
                    float(share),
                    place == index,
                    anchor(index, place) if anchor(index, place) in anchors else "",
                )
                for place, (count, share) in enumerate(zip(counts[index], shares[index], strict=True))
            ],
        )
        for index, name in enumerate(confusion.index)
    ]


def figure_table(metrics: pd.DataFrame) -> FigureTable:
    """The table of a model or a stage; see `hiwl_core.metrics.class_table`."""
    found = {}
    for row in metrics.to_dict("records"):
        if not np.isnan(row["value"]):
            found[row["class"], row["metric"]] = WithInterval(row["value"], row["low"], row["high"])
    rows = [
        FigureRow(str(name), [found.get((name, metric)) for metric in CLASS_METRICS], name == AVERAGE)
        for name in dict.fromkeys(metrics["class"])
        if name != ALL
    ]
    return FigureTable([metric.title for metric in CLASS_METRICS.values()], rows, found[ALL, "accuracy"])
