"""From a window of a survey's tile to a cutout: at its scale and size, as FITS or as an RGB image.

Pixels keep the unit of the tile: a resampled one has the mean of the flux a pixel, not the sum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import simplejpeg

from hiwl_core.lupton import lupton_rgb
from hiwl_core.plain_fits import BLOCK, CARD
from hiwl_core.recipe_sections import RgbSettings
from hiwl_core.resampling import resample_planes
from hiwl_core.statuses import BAD_PIXELS, MISSING_BAND
from hiwl_core.unobserved import MAX_UNOBSERVED_SHARE, unobserved_pixels

__all__ = ["UNOBSERVED", "FinishedStamp", "Stamp", "StampSettings", "fits_cube"]

UNOBSERVED = -9999.0
"""What a FITS cutout has where no tile has a pixel, which `hiwl_core.unobserved` knows."""
SAME_SCALE = 1e-3
"""Relative; scales as near as that are one, and pixels are cut as they are."""
MARGIN = 2
"""Pixels around what is resampled, for the filter."""
JPEG_QUALITY = 95
TOUCHED = 1e-3
"""Of a resampled pixel: if more of it was not observed, or is bad, it is so itself."""


@dataclass(frozen=True)
class StampSettings:
    """What cutouts are to be.

    Parameters
    ----------
    bands : tuple of str
        The planes of a FITS cutout.
    size : int
        Pixels on a side.
    rgb : RgbSettings, optional
        Make a JPEG of these colors, of whose bands each is one of `bands`; without them a FITS cube.
    """

    bands: tuple[str, ...]
    size: int
    rgb: RgbSettings | None = None

    def zoom(self, scale: float, tile_scale: float) -> float:
        """Pixels of a tile in one of a cutout, from both scales; 1 if they are the same but for digits."""
        zoom = scale / tile_scale
        return 1.0 if abs(zoom - 1) < SAME_SCALE else zoom

    def window(self, zoom: float) -> int:
        """Pixels of the tile, on a side, that a cutout is made of."""
        return self.size if zoom == 1 else math.ceil(self.size * zoom) + 2 * MARGIN

    @property
    def bytes(self) -> int:
        """Of an encoded cutout; of a JPEG, about."""
        if self.rgb is not None:
            return self.size**2
        return BLOCK + -(-len(self.bands) * self.size**2 * 4 // BLOCK) * BLOCK


class FinishedStamp(NamedTuple):
    """An encoded cutout; or a problem, for ``rejects.csv``.

    Parameters
    ----------
    content : bytes or None
    problem : str or None
    observed, masked : float
        Shares of the cutout's pixels that were observed in all bands, and that a mask calls bad.
    """

    content: bytes | None
    problem: str | None = None
    observed: float = 0.0
    masked: float = 0.0


@dataclass(frozen=True)
class Stamp:
    """Where a cutout lies in a tile, and what is made of the tile's pixels there.

    Parameters
    ----------
    left, bottom, side : int
        Its window: the pixels of the tile that it is made of.
    x, y : float
        Where the object is, in pixels from the center of the tile's first.
    zoom : float
        Pixels of the tile in one of the cutout's.
    ra, dec : float
        Degrees.
    jacobian : numpy.ndarray, shape (2, 2)
        Degrees on the sky, east and north, a pixel of the tile.
    """

    left: int
    bottom: int
    side: int
    x: float
    y: float
    zoom: float
    ra: float
    dec: float
    jacobian: np.ndarray

    def finished(self, planes: np.ndarray, bad: np.ndarray, settings: StampSettings) -> FinishedStamp:
        """The cutout, encoded.

        Parameters
        ----------
        planes : numpy.ndarray of float32, shape (band, side, side)
            The window, NaN where the tile has no pixel.
        bad : numpy.ndarray of bool, shape (side, side)
            Pixels that a mask calls bad.
        settings : StampSettings
        """
        missing = ~np.isfinite(planes)
        jacobian, center = self.jacobian, (self.x - self.left, self.y - self.bottom)
        if self.zoom != 1:
            planes, missing, bad = _resampled(planes, missing, bad, center, self.zoom, settings.size)
            center = ((settings.size - 1) / 2,) * 2
            jacobian = jacobian * self.zoom
        observed, masked = 1 - float(missing.any(axis=0).mean()), float(bad.mean())
        if observed == 0:
            gone = [band for band, one in zip(settings.bands, missing, strict=True) if one.all()]
            what = (
                f"{MISSING_BAND}: no tile has {', '.join(gone)} there"
                if gone
                else f"{BAD_PIXELS}: no observed pixel"
            )
            return FinishedStamp(None, what)
        if settings.rgb is not None:
            return _jpeg(planes, missing, settings.bands, settings.rgb, masked)
        if observed < 1:
            planes = np.where(missing, np.float32(UNOBSERVED), planes)
        cards = {
            "BANDS": ",".join(settings.bands),
            "CTYPE1": "RA---TAN",
            "CTYPE2": "DEC--TAN",
            "CRVAL1": self.ra,
            "CRVAL2": self.dec,
            "CRPIX1": center[0] + 1,
            "CRPIX2": center[1] + 1,
            "CD1_1": jacobian[0, 0],
            "CD1_2": jacobian[0, 1],
            "CD2_1": jacobian[1, 0],
            "CD2_2": jacobian[1, 1],
        }
        return FinishedStamp(fits_cube(planes, cards), None, observed, masked)


def _resampled(
    planes: np.ndarray,
    missing: np.ndarray,
    bad: np.ndarray,
    center: tuple[float, float],
    zoom: float,
    size: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    gone = np.zeros((len(planes), size, size), bool)
    if missing.any():
        planes = np.where(missing, np.float32(0), planes)
        gone = resample_planes(missing, center, zoom, size, sharp=False) > TOUCHED
    flagged = np.zeros((size, size), bool)
    if bad.any():
        flagged = resample_planes(bad[None], center, zoom, size, sharp=False)[0] > TOUCHED
    return resample_planes(planes, center, zoom, size), gone, flagged


def _jpeg(
    planes: np.ndarray, missing: np.ndarray, bands: tuple[str, ...], rgb: RgbSettings, masked: float
) -> FinishedStamp:
    """As `ingest` makes RGB images of FITS ones, which cannot say what is missing."""
    gone = missing.any(axis=0)
    if gone.any():
        planes = np.where(missing, np.float32(np.nan), planes)
    index = [bands.index(band) for band in rgb.bands]
    for number in dict.fromkeys(index):
        missed = unobserved_pixels(planes[number])
        if missed.all():
            return FinishedStamp(None, f"{MISSING_BAND}: band {bands[number]!r} has no observed pixel")
        gone |= missed
    share = float(gone.mean())
    if share >= MAX_UNOBSERVED_SHARE:
        return FinishedStamp(None, f"{BAD_PIXELS}: {share:.1%} of the pixels were not observed")
    if share:
        planes = np.where(gone, np.float32(rgb.minimum), planes)
    red, green, blue = (planes[number] for number in index)
    # FITS counts rows from the bottom, images from the top.
    upright = np.ascontiguousarray(lupton_rgb(red, green, blue, rgb)[::-1])
    content = simplejpeg.encode_jpeg(upright, JPEG_QUALITY, "RGB", "444")
    return FinishedStamp(content, None, 1 - share, masked)


def fits_cube(planes: np.ndarray, cards: dict[str, str | float]) -> bytes:
    """A FITS file of one cube; astropy's writer takes fifty times as long for a small one.

    Parameters
    ----------
    planes : numpy.ndarray of float32, shape (band, y, x)
    cards : dict
        Keywords of eight characters at most, with short text or finite numbers.
    """
    depth, height, width = planes.shape
    lines = ["SIMPLE  =                    T"]
    whole = {"BITPIX": -32, "NAXIS": 3, "NAXIS1": width, "NAXIS2": height, "NAXIS3": depth}
    lines += [f"{name:<8}= {value:>20}" for name, value in whole.items()]
    for name, value in cards.items():
        lines.append(
            f"{name:<8}= " + (f"'{value:<8}'" if isinstance(value, str) else f"{_number(value):>20}")
        )
    header = "".join(f"{line:<{CARD}}" for line in [*lines, "END"]).encode("ascii")
    data = planes.astype(">f4").tobytes()
    return header + b" " * (-len(header) % BLOCK) + data + bytes(-len(data) % BLOCK)


def _number(value: float) -> str:
    text = repr(float(value)).upper()
    return text if "." in text or "E" in text else f"{text}."
