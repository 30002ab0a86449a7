"""Statistics of the pixels that a network sees: how light, colors and sky of a cutout are spread, cheaply.

All are taken from means of square blocks, about 32 a side, whatever the input size: less noise than in
pixels, and a sixteenth of them at 128 px. Radii are in units of half of the image's side.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

__all__ = [
    "SATURATED_MEAN",
    "STATISTICS",
    "BlockedImages",
    "Geometry",
    "blocked",
    "geometry",
    "pixel_statistics",
]

BLOCKS = 32
STATISTICS = 32
"""How many `pixel_statistics` gives."""
SATURATED_MEAN = 240
"""Mean level of a block from which on a channel has reached its end, with some blurring."""
# Rings about the center, the last of which are the corners.
RING_EDGES = np.array([0, 4, 8, 12, 17, 23, 30, 38, 47, 57, 68, 92]) / 64
# Of the light within the second last ring, the shares within these many rings say how it is concentrated.
GROWTH_RINGS = slice(1, 8)
# Levels: where a logarithm or a ratio would otherwise be of noise alone.
FAINT_LIGHT, FAINT_VARIANCE, FAINT_SKY, FAINT_COLOR = 0.05, 0.3, 2.0, 5.0
ABOVE_SKY = 3.0
# Images at a time: few enough for a CPU's caches.
CHUNK = 16


class Geometry(NamedTuple):
    """Where the blocks of an image lie.

    Parameters
    ----------
    block : int
        Pixels on a side of a block.
    grid : int
        Blocks on a side of the image, G; pixels that are left over are left out at the edges.
    x, y, radius : numpy.ndarray of float32, shape (G * G,)
        Place and distance from the center.
    rings : numpy.ndarray of float64, shape (G * G, R)
        For the mean of a ring: one over the number of its blocks.
    shares : numpy.ndarray of float32, shape (R,)
        Of all blocks, those in each ring.
    frame : numpy.ndarray of int, shape (E,)
        The outermost two rows and columns of blocks, taken for sky.
    channels : numpy.ndarray of float32, shape (3, 3 * block)
        From the sums of a block's columns, with the channels next to each other, to its sum in each channel.
    """

    block: int
    grid: int
    x: np.ndarray
    y: np.ndarray
    radius: np.ndarray
    rings: np.ndarray
    shares: np.ndarray
    frame: np.ndarray
    channels: np.ndarray


class BlockedImages(NamedTuple):
    """Images as means of blocks; channels come first, since sums over a last axis of three are slow.

    Parameters
    ----------
    means : numpy.ndarray of float32, shape (3, n, G * G)
        Levels, with the sky.
    sky : numpy.ndarray of float32, shape (3, n)
        Median of the frame.
    gray : numpy.ndarray of float32, shape (n, G * G)
        Mean of the channels, less the sky.
    """

    means: np.ndarray
    sky: np.ndarray
    gray: np.ndarray


@lru_cache(maxsize=8)
def geometry(side: int) -> Geometry:
    """Blocks of square images of a side in pixels."""
    block = max(1, side // BLOCKS)
    grid = side // block
    axis = ((np.arange(grid) - (grid - 1) / 2) * (2 * block / side)).astype(np.float32)
    y, x = (values.ravel() for values in np.meshgrid(axis, axis, indexing="ij"))
    radius = np.hypot(x, y)
    inside = (radius[:, None] >= RING_EDGES[:-1]) & (radius[:, None] < RING_EDGES[1:])
    # In a very small image a ring may hold nothing.
    rings = inside / np.maximum(inside.sum(axis=0), 1)
    frame = np.ones((grid, grid), dtype=bool)
    frame[2:-2, 2:-2] = False
    return Geometry(
        block=block,
        grid=grid,
        x=x,
        y=y,
        radius=radius,
        rings=rings,
        shares=inside.mean(axis=0).astype(np.float32),
        frame=np.flatnonzero(frame),
        channels=np.tile(np.eye(3, dtype=np.float32), block),
    )


def blocked(pixels: np.ndarray) -> BlockedImages:
    """Means of the blocks of images, uint8 of shape (n, S, S, 3), with S of 8 at least."""
    count, side = pixels.shape[:2]
    where = geometry(side)
    block, grid = where.block, where.grid
    start = (side - grid * block) // 2
    inner = pixels[:, start : start + grid * block, start : start + grid * block]
    rows = inner.reshape(count, grid, block, grid * block * 3)
    # Added row by row: NumPy's own sum over an axis that is not the last is several times as slow.
    sums = rows[:, :, 0].astype(np.uint16)
    for index in range(1, block):
        sums += rows[:, :, index]
    # Whole numbers, which no order of adding rounds otherwise.
    means = where.channels @ sums.reshape(-1, block * 3).astype(np.float32).T
    means = means.reshape(3, count, grid * grid) / np.float32(block**2)
    middle = len(where.frame) // 2
    sky = np.partition(means[..., where.frame], middle, axis=2)[..., middle]
    gray = (means[0] + means[1] + means[2]) / 3
    return BlockedImages(means, sky, gray - sky.mean(axis=0)[:, None])


def pixel_statistics(pixels: np.ndarray) -> np.ndarray:
    """Numbers that say what kind of picture an image is, each with a nearly normal distribution for galaxies.

    Logarithm of the scatter of light in each ring; how light grows with the radius, and its logarithm;
    colors, their extremes and scatter; the sky's levels; the brightest and the saturated blocks.

    Parameters
    ----------
    pixels : numpy.ndarray of uint8, shape (n, S, S, 3)

    Returns
    -------
    numpy.ndarray of float32, shape (n, 32)
    """
    if len(pixels) > CHUNK:
        parts = [pixel_statistics(pixels[start : start + CHUNK]) for start in range(0, len(pixels), CHUNK)]
        return np.concatenate(parts)
    where, (means, sky, gray) = geometry(pixels.shape[1]), blocked(pixels)
    # In double precision: how single sums are rounded depends on how many images there are, and a difference
    # of two that are nearly the same is hardly more than that.
    exact = gray.astype(np.float64)
    rings = exact @ where.rings
    scatter = np.maximum((exact * exact) @ where.rings - rings * rings, 0)
    growth = np.cumsum(np.maximum(rings, 0) * where.shares, axis=1)
    total = growth[:, -2:-1] + FAINT_LIGHT
    light = np.maximum(gray - ABOVE_SKY, 0)
    above = means - sky[..., None]
    # Mean of each channel, weighted with the light.
    colors = np.einsum("np,cnp->nc", light, above) / (light.sum(axis=1, keepdims=True) + 1)
    # Red and blue against green.
    differences = above[::2] - above[1]
    saturated = (means.max(axis=0) >= SATURATED_MEAN).mean(axis=1, keepdims=True)
    return np.concatenate(
        [
            0.5 * np.log(scatter + FAINT_VARIANCE),
            growth[:, GROWTH_RINGS] / total,
            np.log(total),
            np.arcsinh((colors[:, ::2] - colors[:, 1:2]) / (2 * FAINT_COLOR)),
            np.arcsinh(differences.max(axis=2).T / FAINT_COLOR),
            np.arcsinh(differences.min(axis=2).T / FAINT_COLOR),
            np.log(differences.std(axis=2).T + FAINT_VARIANCE),
            np.log(sky.T + FAINT_SKY),
            gray.max(axis=1, keepdims=True) / 50,
            np.log(saturated + 3e-3),
        ],
        axis=1,
        dtype=np.float32,
    )
