"""Which bands a FITS file holds: the planes of its images, by whatever names its headers give them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from hiwl_core.fits_headers import card, has_sky
from hiwl_core.statuses import MAX_PIXELS, MISSING_BAND, TOO_LARGE, UnreadableCutout

__all__ = [
    "COMPANIONS",
    "MAX_ALL_PIXELS",
    "MOST_BANDS",
    "Plane",
    "cube_bands",
    "find_plane",
    "image_shape",
    "only_plane",
    "planes_of",
    "tokens",
]

MAX_ALL_PIXELS = 2 * MAX_PIXELS
"""Of all bands of a file: 256 MB in double precision."""
MOST_BANDS = 100
"""Planes of a cube of bands; one of more is something else, such as a spectrum at each pixel."""
UNNAMED_CUBES = {3: ("g", "r", "i"), 6: ("u", "g", "r", "i", "z", "y")}
"""Bands of a cube that does not name them, by the number of its planes."""
COMPANIONS = frozenset(
    re.findall(
        r"\w+",
        """mask maskbits flag flags dq bpm badpix bad quality cr variance var weight weights wht ivar invvar
        err error rms sigma std unc uncert uncertainty noise snr sens psf ctx context con coverage cov exp
        expmap exposure exptime nexp nimage area bkg bkgd background back sky seg segm segmap segmentation
        model resid residual""",
    )
)
"""Names of extensions that say something of an image and are none of it."""
SCIENCE = frozenset(("", "primary", "sci", "science", "image", "img", "data", "compressed_image"))
"""Names of extensions that hold an image, of whichever band."""
KNOWN_BANDS = frozenset("ugrizybvjhk")


class Plane(NamedTuple):
    """One band of one file: a two-dimensional array, the names it goes by, and its header.

    `extension` is the name of its extension; None if it is one of a cube's planes.
    """

    names: str
    pixels: np.ndarray
    header: Any
    extension: str | None = None


def image_shape(unit: Any) -> tuple[int, ...]:
    """Shape of an extension's image as its header has it, before any pixel is read; () for a table."""
    return tuple(unit.shape or ()) if unit.is_image else ()


def planes_of(unit: Any, primary: Any, others: list[tuple[int, ...]]) -> Iterator[Plane]:
    """The bands that an extension holds; the shape of what is an image but none of bands goes to `others`."""
    shape, name = image_shape(unit), str(unit.name).lower()
    if not shape or _is_companion(name):
        return
    while len(shape) > 2 and shape[0] == 1:
        shape = shape[1:]
    if len(shape) not in (2, 3) or 0 in shape:
        others.append(shape)
        return
    if shape[-1] * shape[-2] > MAX_PIXELS or math.prod(shape) > MAX_ALL_PIXELS:
        raise UnreadableCutout(TOO_LARGE, f"a FITS image of {' x '.join(map(str, shape))} pixels")
    if len(shape) == 3 and shape[0] > MOST_BANDS:
        others.append(shape)
        return
    pixels = np.asarray(unit.data).reshape(shape)
    header = unit.header if has_sky(unit.header) else primary
    if len(shape) == 2:
        keywords = (card(unit.header, key) for key in ("BAND", "FILTER"))
        yield Plane(" ".join([name, *map(str, keywords)]), pixels, header, name)
        return
    for band, plane in zip(cube_bands([unit.header, primary], shape[0]), pixels, strict=True):
        yield Plane(band, plane, header)


def _is_companion(name: str) -> bool:
    """Whether an extension is a companion of an image by its name: ``WHT``, ``WHT_G``, ``wht1``."""
    return any(token.rstrip("0123456789") in COMPANIONS for token in tokens(name))


def cube_bands(headers: Sequence[Any], count: int) -> list[str]:
    """Names of a cube's planes by the first header that has them; empty strings where nothing says them.

    Parameters
    ----------
    headers : sequence of astropy.io.fits.Header
    count : int
        Planes.
    """

    def said(keyword: str) -> Any:
        found = (card(header, keyword, None) for header in headers)
        return next((value for value in found if value is not None), None)

    listed = str(said("BANDS") or "").strip()
    names = tokens(listed) if re.search(r"[^A-Za-z0-9]", listed) else list(listed)
    if len(names) == count:
        return names
    for key in ("BAND", "FILTER"):
        for first in (0, 1):
            numbered = [said(f"{key}{number}") for number in range(first, first + count)]
            if None not in numbered:
                return list(map(str, numbered))
    return list(UNNAMED_CUBES.get(count, [""] * count))


def only_plane(planes: list[Plane], bands: Sequence[str]) -> Plane | None:
    """The plane of a file that holds one band alone, whatever else there is; None if it holds several."""
    if len(planes) == 1:
        return planes[0]
    wanted = {band.lower() for band in bands}
    named = [plane for plane in planes if (wanted | KNOWN_BANDS) & set(tokens(plane.names))]
    if len(named) == 1 and wanted & set(tokens(named[0].names)):
        return named[0]
    science = [plane for plane in planes if plane.extension in SCIENCE]
    return science[0] if not named and len(science) == 1 else None


def find_plane(planes: list[Plane], band: str) -> Plane:
    """The first plane that goes by a band's name: ``g`` is ``G``, ``HSC-G`` and ``g DECam SDSS``."""
    for plane in planes:
        if band.lower() in tokens(plane.names):
            return plane
    there = ", ".join(plane.names.strip() or "unnamed" for plane in planes)
    raise UnreadableCutout(MISSING_BAND, f"no band {band!r}; bands there: {there}")


def tokens(text: str) -> list[str]:
    """The words and numbers of a name, in lower case: ``HSC-G`` has hsc and g."""
    return re.findall(r"[a-z0-9]+", text.lower())
