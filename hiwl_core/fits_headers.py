"""What a FITS header says, however it says it: single keywords, and where the image is on the sky.

Headers of surveys are not always to the letter of the standard. A card that cannot be understood is as good
as none, and costs nothing where nobody needs it. Of the WCS is taken what `astropy.wcs.WCS` makes of it.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from hiwl_core.plain_fits import WCS_KEYWORD, PlainHeader, tangential_sky

__all__ = ["card", "celestial_wcs", "has_sky", "quiet_astropy", "scale_of", "sky_cards", "sky_of"]


def quiet_astropy() -> None:
    """Keep astropy from telling the terminal of each header what it mended or could not read."""
    from astropy.utils.exceptions import AstropyWarning

    # No context manager: those are not for threads. The same filter again replaces itself.
    warnings.simplefilter("ignore", AstropyWarning)


def card(header: Any, keyword: str, default: Any = "") -> Any:
    """A keyword's value; the default if there is none, or none that can be understood.

    Parameters
    ----------
    header : astropy.io.fits.Header or PlainHeader
    keyword : str
    default : object
    """
    if isinstance(header, PlainHeader):
        return header.get(keyword, default)
    from astropy.io.fits.card import Undefined

    try:
        value = header.get(keyword, default)
    # VerifyError for `SKYBKG = nan`, ValueError for numbers that are none.
    except Exception:
        return default
    return default if isinstance(value, Undefined) else value


def has_sky(header: Any) -> bool:
    """Whether a header has a WCS by its first axis."""
    return str(card(header, "CTYPE1")).strip() != ""


def sky_cards(header: Any) -> Any:
    """The cards of a header that say where its pixels are on the sky, without those that are no values.

    Parameters
    ----------
    header : astropy.io.fits.Header

    Returns
    -------
    astropy.io.fits.Header
    """
    from astropy.io.fits import Header

    kept = Header()
    for keyword in dict.fromkeys(header):
        value = card(header, keyword, None) if WCS_KEYWORD.fullmatch(keyword) else None
        if value is not None:
            kept[keyword] = value
    return kept


def celestial_wcs(cards: Any) -> Any:
    """The celestial part of a WCS, with astropy's own mends of what is not to the letter; None without one.

    Parameters
    ----------
    cards : astropy.io.fits.Header
        From `sky_cards`.

    Returns
    -------
    astropy.wcs.WCS or None

    Raises
    ------
    Exception
        Of many kinds, if the cards contradict each other.
    """
    from astropy.wcs import WCS

    quiet_astropy()
    wcs = WCS(cards)
    return wcs.celestial if wcs.has_celestial else None


def scale_of(wcs: Any) -> float:
    """The pixel scale of a celestial WCS, arcsec/pixel."""
    from astropy.wcs.utils import proj_plane_pixel_scales

    return float(np.sqrt(np.prod(proj_plane_pixel_scales(wcs)))) * 3600.0


def sky_of(header: Any, shape: tuple[int, ...]) -> tuple[float | None, tuple[float, float] | None]:
    """Pixel scale and position of an image, from the celestial part of its WCS if there is one.

    Parameters
    ----------
    header : astropy.io.fits.Header or PlainHeader
    shape : tuple of int
        Rows and columns of the image.

    Returns
    -------
    scale : float or None
        arcsec/pixel.
    position : tuple of float or None
        Right ascension, 0 <= ra < 360, and declination of the center, degrees.
    """
    if not has_sky(header):
        return None, None
    if isinstance(header, PlainHeader):
        plain = tangential_sky(header, shape)
        if plain is not None:
            return plain
        header = header.astropy()
    try:
        wcs = celestial_wcs(sky_cards(header))
        if wcs is None:
            return None, None
        scale = scale_of(wcs)
        center = [float(x) for x in wcs.wcs_pix2world((shape[1] - 1) / 2, (shape[0] - 1) / 2, 0)]
    # A header with half a WCS, or one of nonsense.
    except Exception:
        return None, None
    ra, dec = center[wcs.wcs.lng], center[wcs.wcs.lat]
    equatorial = wcs.wcs.lngtyp.strip() == "RA" and math.isfinite(ra) and math.isfinite(dec)
    position = (ra % 360.0 % 360.0, dec) if equatorial else None
    return (scale if math.isfinite(scale) and scale > 0 else None), position
