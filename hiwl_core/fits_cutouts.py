"""FITS cutouts to RGB images: cubes, one image extension a band, single bands, or one file a band.

The colors are made by Lupton's method (Lupton et al. 2004, PASP 116, 133) with the stretch of the recipe's
``[rgb]`` section, which the bundle keeps, so training and prediction see the same colors.
astropy is imported when the first FITS file is met that is not a plain one: others do not pay for it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from hiwl_core.compressed import unpacked
from hiwl_core.errors import words_of
from hiwl_core.fits_bounds import check_bounds
from hiwl_core.fits_headers import has_sky, quiet_astropy, sky_of
from hiwl_core.fits_planes import MAX_ALL_PIXELS, Plane, find_plane, image_shape, only_plane, planes_of
from hiwl_core.lupton import lupton_rgb
from hiwl_core.plain_fits import claims_nonsense, plain_images
from hiwl_core.recipe_sections import RgbSettings
from hiwl_core.statuses import BAD_PIXELS, MISSING_BAND, TOO_LARGE, UNDECODABLE, UnreadableCutout
from hiwl_core.unobserved import WINDOW, may_have_holes, unobserved_pixels

__all__ = ["FITS_MAGIC", "Seen", "SkyImage", "fits_position", "is_fits", "rgb_from_bands", "rgb_from_fits"]

FITS_MAGIC = b"SIMPLE  ="
MAX_BAD_SHARE = 0.01
"""Share of pixels that may be NaN or infinite in any of the bands; they become black."""

Seen = Callable[[float | None], float | None]
"""From an image's pixel scale to the side, in pixels, of the central square that is looked at; None: all."""


class SkyImage(NamedTuple):
    """An RGB image and where it is on the sky, as far as its file says.

    Parameters
    ----------
    pixels : numpy.ndarray of uint8, shape (H, W, 3)
        The first row on top.
    pixel_scale : float or None
        arcsec/pixel.
    ra, dec : float or None
        Of the image's center, ICRS or as the file has it, degrees.
    unobserved : numpy.ndarray of bool, shape (H, W), or None
        Pixels that one of the bands does not have, which are black; None if there are none.
    """

    pixels: np.ndarray
    pixel_scale: float | None = None
    ra: float | None = None
    dec: float | None = None
    unobserved: np.ndarray | None = None

    @property
    def image(self) -> Image.Image:
        """The pixels for Pillow, mode RGB."""
        return Image.fromarray(self.pixels)


def is_fits(content: bytes) -> bool:
    """Whether bytes are a FITS file by their first keyword."""
    return content[: len(FITS_MAGIC)] == FITS_MAGIC


def rgb_from_fits(content: bytes, rgb: RgbSettings, seen: Seen | None = None) -> SkyImage:
    """One FITS file as an RGB image.

    Parameters
    ----------
    content : bytes
        A cube of shape (band, y, x); or one two-dimensional image extension a band, named by EXTNAME, FILTER
        or BAND; or a single band, which becomes gray. A cube names its bands by BANDS (``"grz"`` or
        ``"g,r,z"``), by BAND0, BAND1, ... or by FILTER1, FILTER2, ...; one that does not has the bands
        g, r, i if it has three planes and u, g, r, i, z, y if it has six.
    rgb : RgbSettings
    seen : Seen, optional
        What is beyond that square need not be in the result, which is smaller then, about the same center.

    Raises
    ------
    UnreadableCutout
        With the status ``undecodable``, ``too_large``, ``missing_band`` or ``bad_pixels``.
    """
    planes = _read(content)
    single = only_plane(planes, rgb.bands)
    return _compose([single or find_plane(planes, band) for band in rgb.bands], rgb, seen)


def rgb_from_bands(files: Mapping[str, bytes], rgb: RgbSettings) -> SkyImage:
    """The files of one object, one a band, as an RGB image.

    Parameters
    ----------
    files : mapping of str to bytes
        From the band's name to a FITS file whose first two-dimensional image is that band.
    rgb : RgbSettings
        Its `bands` say which files are needed; others are not looked at.

    Raises
    ------
    UnreadableCutout
        With the status ``undecodable``, ``too_large``, ``missing_band`` or ``bad_pixels``.
    """
    contents = {name.lower(): content for name, content in files.items()}
    chosen = []
    for band in rgb.bands:
        if band.lower() not in contents:
            there = ", ".join(sorted(files)) or "none"
            raise UnreadableCutout(MISSING_BAND, f"no file of band {band!r}; bands there: {there}")
        chosen.append(_read(contents[band.lower()])[0])
    return _compose(chosen, rgb)


def fits_position(content: bytes) -> tuple[float, float] | None:
    """Right ascension and declination of a FITS image's center, degrees; None if its headers do not say."""
    try:
        with _units(unpacked(content)) as units:
            for unit in units:
                shape = image_shape(unit)
                if len(shape) >= 2:
                    header = unit.header if has_sky(unit.header) else units[0].header
                    return sky_of(header, shape[-2:])[1]
    except Exception:
        return None
    return None


def _read(content: bytes) -> list[Plane]:
    """The two-dimensional images of a file, in order; at least one."""
    content = unpacked(content)
    if not is_fits(content):
        raise UnreadableCutout(UNDECODABLE, "not a FITS file")
    planes: list[Plane] = []
    others: list[tuple[int, ...]] = []
    try:
        # Damaged scales give numbers that are none in ways of their own, and zeros to divide by.
        with np.errstate(all="ignore"), _units(content) as units:
            for unit in units:
                planes.extend(planes_of(unit, units[0].header, others))
                if sum(plane.pixels.size for plane in planes) > MAX_ALL_PIXELS:
                    raise UnreadableCutout(TOO_LARGE, f"more than {MAX_ALL_PIXELS} pixels in all bands")
    except UnreadableCutout:
        raise
    # astropy raises many kinds for broken files, TypeError and IndexError among them.
    except Exception as error:
        raise UnreadableCutout(UNDECODABLE, f"FITS: {words_of(error)}") from None
    if not planes:
        found = f": {others[0]} is no band and no cube of bands" if others else ""
        raise UnreadableCutout(UNDECODABLE, f"no image in the FITS file{found}")
    return planes


@contextmanager
def _units(content: bytes) -> Iterator[Sequence[Any]]:
    """The images and tables of a file, by astropy if it is not a plain one."""
    plain = plain_images(content)
    if plain is not None:
        yield plain
        return
    check_bounds(content)
    if claims_nonsense(content):
        raise UnreadableCutout(UNDECODABLE, "FITS: a header of sizes that cannot be")
    from astropy.io import fits

    quiet_astropy()
    with fits.open(io.BytesIO(content), memmap=False) as units:
        yield units


def _compose(planes: list[Plane], rgb: RgbSettings, seen: Seen | None = None) -> SkyImage:
    """Three planes, red first, as one image."""
    shapes = {plane.pixels.shape for plane in planes}
    if len(shapes) > 1:
        sizes = ", ".join(" x ".join(map(str, shape)) for shape in sorted(shapes))
        raise UnreadableCutout(UNDECODABLE, f"bands of different sizes: {sizes} pixels")
    height, width = planes[0].pixels.shape
    scale, position = sky_of(planes[0].header, planes[0].pixels.shape)
    ra, dec = position or (None, None)
    side = None if seen is None else seen(scale)
    part = None if side is None else _sound_center(planes, side)
    if part is not None:
        return SkyImage(_colors(planes, part, rgb), scale, ra, dec)
    bad = np.zeros((height, width), dtype=bool)
    # A band that is all three colors is looked at once.
    native = {id(plane): _native(plane.pixels) for plane in planes}
    suspicious = {id(plane): plane for plane in planes if may_have_holes(native[id(plane)])}
    for number in suspicious:
        bad |= ~np.isfinite(native[number])
    share = float(bad.mean()) if suspicious else 0.0
    if share >= MAX_BAD_SHARE:
        raise UnreadableCutout(BAD_PIXELS, f"{share:.1%} of the pixels are not finite")
    for number, plane in suspicious.items():
        missing = unobserved_pixels(native[number])
        if missing.all():
            raise UnreadableCutout(MISSING_BAND, f"band {plane.names.strip()!r} has no observed pixel")
        bad |= missing
    if bad.any():
        for pixels in native.values():
            pixels[bad] = rgb.minimum
    colors = _colors(planes, native, rgb)
    return SkyImage(colors, scale, ra, dec, bad[::-1] if bad.any() else None)


def _colors(planes: list[Plane], native: Mapping[int, np.ndarray], rgb: RgbSettings) -> np.ndarray:
    # FITS counts rows from the bottom, images from the top.
    red, green, blue = (native[id(plane)][::-1] for plane in planes)
    return lupton_rgb(red, green, blue, rgb)


def _sound_center(planes: list[Plane], side: float) -> dict[int, np.ndarray] | None:
    """The planes' central squares, or a little more, native; None unless nothing is wrong with them.

    That is no hole in any of them, nor one that reaches into them, and no pixel of the whole image that is
    not finite, of which only a share is allowed. Then what lies around them changes nothing.
    """
    shape = planes[0].pixels.shape
    # Even, so that a crop of what is left is rounded as that of the whole would be.
    edges = [max(0, int((length - side) // 4) * 2) for length in shape]
    if not any(edges):
        return None
    # A hole that lies across the border is seen by what is as wide as it must be.
    around = [min(edge, WINDOW - 1) for edge in edges]
    there = tuple(
        slice(edge - more, length - edge + more)
        for edge, more, length in zip(edges, around, shape, strict=True)
    )
    inner = tuple(
        slice(more, length - 2 * edge + more) for edge, more, length in zip(edges, around, shape, strict=True)
    )
    found: dict[int, np.ndarray] = {}
    for plane in planes:
        if id(plane) in found:
            continue
        if plane.pixels.dtype.kind == "f" and not np.isfinite(plane.pixels).all():
            return None
        native = _native(plane.pixels[there])
        if may_have_holes(native):
            return None
        found[id(plane)] = native[inner]
    return found


def _native(pixels: np.ndarray) -> np.ndarray:
    """Pixels in the processor's order of bytes, which can be changed; integers but bytes as float64."""
    if pixels.dtype.kind != "f" and pixels.dtype.itemsize > 1:
        return pixels.astype(np.float64)
    return pixels.astype(pixels.dtype.newbyteorder("="))
