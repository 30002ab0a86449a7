"""What the two stages of Galaxy Zoo's cascade say, and the shares of their combined class."""

from __future__ import annotations

import numpy as np

__all__ = ["FREQUENCIES", "both"]

FREQUENCIES = {"stage2": np.array([0.13, 0.87])}
"""Of cigar-shaped and edge-on galaxies."""


def both(stage1: np.ndarray, stage2: np.ndarray) -> dict[str, np.ndarray]:
    """Outputs of the stages under their names."""
    return {"stage1": stage1, "stage2": stage2}
