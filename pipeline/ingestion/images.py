"""An image as a shard will hold it, or why it cannot: checked by the very code that `classify` decodes with.

JPEG and PNG stay as they are. So does a FITS file, which `classify` makes colors of by the model's own
``[rgb]`` settings; with a recipe it becomes a PNG here. The files of a set, one a band, always become one.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from typing import NamedTuple

from PIL import Image

from hiwl_core.compressed import MAX_BYTES, is_packed, unpacked
from hiwl_core.decoding import DEFAULT_RGB, NO_PICTURE, decode_image
from hiwl_core.fits_cutouts import SkyImage, fits_position, is_fits, rgb_from_bands, rgb_from_fits
from hiwl_core.image_formats import SIGNATURES
from hiwl_core.recipe_sections import RgbSettings
from hiwl_core.statuses import BAD_PIXELS, MISSING_BAND, UNDECODABLE, UnreadableCutout
from hiwl_core.unobserved import MAX_UNOBSERVED_SHARE

__all__ = ["PackedImage", "pack_bands", "pack_image"]


class PackedImage(NamedTuple):
    """An encoded image and where it is on the sky, as far as its headers say; or a problem.

    Parameters
    ----------
    content : bytes or None
    problem : str or None
        Why it cannot be used, for ``rejects.csv``.
    ra, dec : float or None
        Degrees.
    pixel_scale : float or None
        arcsec/pixel.
    """

    content: bytes | None
    problem: str | None = None
    ra: float | None = None
    dec: float | None = None
    pixel_scale: float | None = None


def pack_image(content: bytes | None, rgb: RgbSettings | None = None) -> PackedImage:
    """Check an image to its last row, and read what a FITS header says of the sky.

    Parameters
    ----------
    content : bytes or None
        JPEG, PNG or FITS; None where there is none.
    rgb : RgbSettings, optional
        Colors that a FITS image is to have; without them it stays FITS.
    """
    if content is None:
        return PackedImage(None, "null image")
    if not content:
        return PackedImage(None, "empty file")
    try:
        opened = content if len(content) > MAX_BYTES else unpacked(content)
        if not is_fits(opened) or len(content) > MAX_BYTES:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                decode_image(opened)
            return PackedImage(content)
        sky = rgb_from_fits(opened, rgb or DEFAULT_RGB)
    except UnreadableCutout as error:
        if error.status == MISSING_BAND and rgb is None:
            # Which bands are wanted is for the model to say: this file may be right for it.
            return PackedImage(content, None, *(fits_position(opened) or (None, None)))
        return PackedImage(None, _reason(error, content))
    if rgb is not None and (problem := _unobserved(sky)):
        return PackedImage(None, problem)
    return PackedImage(content if rgb is None else _png(sky), None, sky.ra, sky.dec, sky.pixel_scale)


def pack_bands(contents: Mapping[str, bytes], rgb: RgbSettings) -> PackedImage:
    """One RGB image from the FITS files of an object, one a band.

    Parameters
    ----------
    contents : mapping of str to bytes
        By band.
    rgb : RgbSettings
    """
    try:
        sky = rgb_from_bands(contents, rgb)
    except UnreadableCutout as error:
        return PackedImage(None, str(error))
    if problem := _unobserved(sky):
        return PackedImage(None, problem)
    return PackedImage(_png(sky), None, sky.ra, sky.dec, sky.pixel_scale)


def _unobserved(sky: SkyImage) -> str | None:
    """Why an image is not to become a PNG, which cannot say what of it was not observed."""
    share = 0.0 if sky.unobserved is None else float(sky.unobserved.mean())
    return (
        f"{BAD_PIXELS}: {share:.1%} of the pixels were not observed"
        if share >= MAX_UNOBSERVED_SHARE
        else None
    )


def _png(sky: SkyImage) -> bytes:
    buffer = io.BytesIO()
    sky.image.save(buffer, "PNG")
    return buffer.getvalue()


def _reason(error: UnreadableCutout, content: bytes) -> str:
    if error.status != UNDECODABLE or is_fits(content) or is_packed(content):
        return str(error)
    if "truncated" in error.words.lower():
        return "truncated"
    if error.words == NO_PICTURE:
        return "broken header" if content.startswith(SIGNATURES) else "not a JPEG, PNG or FITS image"
    return str(error)
