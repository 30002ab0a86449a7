"""Views of a galaxy, which has no up: flips and quarter turns, and means over them that no turn changes."""

from __future__ import annotations

from typing import overload

import numpy as np
import torch
from torch import Tensor

__all__ = ["MOST_VIEWS", "mean_over_views", "seen_views", "symmetries", "turned"]

MOST_VIEWS = 8


def symmetries(views: int) -> tuple[int, ...]:
    """The symmetries of a square that a number of views stands for, as `turned` knows them.

    Parameters
    ----------
    views : int
        1: the image as it is; 2: and mirrored; 4: the quarter turns; 8: the quarter turns of both.
    """
    return {1: (0,), 2: (0, 4), 4: (0, 1, 2, 3), 8: tuple(range(MOST_VIEWS))}[views]


@overload
def turned(pixels: np.ndarray, symmetry: int) -> np.ndarray: ...
@overload
def turned(pixels: Tensor, symmetry: int) -> Tensor: ...
def turned(pixels: np.ndarray | Tensor, symmetry: int) -> np.ndarray | Tensor:
    """Square images under one of the eight symmetries of a square.

    Parameters
    ----------
    pixels : numpy.ndarray or Tensor, shape (N, H, W, 3)
    symmetry : int
        Quarter turns counterclockwise, 0 to 3; and 4 more for those that are mirrored after it.

    Returns
    -------
    As `pixels`
        A view of them where it can be one.
    """
    mirrored, turns = divmod(symmetry, 4)
    if isinstance(pixels, Tensor):
        around = torch.rot90(pixels, turns, dims=(1, 2))
        return around.flip(2) if mirrored else around
    whole = np.rot90(pixels, turns, axes=(1, 2))
    return np.flip(whole, axis=2) if mirrored else whole


def seen_views(pixels: Tensor, views: int) -> list[Tensor]:
    """Images under each of the `symmetries` of a number of views; each is as `pixels`, shape (N, H, W, 3)."""
    return [turned(pixels, symmetry) for symmetry in symmetries(views)]


def mean_over_views(seen: np.ndarray) -> np.ndarray:
    """Mean probabilities, to the last bit the same in whatever order the views come.

    So an image and the same image turned or mirrored get the same answer from eight views.

    Parameters
    ----------
    seen : numpy.ndarray of float32, shape (V, N, K)

    Returns
    -------
    numpy.ndarray of float32, shape (N, K)
    """
    # Sums of floats depend on their order, so that it is made one.
    return np.sort(seen, axis=0).mean(axis=0, dtype=np.float64).astype(np.float32)
