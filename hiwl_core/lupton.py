"""Three bands to 8-bit colors by the method of Lupton et al. (2004, PASP 116, 133), each level as astropy's.

astropy computes in double precision, and cuts off what is behind the point. Here single precision does, and
the few pixels that come so near to a whole level that the two could differ are left to astropy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hiwl_core.recipe_sections import RgbSettings

__all__ = ["lupton_rgb"]

WHITE = 255.0
NEAR = 2e-3
"""Of a level; more than single precision is wrong by."""
CANCELLED = 6e-5
"""Times the slope: the share of the bands' absolute sum that their sum has at least, lest the error of a
logarithm, 6e-8, becomes more than a thousandth of a level."""
MOST_CANCELLED = 0.05
"""Of steeper slopes all is left to astropy."""
LARGEST = 1e12
"""In units of stretch / q: squares of more are beyond single precision."""
SOFTENINGS = (1e-25, 1e25)
"""Of q / stretch, between which single precision has room."""
NOTHING = np.float32(1e-30)
STRIP_PIXELS = 16_384
"""That are computed at once: what is computed on the way stays in the processor's cache."""


def lupton_rgb(red: np.ndarray, green: np.ndarray, blue: np.ndarray, rgb: RgbSettings) -> np.ndarray:
    """Colors of three bands.

    Parameters
    ----------
    red, green, blue : numpy.ndarray, shape (H, W)
        Fluxes of any numeric type.
    rgb : RgbSettings

    Returns
    -------
    numpy.ndarray of uint8, shape (H, W, 3)
        What `astropy.visualization.make_lupton_rgb` makes of them in double precision.
    """
    bands = (red, green, blue)
    pixels = np.empty((*red.shape, 3), np.uint8)
    unsure = np.empty(red.shape, bool)
    rows = max(1, STRIP_PIXELS // max(1, red.shape[1]))
    with np.errstate(all="ignore"):
        for start in range(0, red.shape[0], rows):
            strip = slice(start, start + rows)
            _fill(pixels[strip], unsure[strip], [band[strip] for band in bands], rgb)
        found = np.flatnonzero(unsure)
        if len(found):
            pixels.reshape(-1, 3)[found] = _astropy([band.reshape(-1)[found] for band in bands], rgb)
    return pixels


def _fill(pixels: np.ndarray, unsure: np.ndarray, given: Sequence[np.ndarray], rgb: RgbSettings) -> None:
    """The colors of some rows, and which of them may be wrong."""
    if rgb.minimum:
        given = [band.astype(np.float64) - rgb.minimum for band in given]
    bands = [band.astype(np.float32, copy=False) for band in given]
    level, light = np.abs(bands[0]), np.abs(bands[1])
    light += level
    light += np.abs(bands[2], out=level)
    slope, softening = _slope(rgb)
    cancelled = CANCELLED * slope
    usual = cancelled < MOST_CANCELLED and SOFTENINGS[0] < softening < SOFTENINGS[1]
    # False for what is not finite, too.
    if not (usual and float(light.max()) * softening < LARGEST):
        unsure[:] = True
        return
    total = bands[0] + bands[1]
    total += bands[2]
    light *= np.float32(cancelled)
    np.less(np.abs(total, out=level), light, out=unsure)
    factor = _factor(total, softening / 3, slope * softening)
    furthest = np.zeros_like(level)
    for channel, band in enumerate(bands):
        np.multiply(band, factor, out=level)
        # What is below half a level is black, and as far from the next level as can be.
        np.minimum(np.maximum(level, 0.5, out=level), WHITE, out=level)
        pixels[..., channel] = level
        level -= pixels[..., channel]
        level -= 0.5
        np.maximum(furthest, np.abs(level, out=level), out=furthest)
    # That is what is white, too, of which astropy's last digit says whether it is 255 or 254.
    unsure |= furthest > 0.5 - NEAR


def _slope(rgb: RgbSettings) -> tuple[float, float]:
    """Levels of a flux near zero, in units of softened flux, and the softening, as astropy has them."""
    q = 0.1 if rgb.q < 2.0**-23 else min(rgb.q, 1e10)
    return 0.1 * WHITE / float(np.arcsinh(0.1 * q)), q / rgb.stretch


def _factor(total: np.ndarray, softening: float, levels: float) -> np.ndarray:
    """What fluxes are to be multiplied by to become levels; the array that is given is lost.

    That is asinh(x) / x, and 0 where x is not positive. The logarithm in place of asinh, for which not every
    processor has vector instructions, is wrong by 6e-8 / x for a small x.
    """
    x = np.multiply(total, np.float32(softening), out=total)
    np.maximum(x, NOTHING, out=x)
    factor = x * x
    factor += 1
    np.sqrt(factor, out=factor)
    factor += x
    np.log(factor, out=factor)
    factor /= x
    factor *= np.float32(levels)
    return factor


def _astropy(bands: Sequence[np.ndarray], rgb: RgbSettings) -> np.ndarray:
    from astropy.visualization import make_lupton_rgb

    # In double precision integers do not wrap, and the largest float32 is no infinity.
    doubles = [band.astype(np.float64) - rgb.minimum for band in bands]
    pixels: np.ndarray = make_lupton_rgb(*doubles, stretch=rgb.stretch, Q=rgb.q)
    return pixels
