"""From encoded bytes to an RGB image, whatever the bytes are: hostile ones cost a status, never the process.

What becomes of the odd but whole: 16 bits a channel are divided by 256, gray and color alike; what is
transparent lies over black, as the sky does; CMYK is converted; of an animation the first frame is taken;
an EXIF orientation is not applied, in training as at prediction: the pixels mean what the survey wrote, and
a galaxy has no up.
"""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from hiwl_core.fits_cutouts import is_fits, rgb_from_fits
from hiwl_core.recipe import RgbSettings
from hiwl_core.statuses import MAX_PIXELS, TOO_LARGE, UNDECODABLE, UnreadableCutout

__all__ = ["DEFAULT_RGB", "Cutout", "Decoded", "decode_cutout", "decode_image"]

MAX_BYTES = 128 * 2**20
FORMATS = ("JPEG", "PNG")
DEFAULT_RGB = RgbSettings()


class Decoded(NamedTuple):
    """An RGB image, and its pixel scale in arcsec where the file itself says it."""

    image: Image.Image
    pixel_scale: float | None


class Cutout(NamedTuple):
    """An encoded cutout that is to be seen at a given pixel scale.

    Parameters
    ----------
    image : bytes or None
    pixel_scale : float or None
        The image's own, arcsec/pixel; None if unknown, unless a FITS image's WCS says it.
    wanted_scale : float or None
        The scale at which the model is to see it, arcsec/pixel; None: as it is. NaN: wanted, but unknown.
    """

    image: bytes | None
    pixel_scale: float | None = None
    wanted_scale: float | None = None


def decode_cutout(encoded: bytes, rgb: RgbSettings = DEFAULT_RGB) -> Image.Image:
    """Decode a JPEG, PNG or FITS image to RGB; see `decode_image`."""
    return decode_image(encoded, rgb).image


def decode_image(encoded: bytes, rgb: RgbSettings = DEFAULT_RGB) -> Decoded:
    """Decode a JPEG, PNG or FITS image to RGB.

    Parameters
    ----------
    encoded : bytes
    rgb : RgbSettings
        Colors of FITS images.

    Raises
    ------
    UnreadableCutout
        A ValueError with a status: ``undecodable``, ``too_large`` (by its header, before any pixel is
        decoded), and for FITS ``missing_band`` or ``bad_pixels``.
    """
    if not isinstance(encoded, bytes | bytearray | memoryview):
        raise UnreadableCutout(UNDECODABLE, f"{type(encoded).__name__} instead of bytes")
    if len(encoded) > MAX_BYTES:
        raise UnreadableCutout(TOO_LARGE, f"a file of {len(encoded) / 2**20:.0f} MB")
    if is_fits(encoded):
        sky = rgb_from_fits(bytes(encoded), rgb)
        return Decoded(sky.image, sky.pixel_scale)
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableCutout(TOO_LARGE, f"{image.width} x {image.height} pixels")
            return Decoded(_as_rgb(image), None)
    except UnreadableCutout:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableCutout(TOO_LARGE, str(error)) from None
    # Pillow raises many kinds for broken files, SyntaxError and struct.error among them.
    except Exception as error:
        raise UnreadableCutout(UNDECODABLE, " ".join(str(error).split()) or type(error).__name__) from None


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        # What `convert` would do, without its copy.
        image.load()
        return image
    if image.mode.startswith("I"):
        # Gray of 16 bits, which Pillow would clip; of 16-bit colors it takes the upper byte by itself.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layered.size, (0, 0, 0, 255)), layered).convert("RGB")
    return image.convert("RGB")
