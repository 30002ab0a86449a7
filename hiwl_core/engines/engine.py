"""What runs a stage's graph on this machine: the interface that all engines share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

__all__ = ["Engine", "Pending", "probabilities"]

Pending = Callable[[], np.ndarray]
"""Waits for the probabilities of a submitted batch: float32, shape (n, K)."""


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

    def submit(self, pixels: np.ndarray) -> Pending:
        """Begin to compute the class probabilities of a batch.

        Parameters
        ----------
        pixels : numpy.ndarray of uint8, shape (batch_size, H, W, 3)
            C-contiguous; not to be changed before the result is there.

        Returns
        -------
        Pending
            Gives the probabilities, float32 of shape (batch_size, K); batches are to be waited for in the
            order in which they were submitted.
        """
        ...


def probabilities(engine: Engine, pixels: np.ndarray) -> np.ndarray:
    """Class probabilities of any number of images that are in memory.

    Parameters
    ----------
    engine : Engine
    pixels : numpy.ndarray of uint8, shape (N, H, W, 3)

    Returns
    -------
    numpy.ndarray of float32, shape (N, K)
    """
    size, parts = engine.batch_size, []
    for start in range(0, len(pixels), size):
        batch = np.zeros((size, *pixels.shape[1:]), np.uint8)
        taken = pixels[start : start + size]
        batch[: len(taken)] = taken
        parts.append(engine.submit(batch)()[: len(taken)])
    return np.concatenate(parts)
