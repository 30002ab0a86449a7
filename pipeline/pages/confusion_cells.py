"""The cells of a confusion matrix as pictures: which are shown, and some galaxies of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from pipeline.pages.cards import Card

__all__ = ["ConfusionCell", "anchor", "pictured_cells"]

# Of all cells together; five classes have 25 cells.
MOST_CELLS = 30


class ConfusionCell(NamedTuple):
    """A cell and galaxies of it.

    Parameters
    ----------
    true, called : str
    galaxies : int
        In the cell.
    share : float
        Of the galaxies of the true class.
    anchor : str
        Where on the page they are.
    cards : sequence of Card
        Some of them.
    """

    true: str
    called: str
    galaxies: int
    share: float
    anchor: str
    cards: Sequence[Card]

    @property
    def right(self) -> bool:
        """Whether these are called what they are."""
        return self.true == self.called


def anchor(row: int, column: int) -> str:
    """Of the cell in a row and a column, from 0; names of classes may be anything."""
    return f"cell-{row}-{column}"


def pictured_cells(confusion: pd.DataFrame) -> list[tuple[int, int]]:
    """The cells that are shown, those with the most mistakes first, and the right ones last.

    Parameters
    ----------
    confusion : pandas.DataFrame
        True classes by row, called so by column, in the same order.

    Returns
    -------
    list of (int, int)
        Rows and columns of cells that have galaxies.
    """
    counts = confusion.to_numpy()
    filled = [(int(row), int(column)) for row, column in zip(*counts.nonzero(), strict=True)]
    filled.sort(key=lambda cell: (cell[0] == cell[1], -counts[cell], cell))
    return filled[:MOST_CELLS]
