"""Three bands to 8-bit colors by the method of Lupton et al. (2004, PASP 116, 133), each level as astropy's.

astropy computes in double precision, and cuts off what is behind the point. Here single precision does, and
the few pixels that come so near to a whole level that the two could differ are left to astropy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hiwl_core.recipe import RgbSettings

__all__ = ["lupton_rgb"]

WHITE = 255.0
NEAR = 2e-3
"""Of a level; ten times what single precision is wrong by."""
CANCELLED = 1e-6
"""Of the bands' sum: below it single precision does not know whether the sum is positive."""
LARGEST = 1e12
"""In units of stretch / q: squares of more are beyond single precision."""
SOFTENINGS = (1e-25, 1e25)
"""Of q / stretch, between which single precision has room."""
SERIES_BELOW = 0.25
"""There asinh(x) / x is a series, since the logarithm loses digits."""
STRIP_PIXELS = 65536
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
    bands = [band.astype(np.float32) for band in given]
    light = np.abs(bands[0]) + np.abs(bands[1]) + np.abs(bands[2])
    _, softening = _slope(rgb)
    # False for what is not finite, too.
    if not (SOFTENINGS[0] < softening < SOFTENINGS[1] and float(light.max()) * softening < LARGEST):
        unsure[:] = True
        return
    total = bands[0] + bands[1] + bands[2]
    np.less(np.abs(total), light * CANCELLED, out=unsure)
    factor = _factor(total / 3, rgb)
    for band in bands:
        np.multiply(band, factor, out=band)
    # Of what is brighter than white only astropy's last digit says whether it is 255 or 254.
    unsure |= np.maximum(np.maximum(bands[0], bands[1]), bands[2]) > WHITE - NEAR
    for channel, level in enumerate(bands):
        np.minimum(np.maximum(level, 0, out=level), WHITE, out=level)
        pixels[..., channel] = level
        # What is black is so in any precision.
        unsure |= (np.abs(level - np.rint(level)) < NEAR) & (level > 0)


def _slope(rgb: RgbSettings) -> tuple[float, float]:
    """Levels of a flux near zero, in units of softened flux, and the softening, as astropy has them."""
    q = 0.1 if rgb.q < 2.0**-23 else min(rgb.q, 1e10)
    return 0.1 * WHITE / float(np.arcsinh(0.1 * q)), q / rgb.stretch


def _factor(intensity: np.ndarray, rgb: RgbSettings) -> np.ndarray:
    """What fluxes are to be multiplied by to become levels, float32."""
    slope, softening = _slope(rgb)
    x = np.maximum(intensity, 0) * np.float32(softening)
    squared = x * x
    series = 1 + squared * (-1 / 6 + squared * (3 / 40 + squared * (-15 / 336 + squared * (105 / 3456))))
    # In place of asinh, for which not every processor has vector instructions.
    logarithm = np.log(x + np.sqrt(squared + 1)) / x
    factor = np.where(x < SERIES_BELOW, series, logarithm) * np.float32(slope * softening)
    factor[intensity <= 0] = 0
    return factor


def _astropy(bands: Sequence[np.ndarray], rgb: RgbSettings) -> np.ndarray:
    from astropy.visualization import make_lupton_rgb

    # In double precision integers do not wrap, and the largest float32 is no infinity.
    doubles = [band.astype(np.float64) - rgb.minimum for band in bands]
    pixels: np.ndarray = make_lupton_rgb(*doubles, stretch=rgb.stretch, Q=rgb.q)
    return pixels
