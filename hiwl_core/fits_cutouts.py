"""FITS cutouts to RGB images: cubes, one image extension a band, single bands, or one file a band.

The colors are made by Lupton's method (Lupton et al. 2004, PASP 116, 133) with the stretch of the recipe's
``[rgb]`` section, which the bundle keeps, so training and prediction see the same colors.
astropy is imported when the first FITS file is met: shards of JPEGs do not pay for it.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from hiwl_core.recipe import RgbSettings
from hiwl_core.statuses import BAD_PIXELS, MAX_PIXELS, MISSING_BAND, TOO_LARGE, UNDECODABLE, UnreadableCutout

__all__ = ["FITS_MAGIC", "SkyImage", "fits_position", "is_fits", "rgb_from_bands", "rgb_from_fits"]

FITS_MAGIC = b"SIMPLE  ="
MAX_ALL_PIXELS = 2 * MAX_PIXELS
"""Of all bands of a file: 256 MB in double precision."""
STRIP_ROWS = 256
"""Rows that become colors at once: the method works pixel by pixel and needs many copies of them."""
MAX_BAD_SHARE = 0.01
"""Share of pixels that may be NaN or infinite in any of the bands; they become black."""
UNNAMED_CUBES = {3: ("g", "r", "i"), 6: ("u", "g", "r", "i", "z", "y")}
"""Bands of a cube that does not name them, by the number of its planes."""
COMPANIONS = frozenset(
    ("mask", "variance", "var", "weight", "wht", "err", "error", "sigma", "dq", "ivar", "invvar", "psf")
)
"""Names of extensions that say something of an image and are none of it."""


class SkyImage(NamedTuple):
    """An RGB image and where it is on the sky, as far as its file says.

    Parameters
    ----------
    image : PIL.Image.Image
        Mode RGB, the first row on top.
    pixel_scale : float or None
        arcsec/pixel.
    ra, dec : float or None
        Of the image's center, ICRS or as the file has it, degrees.
    """

    image: Image.Image
    pixel_scale: float | None = None
    ra: float | None = None
    dec: float | None = None


class _Plane(NamedTuple):
    """One band of one file: a two-dimensional array, the names it goes by, and its header."""

    names: str
    pixels: np.ndarray
    header: Any


def is_fits(content: bytes) -> bool:
    """Whether bytes are a FITS file by their first keyword."""
    return content[: len(FITS_MAGIC)] == FITS_MAGIC


def rgb_from_fits(content: bytes, rgb: RgbSettings) -> SkyImage:
    """One FITS file as an RGB image.

    Parameters
    ----------
    content : bytes
        A cube of shape (band, y, x); or one two-dimensional image extension a band, named by EXTNAME, FILTER
        or BAND; or a single band, which becomes gray. A cube names its bands by BANDS (``"grz"`` or
        ``"g,r,z"``), by BAND0, BAND1, ... or by FILTER1, FILTER2, ...; one that does not has the bands
        g, r, i if it has three planes and u, g, r, i, z, y if it has six.
    rgb : RgbSettings

    Raises
    ------
    UnreadableCutout
        With the status ``undecodable``, ``too_large``, ``missing_band`` or ``bad_pixels``.
    """
    planes = _read(content)
    gray = len(planes) == 1
    return _compose([planes[0] if gray else _find(planes, band) for band in rgb.bands], rgb)


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
    from astropy.io import fits

    try:
        with fits.open(io.BytesIO(content), memmap=False) as units:
            for unit in units:
                shape = _image_shape(unit)
                if len(shape) >= 2:
                    header = unit.header if _has_sky(unit.header) else units[0].header
                    return _sky(header, shape[-2:])[1]
    except Exception:
        return None
    return None


def _read(content: bytes) -> list[_Plane]:
    """The two-dimensional images of a file, in order; at least one."""
    from astropy.io import fits

    if not is_fits(content):
        raise UnreadableCutout(UNDECODABLE, "not a FITS file")
    planes: list[_Plane] = []
    try:
        with fits.open(io.BytesIO(content), memmap=False) as units:
            for unit in units:
                planes.extend(_planes(unit, units[0].header))
                if sum(plane.pixels.size for plane in planes) > MAX_ALL_PIXELS:
                    raise UnreadableCutout(TOO_LARGE, f"more than {MAX_ALL_PIXELS} pixels in all bands")
    except UnreadableCutout:
        raise
    # astropy raises many kinds for broken files, TypeError and IndexError among them.
    except Exception as error:
        raise UnreadableCutout(UNDECODABLE, " ".join(f"FITS: {error}".split())) from None
    if not planes:
        raise UnreadableCutout(UNDECODABLE, "no image in the FITS file")
    return planes


def _image_shape(unit: Any) -> tuple[int, ...]:
    """Shape of an extension's image as its header has it, before any pixel is read; () for a table."""
    return tuple(unit.shape or ()) if unit.is_image else ()


def _planes(unit: Any, primary: Any) -> Iterator[_Plane]:
    shape, name = _image_shape(unit), str(unit.name).lower()
    if not shape or set(_tokens(name)) & COMPANIONS:
        return
    while len(shape) > 2 and shape[0] == 1:
        shape = shape[1:]
    if len(shape) not in (2, 3) or 0 in shape:
        raise UnreadableCutout(UNDECODABLE, f"a FITS image of {len(shape)} dimensions, {shape}")
    if shape[-1] * shape[-2] > MAX_PIXELS or math.prod(shape) > MAX_ALL_PIXELS:
        raise UnreadableCutout(TOO_LARGE, f"a FITS image of {' x '.join(map(str, shape))} pixels")
    pixels = np.asarray(unit.data).reshape(shape)
    header = unit.header if _has_sky(unit.header) else primary
    if len(shape) == 2:
        keywords = (unit.header.get(key, "") for key in ("BAND", "FILTER"))
        yield _Plane(" ".join([name, *map(str, keywords)]), pixels, header)
        return
    for band, plane in zip(_cube_bands({**primary, **unit.header}, shape[0]), pixels, strict=True):
        yield _Plane(band, plane, header)


def _cube_bands(header: Mapping[str, Any], count: int) -> list[str]:
    """Names of a cube's planes; empty strings where nothing says them."""
    listed = str(header.get("BANDS", "")).strip()
    names = _tokens(listed) if re.search(r"[^A-Za-z0-9]", listed) else list(listed)
    if len(names) == count:
        return names
    for key in ("BAND", "FILTER"):
        for first in (0, 1):
            numbered = [header.get(f"{key}{number}") for number in range(first, first + count)]
            if None not in numbered:
                return list(map(str, numbered))
    return list(UNNAMED_CUBES.get(count, [""] * count))


def _find(planes: list[_Plane], band: str) -> _Plane:
    """The first plane that goes by a band's name: ``g`` is ``G``, ``HSC-G`` and ``g DECam SDSS``."""
    for plane in planes:
        if band.lower() in _tokens(plane.names):
            return plane
    there = ", ".join(plane.names.strip() or "unnamed" for plane in planes)
    raise UnreadableCutout(MISSING_BAND, f"no band {band!r}; bands there: {there}")


def _tokens(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def _compose(planes: list[_Plane], rgb: RgbSettings) -> SkyImage:
    """Three planes, red first, as one image."""
    from astropy.visualization import make_lupton_rgb

    shapes = {plane.pixels.shape for plane in planes}
    if len(shapes) > 1:
        sizes = ", ".join(" x ".join(map(str, shape)) for shape in sorted(shapes))
        raise UnreadableCutout(UNDECODABLE, f"bands of different sizes: {sizes} pixels")
    height, width = planes[0].pixels.shape
    bad = np.zeros((height, width), dtype=bool)
    for plane in planes:
        bad |= ~np.isfinite(plane.pixels)
    share = float(bad.mean())
    if share >= MAX_BAD_SHARE:
        raise UnreadableCutout(BAD_PIXELS, f"{share:.1%} of the pixels are not finite")
    pixels = np.empty((height, width, 3), dtype=np.uint8)
    for start in range(0, height, STRIP_ROWS):
        rows = slice(start, start + STRIP_ROWS)
        # In double precision integers do not wrap, and the largest float32 is no infinity.
        bands = np.stack([plane.pixels[rows].astype(np.float64) for plane in planes]) - rgb.minimum
        bands[:, bad[rows]] = 0.0
        with np.errstate(invalid="ignore", divide="ignore"):  # black divided by black
            pixels[rows] = make_lupton_rgb(*bands, stretch=rgb.stretch, Q=rgb.q)
    scale, position = _sky(planes[0].header, planes[0].pixels.shape)
    # FITS counts rows from the bottom, images from the top.
    image = Image.fromarray(np.ascontiguousarray(pixels[::-1]))
    return SkyImage(image, scale, *(position or (None, None)))


def _has_sky(header: Any) -> bool:
    return str(header.get("CTYPE1", "")).strip() != ""


def _sky(header: Any, shape: tuple[int, ...]) -> tuple[float | None, tuple[float, float] | None]:
    """Pixel scale in arcsec and the sky position of the center in degrees, from the WCS if there is one."""
    from astropy.wcs import WCS
    from astropy.wcs.utils import proj_plane_pixel_scales

    if not _has_sky(header):
        return None, None
    header = header.copy()
    # A primary header may hold the WCS of the extensions and no image of its own, at which astropy wonders.
    header.pop("NAXIS", None)
    try:
        wcs = WCS(header, fix=False)
        if not wcs.has_celestial:
            return None, None
        wcs = wcs.celestial
        scale = float(np.sqrt(np.prod(proj_plane_pixel_scales(wcs)))) * 3600.0
        center = [float(x) for x in wcs.wcs_pix2world((shape[1] - 1) / 2, (shape[0] - 1) / 2, 0)]
    # A header with half a WCS, or one of nonsense.
    except Exception:
        return None, None
    ra, dec = center[wcs.wcs.lng], center[wcs.wcs.lat]
    equatorial = wcs.wcs.lngtyp.strip() == "RA" and bool(np.isfinite([ra, dec]).all())
    position = (ra, dec) if equatorial else None
    return (scale if np.isfinite(scale) and scale > 0 else None), position
