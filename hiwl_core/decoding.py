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
import simplejpeg
from PIL import Image, UnidentifiedImageError

from hiwl_core.compressed import MAX_BYTES, is_packed, unpacked
from hiwl_core.errors import words_of
from hiwl_core.fits_cutouts import Seen, is_fits, rgb_from_fits
from hiwl_core.image_formats import PICTURE_FORMATS
from hiwl_core.recipe_sections import RgbSettings
from hiwl_core.resampling import resample_whole, zoom_to
from hiwl_core.statuses import MAX_PIXELS, MISSING, TOO_LARGE, UNDECODABLE, UnreadableCutout

__all__ = [
    "DEFAULT_RGB",
    "Cutout",
    "Decoded",
    "DecodedPixels",
    "Scratch",
    "decode_image",
    "decode_pixels",
]

FORMATS = tuple(one.name for one in PICTURE_FORMATS)
# Instead of Pillow's words, which have an address in memory, another one each time.
NO_PICTURE = f"neither a {' nor a '.join(FORMATS)} file"
JPEG = PICTURE_FORMATS[0].signature
# Memory of one large image is given back.
KEPT_BYTES = 16 * 2**20
# What JPEG files of cameras and surveys have; CMYK and the odd are left to Pillow.
JPEG_COLORS = ("YCbCr", "Gray")
DEFAULT_RGB = RgbSettings()


class Decoded(NamedTuple):
    """An RGB image, and what the file itself says of it.

    Parameters
    ----------
    image : PIL.Image.Image
    pixel_scale : float or None
        arcsec/pixel.
    unobserved : numpy.ndarray of bool, shape (H, W), or None
        Pixels of a FITS image that were not observed, if there are any; see `hiwl_core.unobserved`.
    """

    image: Image.Image
    pixel_scale: float | None
    unobserved: np.ndarray | None = None


class DecodedPixels(NamedTuple):
    """As `Decoded`, with the pixels as an array: uint8, shape (H, W, 3)."""

    pixels: np.ndarray
    pixel_scale: float | None
    unobserved: np.ndarray | None = None


class Scratch:
    """Memory that a thread decodes into again and again: fresh pages cost a fifth of the time of a decode."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def array(self, height: int, width: int) -> np.ndarray:
        """An array of uint8, shape (height, width, 3), over what the last one held."""
        size = height * width * 3
        if size > KEPT_BYTES:
            return np.empty((height, width, 3), np.uint8)
        if self._memory.size < size:
            self._memory = np.empty(size, np.uint8)
        return self._memory[:size].reshape(height, width, 3)


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


def decode_pixels(
    encoded: bytes | Cutout,
    rgb: RgbSettings = DEFAULT_RGB,
    scratch: Scratch | None = None,
    seen: Seen | None = None,
) -> DecodedPixels:
    """As `decode_image`, pixel for pixel, but to an array, and faster for JPEG and FITS.

    Parameters
    ----------
    encoded : bytes or Cutout
        A cutout with a wanted scale comes resampled to it, as a whole.
    rgb : RgbSettings
        Colors of FITS images.
    scratch : Scratch, optional
        Where the pixels may be put; they are good until its next use.
    seen : Seen, optional
        What of a FITS image is looked at: the rest need not be there. None for a cutout with a wanted scale.

    Raises
    ------
    UnreadableCutout
        As `decode_image`.
    """
    if isinstance(encoded, Cutout):
        return _at_wanted_scale(encoded, rgb, scratch)
    if isinstance(encoded, bytes) and encoded.startswith(JPEG) and len(encoded) <= MAX_BYTES:
        pixels = _decode_jpeg(encoded, scratch or Scratch())
        if pixels is not None:
            return DecodedPixels(pixels, None)
    encoded = _checked(encoded)
    if is_fits(encoded):
        sky = rgb_from_fits(encoded, rgb, seen)
        return DecodedPixels(sky.pixels, sky.pixel_scale, sky.unobserved)
    return DecodedPixels(np.asarray(_decode_picture(encoded)), None)


def _at_wanted_scale(cutout: Cutout, rgb: RgbSettings, scratch: Scratch | None) -> DecodedPixels:
    if cutout.image is None:
        raise UnreadableCutout(MISSING, "no image")
    decoded = decode_pixels(cutout.image, rgb, scratch)
    if cutout.wanted_scale is None:
        return decoded
    own = decoded.pixel_scale if cutout.pixel_scale is None else cutout.pixel_scale
    whole = resample_whole(Image.fromarray(decoded.pixels), zoom_to(cutout.wanted_scale, own))
    return DecodedPixels(np.asarray(whole), cutout.wanted_scale)


def _decode_jpeg(encoded: bytes, scratch: Scratch) -> np.ndarray | None:
    """An everyday JPEG by libjpeg-turbo; None for what is odd or broken, of which Pillow says what it is."""
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(encoded)
        if colors not in JPEG_COLORS or height * width > MAX_PIXELS:
            return None
        return simplejpeg.decode_jpeg(encoded, "RGB", buffer=scratch.array(height, width))
    except ValueError:
        return None


def decode_image(encoded: bytes, rgb: RgbSettings = DEFAULT_RGB) -> Decoded:
    """Decode a JPEG, PNG or FITS image to RGB; packed by gzip or bzip2 it is unpacked first.

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
    encoded = _checked(encoded)
    if is_fits(encoded):
        sky = rgb_from_fits(encoded, rgb)
        return Decoded(sky.image, sky.pixel_scale, sky.unobserved)
    return Decoded(_decode_picture(encoded), None)


def _checked(encoded: bytes) -> bytes:
    """The bytes of an image, unpacked, none of them more than allowed."""
    if not isinstance(encoded, bytes | bytearray | memoryview):
        raise UnreadableCutout(UNDECODABLE, f"{type(encoded).__name__} instead of bytes")
    if len(encoded) > MAX_BYTES:
        raise UnreadableCutout(TOO_LARGE, f"a file of {len(encoded) / 2**20:.0f} MB")
    content = bytes(encoded)
    return unpacked(content) if is_packed(content[:3]) else content


def _decode_picture(encoded: bytes) -> Image.Image:
    """A JPEG or PNG, by Pillow."""
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableCutout(TOO_LARGE, f"{image.width} x {image.height} pixels")
            return _as_rgb(image)
    except UnreadableCutout:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableCutout(TOO_LARGE, str(error)) from None
    except UnidentifiedImageError:
        raise UnreadableCutout(UNDECODABLE, NO_PICTURE) from None
    # Pillow raises many kinds for broken files, SyntaxError and struct.error among them.
    except Exception as error:
        raise UnreadableCutout(UNDECODABLE, words_of(error)) from None


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
