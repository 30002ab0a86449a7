"""Simulated outliers: what a survey's night holds besides galaxies such as a model was trained on.

Each kind is made of real cutouts, so that sky, noise and compression are a survey's own. They measure how
well `hiwl_core.unlikeness` and `hiwl_core.defects` find them; nothing is fitted to them.
Lengths below are pixels of a cutout 272 pixels wide, in which the Petrosian R90 of a Galaxy Zoo galaxy is 50
pixels, and grow with the cutout.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from hiwl_core.errors import UserError

__all__ = ["KINDS", "simulate_outliers"]

# Of Galaxy Zoo's SDSS composites.
JPEG_QUALITY = 75
WIDTH = 272
SKY_PATCH = 64


def simulate_outliers(kind: str, galaxies: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Outliers of one kind, made from cutouts of galaxies.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    galaxies : numpy.ndarray of uint8, shape (N, H, W, 3)
        Whole cutouts, square, with the galaxy in the center; at least two.
    count : int
        How many; galaxies are taken in turn.
    seed : int

    Returns
    -------
    numpy.ndarray of uint8, shape (count, H, W, 3)
        As they come out of a JPEG.

    Raises
    ------
    UserError
        If there is no such kind, or the cutouts are fewer than two, not square or smaller than 64 pixels.
    """
    if kind not in KINDS:
        raise UserError(f"no outliers of the kind {kind!r}: there are {', '.join(KINDS)}")
    shape = galaxies.shape
    if len(shape) != 4 or shape[0] < 2 or shape[1] != shape[2] or shape[1] < 64 or shape[3] != 3:
        raise UserError(f"outliers are made of two or more square RGB cutouts of 64 pixels, not of {shape}")
    rng = np.random.default_rng([seed, list(KINDS).index(kind)])
    made = np.empty((count, *shape[1:]), np.uint8)
    for index in range(count):
        galaxy, other = (galaxies[(index + step) % len(galaxies)].astype(np.float32) for step in (0, 1))
        made[index] = _compressed(KINDS[kind](rng, galaxy, other))
    return made


def _stars(rng: np.random.Generator, galaxy: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Point sources on sky: one in the center, as a star taken for a galaxy has, and up to twelve others.

    Moffat profiles of beta 3 with one full width at half maximum of 4 to 16 pixels, peaks of 60 to 600 levels
    and colors from blue to red; what is beyond full scale keeps its color and saturates.
    """
    side = len(galaxy)
    image = _sky(rng, galaxy, side)
    width = rng.uniform(4, 16) * side / WIDTH
    places = np.vstack([np.full((1, 2), side / 2), rng.uniform(0, side, (rng.integers(0, 13), 2))])
    for row, column in places:
        redness = rng.uniform(-1, 1)
        color = np.array([1 + 0.4 * redness, 1.0, 1 - 0.4 * redness]) / (1 + 0.4 * abs(redness))
        square = _squared_distance(side, row, column)
        peak = 60 * 10 ** rng.uniform(0, 1)
        # Half of the peak where the distance is half of the width.
        profile = peak / (1 + square * (2 ** (1 / 3) - 1) / (width / 2) ** 2) ** 3
        image += profile[..., None] * color
    return _kept_color(image)


def _noise(rng: np.random.Generator, galaxy: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Gaussian noise of 8 to 80 levels about one of 0 to 128, blurred by 0 to 2 pixels, half of them gray."""
    side = len(galaxy)
    noise = rng.normal(size=(side, side, int(rng.choice([1, 3]))))
    noise = gaussian_filter(noise, (*[rng.uniform(0, 2) * side / WIDTH] * 2, 0))
    noise *= 8 * 10 ** rng.uniform(0, 1) / noise.std()
    return np.broadcast_to(rng.uniform(0, 128) + noise, galaxy.shape)


def _blank(rng: np.random.Generator, galaxy: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Sky without any source: a mosaic of patches from the cutout's emptiest corners."""
    return _sky(rng, galaxy, len(galaxy))


def _trail(rng: np.random.Generator, galaxy: np.ndarray, other: np.ndarray) -> np.ndarray:
    """A satellite's trail across the galaxy.

    A straight line of any direction, at most 50 pixels from the center, with a Gaussian profile of sigma 1.5
    to 4 pixels and 60 to 250 levels. SDSS takes its bands minutes apart, so a trail is in one band alone,
    here in half of the images; in the others all bands have it, moved by up to 6 pixels.
    """
    side = len(galaxy)
    unit = side / WIDTH
    angle, nearest, axis = rng.uniform(0, math.pi), rng.uniform(-50, 50) * unit, np.arange(side) - side / 2
    across = axis * math.cos(angle) + axis[:, None] * math.sin(angle) - nearest
    sigma, level = rng.uniform(1.5, 4) * unit, rng.uniform(60, 250)
    moved = rng.uniform(-6, 6, 3) * unit
    levels = level * (np.eye(3)[rng.integers(3)] if rng.random() < 0.5 else np.ones(3))
    image = galaxy + levels * np.exp(-0.5 * ((across[..., None] - moved) / sigma) ** 2)
    return np.minimum(image, 255)


def _saturated(rng: np.random.Generator, galaxy: np.ndarray, other: np.ndarray) -> np.ndarray:
    """A star far too bright for the camera, up to 80 pixels from the galaxy's center.

    A disk of 10 to 50 pixels' radius at full scale with wings that fall as the distance to the power of -2.5,
    four diffraction spikes along the diagonals, two to four radii long, and charge that bled along columns
    over the whole height, an eighth to half as wide as the disk.
    """
    side = len(galaxy)
    unit = side / WIDTH
    distance, angle = rng.uniform(0, 80) * unit, rng.uniform(0, 2 * math.pi)
    row, column = side / 2 + distance * math.sin(angle), side / 2 + distance * math.cos(angle)
    radius = rng.uniform(10, 50) * unit
    square = _squared_distance(side, row, column)
    light = 255 * (np.maximum(square, 1) / radius**2) ** -1.25
    y, x = np.arange(side)[:, None] - row, np.arange(side) - column
    length, thickness = rng.uniform(2, 4) * radius, 2.5 * unit
    for along, across in ((x + y, x - y), (x - y, x + y)):
        light += 400 * np.exp(-np.abs(along) / length - 0.25 * (across / thickness) ** 2)
    light[:, np.abs(x) < radius * rng.uniform(0.125, 0.5)] += 300
    color = np.array([1.0, rng.uniform(0.85, 1), rng.uniform(0.8, 1)])
    return np.minimum(galaxy + light[..., None] * color, 255)


def _two_galaxies(rng: np.random.Generator, galaxy: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Another galaxy over the first: the next one less its sky, turned, its center 30 to 60 pixels away."""
    side = len(galaxy)
    distance, angle = rng.uniform(30, 60) * side / WIDTH, rng.uniform(0, 2 * math.pi)
    light = _turned(rng, np.maximum(other - _sky_level(other), 0))
    wide = np.pad(light, ((side, side), (side, side), (0, 0)))
    row, column = side + round(distance * math.sin(angle)), side + round(distance * math.cos(angle))
    return _kept_color(galaxy + wide[row : row + side, column : column + side])


def _twice_scale(rng: np.random.Generator, galaxy: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The central half, enlarged to the whole by bicubic interpolation: half of the pixel scale."""
    quarter = len(galaxy) // 4
    return _resized(galaxy[quarter:-quarter, quarter:-quarter], len(galaxy))


def _half_scale(rng: np.random.Generator, galaxy: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The whole at half its size on sky mosaicked from its own corners: twice the pixel scale."""
    side = len(galaxy)
    small = _resized(galaxy, side // 2)
    image = _sky(rng, small, side)
    # Variances, not levels, are to add up to one where the two meet.
    start, ramp = (side - len(small)) // 2, max(2, len(small) // 10)
    rise = np.minimum((np.arange(len(small)) + 0.5) / ramp, 1)
    rise = np.sin(np.minimum(rise, rise[::-1]) * math.pi / 2)
    weight = (rise * rise[:, None])[..., None]
    inner = image[start : start + len(small), start : start + len(small)]
    level = _sky_level(small)
    inner[:] = level + weight * (small - level) + np.sqrt(1 - weight**2) * (inner - level)
    return image


KINDS: Mapping[str, Callable[[np.random.Generator, np.ndarray, np.ndarray], np.ndarray]] = MappingProxyType(
    {
        "stars": _stars,
        "noise": _noise,
        "blank": _blank,
        "trail": _trail,
        "saturated": _saturated,
        "two_galaxies": _two_galaxies,
        "twice_scale": _twice_scale,
        "half_scale": _half_scale,
    }
)
"""From a generator, a galaxy and another one, float32 of shape (H, H, 3), to an outlier of that shape."""


def _sky(rng: np.random.Generator, image: np.ndarray, side: int) -> np.ndarray:
    """Sky of a square cutout, shape (side, side, 3), from those of its corners that have no bright source.

    Patches, turned at random, overlap by a quarter with weights whose squares add up to one: noise keeps its
    variance, and no seams are seen.
    """
    patch = max(16, SKY_PATCH * len(image) // WIDTH)
    ends = (slice(0, patch), slice(-patch, None))
    corners = np.stack([image[rows, columns] for rows in ends for columns in ends])
    variances = corners.var(axis=(1, 2)).sum(axis=1)
    corners = corners[variances <= 1.3 * variances.min()]
    level = np.median(corners, axis=(0, 1, 2))
    overlap = patch // 4
    rise = np.sin((np.arange(overlap) + 0.5) / overlap * math.pi / 2)
    window = np.concatenate([rise, np.ones(patch - 2 * overlap), rise[::-1]])
    hop = patch - overlap
    steps = -(-side // hop) + 1
    canvas = np.zeros((steps * hop + overlap, steps * hop + overlap, 3), np.float32)
    for top in range(0, steps * hop, hop):
        for left in range(0, steps * hop, hop):
            piece = _turned(rng, corners[rng.integers(len(corners))])
            piece = piece - np.median(piece, axis=(0, 1))
            canvas[top : top + patch, left : left + patch] += (window * window[:, None])[..., None] * piece
    sky = level + canvas[overlap : overlap + side, overlap : overlap + side]
    return np.maximum(sky, 0).astype(np.float32)


def _sky_level(image: np.ndarray) -> np.ndarray:
    """Median of each channel along the image's edge, an eighth of its width."""
    edge = len(image) // 8
    ring = np.concatenate([image[:edge].reshape(-1, 3), image[-edge:].reshape(-1, 3)])
    return np.median(ring, axis=0)


def _turned(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """A square image under one of its eight symmetries."""
    image = np.rot90(image, int(rng.integers(4)))
    return image[:, ::-1] if rng.random() < 0.5 else image


def _resized(image: np.ndarray, side: int) -> np.ndarray:
    channels = [Image.fromarray(channel) for channel in image.transpose(2, 0, 1)]
    scaled = [np.asarray(one.resize((side, side), Image.Resampling.BICUBIC)) for one in channels]
    return np.clip(np.stack(scaled, axis=-1), 0, 255)


def _kept_color(image: np.ndarray) -> np.ndarray:
    """What exceeds full scale, scaled to it with its color, as Lupton et al. (2004, PASP 116, 133) do."""
    return image * (255 / np.maximum(image.max(axis=2, keepdims=True), 255))


def _squared_distance(side: int, row: float, column: float) -> np.ndarray:
    """Of each pixel from a place, shape (side, side)."""
    return (np.arange(side)[:, None] - row) ** 2 + (np.arange(side) - column) ** 2


def _compressed(image: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(np.clip(np.rint(image), 0, 255).astype(np.uint8)).save(
        buffer, "JPEG", quality=JPEG_QUALITY
    )
    return np.asarray(Image.open(buffer))
