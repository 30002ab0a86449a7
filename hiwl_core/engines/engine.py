"""What runs a stage's graph on this machine: the interface that all engines share."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from hiwl_core.views import mean_over_views, symmetries

__all__ = ["Engine", "Pending", "StageAnswer", "answers", "probabilities"]


class StageAnswer(NamedTuple):
    """What a stage says of n images.

    Parameters
    ----------
    probabilities : numpy.ndarray of float32, shape (n, K)
    features : numpy.ndarray of float32, shape (n, F)
        Of the layer before the head.
    """

    probabilities: np.ndarray
    features: np.ndarray


Pending = Callable[[], StageAnswer]
"""Waits for the answer to a submitted batch."""


class Engine(Protocol):
    """A compiled graph of one stage.

    Attributes
    ----------
    batch_size : int
        Images that go through at once. The shape is fixed: engines compile for it, and what becomes of an
        image does not depend on how full its batch is.
    in_flight : int
        Batches that may be submitted before the first is waited for; with fewer the engine is idle meanwhile.
    """

    batch_size: int
    in_flight: int

    def submit(self, pixels: np.ndarray, symmetry: int = 0) -> Pending:
        """Begin to compute what the stage says of a batch.

        Parameters
        ----------
        pixels : numpy.ndarray of uint8, shape (batch_size, H, W, 3)
            C-contiguous; not to be changed before the result is there.
        symmetry : int
            Under which the images are seen; see `hiwl_core.views.turned`.

        Returns
        -------
        Pending
            Gives the answer of `batch_size` rows; batches are to be waited for in the order in which they
            were submitted.
        """
        ...


def answers(engine: Engine, pixels: np.ndarray, symmetry: int = 0) -> StageAnswer:
    """What a stage says of any number of images that are in memory, uint8 of shape (N, H, W, 3)."""
    size, parts = engine.batch_size, []
    under_way: deque[tuple[int, np.ndarray, Pending]] = deque()

    def take_one() -> None:
        length, _, pending = under_way.popleft()
        parts.append(StageAnswer(*(values[:length] for values in pending())))

    for start in range(0, len(pixels), size):
        taken = pixels[start : start + size]
        batch = np.zeros((size, *pixels.shape[1:]), np.uint8)
        batch[: len(taken)] = taken
        if len(under_way) == engine.in_flight:
            take_one()
        # The batch is kept, since the engine may read it until the result is there.
        under_way.append((len(taken), batch, engine.submit(batch, symmetry)))
    while under_way:
        take_one()
    return StageAnswer(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def probabilities(engine: Engine, pixels: np.ndarray, views: int = 1) -> np.ndarray:
    """Class probabilities of any number of images that are in memory, averaged over views.

    Parameters
    ----------
    engine : Engine
    pixels : numpy.ndarray of uint8, shape (N, H, W, 3)
    views : int
        See `hiwl_core.views.symmetries`.

    Returns
    -------
    numpy.ndarray of float32, shape (N, K)
    """
    seen = [answers(engine, pixels, symmetry).probabilities for symmetry in symmetries(views)]
    return mean_over_views(np.stack(seen))
