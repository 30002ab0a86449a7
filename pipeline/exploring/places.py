"""Where a row stands in a catalog, and where many are in the plane of two columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["CatalogRow", "RowsInPlane"]


@dataclass(frozen=True)
class CatalogRow:
    """A row of a catalog: its object, as the catalog has the id, and the file name of its part."""

    object_id: Any
    part: str


@dataclass(frozen=True)
class RowsInPlane:
    """Counts of rows in the plane of two columns.

    Parameters
    ----------
    x, y : tuple of float
        Ends of the axes.
    bins : tuple of int
        Cells along each.
    cells : list of (int, int, int)
        Place along x and y, and rows, of the cells that have any.
    """

    x: tuple[float, float]
    y: tuple[float, float]
    bins: tuple[int, int]
    cells: list[tuple[int, int, int]]
