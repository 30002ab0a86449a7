"""Pixels of a FITS image that no telescope ever looked at: what files have in their place.

That is NaN, infinity or a number such as -9999, and areas of exactly one value that is not positive, zero
above all: of noise there is no square of `WINDOW` pixels on a side with one value. In images of a byte a
pixel black is a color like any other, since they are pictures and no fluxes.
"""

from __future__ import annotations

import numpy as np

__all__ = [
    "FLAGGED_UNOBSERVED_SHARE",
    "MAX_UNOBSERVED_SHARE",
    "WINDOW",
    "may_have_holes",
    "seen_share",
    "unobserved_pixels",
]

MAX_UNOBSERVED_SHARE = 0.1
"""Of the part of an image that the network sees; from this on nothing is said of it."""
FLAGGED_UNOBSERVED_SHARE = 0.001
"""From this on, and below the other, the cutout has the flag ``part_missing``."""
WINDOW = 5
"""Pixels on a side: of the smallest area of one value that is taken for one that was not observed."""
SENTINELS = (-9999.0, -99999.0, -999999.0)
LARGEST = 1e30
"""Beyond it are the marks of what is not there, such as HEALPix's -1.6375e30."""
MOST_FILLS = 3
STRIP_PIXELS = 16_384


def may_have_holes(plane: np.ndarray) -> bool:
    """Whether a band may have pixels that are not finite or were not observed, by a quick look.

    Parameters
    ----------
    plane : numpy.ndarray, shape (H, W)
    """
    if plane.dtype.itemsize == 1:
        return False
    rows = max(1, STRIP_PIXELS // max(1, plane.shape[1]))
    pairs = 0
    # What is computed of a few rows stays in the processor's cache.
    for start in range(0, plane.shape[0], rows):
        strip = plane[start : start + rows]
        lowest = strip.min(initial=0)
        # False for what is not a number, too.
        if not (lowest > SENTINELS[0] and strip.max(initial=0) < LARGEST):
            return True
        equal = strip[:, 1:] == strip[:, :-1]
        equal &= strip[:, 1:] <= 0
        pairs += int(np.count_nonzero(equal))
    return pairs >= WINDOW * (WINDOW - 1)


def unobserved_pixels(plane: np.ndarray) -> np.ndarray:
    """Which pixels of one band were not observed.

    Parameters
    ----------
    plane : numpy.ndarray, shape (H, W)

    Returns
    -------
    numpy.ndarray of bool, shape (H, W)
    """
    if not may_have_holes(plane):
        return np.zeros(plane.shape, dtype=bool)
    found = ~(np.abs(plane) < LARGEST) if plane.dtype.kind == "f" else np.zeros(plane.shape, dtype=bool)
    for sentinel in SENTINELS:
        found |= plane == sentinel
    # Noise hardly ever has so many equal pixels in a row that it is worth a closer look.
    equal = plane[:, 1:] == plane[:, :-1]
    equal &= plane[:, 1:] <= 0
    starts = plane.shape[1] - WINDOW + 1
    if starts < 1:
        return found
    runs = np.logical_and.reduce([equal[:, first : first + starts] for first in range(WINDOW - 1)])
    values, counts = np.unique(plane[:, :starts][runs], return_counts=True)
    if not len(values):
        return found
    # Here, since importing it takes a third of a second, and few planes come so far.
    from scipy.ndimage import binary_opening

    for value in values[np.argsort(counts)[::-1][:MOST_FILLS]]:
        found |= binary_opening(plane == value, np.ones((WINDOW, WINDOW), dtype=bool))
    return found


def seen_share(unobserved: np.ndarray, side: float) -> float:
    """Share of unobserved pixels in the central square that the network sees.

    Parameters
    ----------
    unobserved : numpy.ndarray of bool, shape (H, W)
    side : float
        Of the square, in pixels.
    """
    edges = [slice(max(0, round((length - side) / 2)), None) for length in unobserved.shape]
    seen = unobserved[
        tuple(
            slice(edge.start, max(edge.start + 1, length - edge.start))
            for edge, length in zip(edges, unobserved.shape, strict=True)
        )
    ]
    return float(seen.mean())
