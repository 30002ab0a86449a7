"""Galaxies whose probabilities are right at a temperature of 1, for tests of scores of probabilities."""

from __future__ import annotations

import numpy as np
from scipy.special import softmax

__all__ = ["CLASSES", "galaxies"]

CLASSES = ("A", "B", "C")


def galaxies(count: int, seed: int, temperature: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, right at a temperature of 1, overconfident below it; and true classes."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2.0, size=(count, 3))
    right = softmax(logits, axis=1)
    truth = np.minimum((rng.random((count, 1)) > right.cumsum(axis=1)).sum(axis=1), 2)
    return softmax(logits / temperature, axis=1), truth
