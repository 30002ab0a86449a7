"""Defects that a cutout's pixels show: where it ends, what is missing or saturated, what is in its center.

Each is a measure and a limit. A limit has a value from which on the defect matters at all, and is no stricter
than what one validation galaxy in a thousand has: a survey's own pictures are not defects.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from hiwl_core.flags import BORDER, EMPTY, OFF_CENTER, PART_MISSING, SATURATED
from hiwl_core.pixel_statistics import SATURATED_MEAN, BlockedImages, Geometry, blocked, geometry

__all__ = ["DefectLimits", "Defects", "measure_defects"]

CENTER_RADIUS = 0.25
# Sigma of the Gaussian window in which the centroid is taken: a neighbor at the edge hardly counts.
WINDOW = 0.5
# Levels below which the sky's scatter is the rounding's.
LEAST_SCATTER = 0.5
# Levels; less than one pixel's level makes of a block's mean.
SAME_MEAN = 1e-3


class Defects(NamedTuple):
    """What was measured in one cutout.

    Parameters
    ----------
    edge_range : float
        Levels between darkest and brightest of the most uniform of the outermost rows and columns, in the
        channel that has most.
    missing_edge, missing_inside : float
        The largest connected area of exactly one color that reaches the edge, and that does not: as shares
        of the cutout. White is not missing but saturated.
    saturated : float
        Share of the cutout above 240 levels in a channel.
    contrast : float
        Light of the third brightest block within a quarter of half of the side, in units of the sky's
        scatter: two bright blocks may be a cosmic ray.
    offset : float
        Distance of the light's centroid from the center, in units of half of the side.
    """

    edge_range: float
    missing_edge: float
    missing_inside: float
    saturated: float
    contrast: float
    offset: float


# A defect that is less than this is none.
LEAST = Defects(5.0, 0.012, 0.012, 0.01, 5.0, 0.15)
# Of these, little is the defect.
LOW = ("edge_range", "contrast")


class DefectLimits(Defects):
    """From where on a measure is a defect; as `Defects`, in the same units and order.

    The edge's range and the contrast are defects below their limits, the others above.
    """

    @classmethod
    def fit(cls, pixels: Iterable[np.ndarray], rate: float = 1e-3) -> DefectLimits:
        """Limits by validation galaxies.

        Parameters
        ----------
        pixels : iterable of numpy.ndarray of uint8, shape (S, S, 3)
        rate : float
            Share of them that each measure may flag at most.
        """
        measured = Defects(*np.array([measure_defects(one) for one in pixels]).T)
        limits = {}
        for name, values in measured._asdict().items():
            least = getattr(LEAST, name)
            if name in LOW:
                limits[name] = min(least, float(np.quantile(values, rate, method="lower")))
            else:
                limits[name] = max(least, float(np.quantile(values, 1 - rate, method="higher")))
        return cls(**limits)

    def flags(self, pixels: np.ndarray) -> int:
        """Bits of `hiwl_core.flags` for one cutout as the network sees it, uint8 of shape (S, S, 3)."""
        found = measure_defects(pixels)
        bits = 0
        if found.edge_range < self.edge_range or found.missing_edge > self.missing_edge:
            bits |= BORDER
        if found.missing_inside > self.missing_inside:
            bits |= PART_MISSING
        if found.saturated > self.saturated:
            bits |= SATURATED
        if found.contrast < self.contrast:
            # Of noise alone there is no centroid to be off.
            return bits | EMPTY
        return bits | OFF_CENTER if found.offset > self.offset else bits

    def to_array(self) -> np.ndarray:
        """The limits in order, float32 of shape (6,); `DefectLimits(*array)` is the inverse."""
        return np.array(self, dtype=np.float32)


def measure_defects(pixels: np.ndarray) -> Defects:
    """Measure one cutout as the network sees it, uint8 of shape (S, S, 3)."""
    where, image = geometry(len(pixels)), blocked(pixels[None])
    gray = image.gray[0]
    middle = len(where.frame) // 2
    frame = np.abs(gray[where.frame])
    # 1.4826 median absolute deviations are a standard deviation of a normal distribution.
    scatter = max(1.4826 * float(np.partition(frame, middle)[middle]), LEAST_SCATTER)
    center, moments = _apertures(len(pixels))
    contrast = float(np.partition(gray[center], -3)[-3]) / scatter
    total, x, y = (np.maximum(gray - 2 * scatter, 0) @ moments).tolist()
    offset = math.hypot(x, y) / (total + 1e-6)
    saturated = float((image.means.max(axis=0) >= SATURATED_MEAN).mean())
    return Defects(_edge_range(pixels), *_missing(pixels, where, image), saturated, contrast, offset)


@lru_cache(maxsize=8)
def _apertures(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Blocks of the center, shape (E,), and weights of all for sum and first moments of light in a window.

    These have shape (G * G, 3).
    """
    where = geometry(side)
    window = np.exp(-0.5 * (where.radius / WINDOW) ** 2)
    moments = np.stack([window, window * where.x, window * where.y], axis=1)
    return np.flatnonzero(where.radius < CENTER_RADIUS), moments


def _edge_range(pixels: np.ndarray) -> float:
    lines = np.array([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]).transpose(0, 2, 1).copy()
    return float((lines.max(axis=2) - lines.min(axis=2)).max(axis=1).min())


def _missing(pixels: np.ndarray, where: Geometry, image: BlockedImages) -> tuple[float, float]:
    """The largest constant areas that reach the edge and that do not, as shares of the blocks."""
    grid, block = where.grid, where.block
    means = image.means.reshape(3, grid, grid)
    across = _same(means[:, :, 1:] - means[:, :, :-1])
    along = _same(means[:, 1:] - means[:, :-1])
    constant = np.zeros((grid, grid), dtype=bool)
    constant[:, 1:] |= across
    constant[:, :-1] |= across
    constant[1:] |= along
    constant[:-1] |= along
    # Of sky, blocks have the same mean by chance, but hardly ever so many that it is worth a closer look.
    if constant.sum() <= LEAST.missing_edge * grid**2:
        return 0.0, 0.0
    start = (len(pixels) - grid * block) // 2
    inner = pixels[start : start + grid * block, start : start + grid * block]
    blocks = inner.reshape(grid, block, grid, block, 3)
    constant &= (blocks == blocks[:, :1, :, :1]).all(axis=(1, 3, 4))
    constant &= means.min(axis=0) < SATURATED_MEAN
    # Here, since importing it takes a third of a second, and few cutouts come so far.
    from scipy.ndimage import label

    areas, count = label(constant)
    sizes = np.bincount(areas.ravel(), minlength=count + 1) / grid**2
    at_edge = np.zeros(count + 1, dtype=bool)
    for line in (areas[0], areas[-1], areas[:, 0], areas[:, -1]):
        at_edge[line] = True
    # The first is what is not constant.
    at_edge[0], sizes[0] = False, 0.0
    return float(sizes[at_edge].max(initial=0.0)), float(sizes[~at_edge].max(initial=0.0))


def _same(differences: np.ndarray) -> np.ndarray:
    """Where all three channels, which come first, differ by nothing."""
    red, green, blue = np.abs(differences) < SAME_MEAN
    return red & green & blue
