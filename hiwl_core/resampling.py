"""Resampling to another pixel scale: the model sees a galaxy at the scale at which it learned galaxies.

Galaxy Zoo's images have 0.02 x petroR90 arcsec a pixel, so each galaxy fills much the same part of its own;
a survey's cutouts have one scale for all of them.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from hiwl_core.statuses import MAX_PIXELS, NO_SCALE, TOO_LARGE, UnreadableCutout

__all__ = ["resample_center", "resample_planes", "resample_whole", "zoom_to"]


def zoom_to(wanted_scale: float, pixel_scale: float | None) -> float:
    """Pixels of an image that become one pixel at the wanted scale.

    Parameters
    ----------
    wanted_scale : float
        arcsec/pixel.
    pixel_scale : float or None
        The image's own, arcsec/pixel.

    Raises
    ------
    UnreadableCutout
        With the status ``no_scale``, if one of them is unknown, not finite or not positive.
    """
    if pixel_scale is None:
        raise UnreadableCutout(NO_SCALE, "the image's pixel scale is not known")
    for name, scale in (("wanted", wanted_scale), ("image's", pixel_scale)):
        if not (math.isfinite(scale) and scale > 0):
            raise UnreadableCutout(NO_SCALE, f"the {name} pixel scale is {scale} arcsec")
    zoom = wanted_scale / pixel_scale
    if not 0 < zoom < math.inf:
        raise UnreadableCutout(NO_SCALE, f"pixel scales of {wanted_scale} and {pixel_scale} arcsec")
    return zoom


def resample_center(image: Image.Image, side: float, size: int, crop: int) -> Image.Image:
    """The central square of an image, scaled in one step to what a crop and a resize would make of it.

    Parameters
    ----------
    image : PIL.Image.Image
    side : float
        Of the square, in pixels of the image, which need not be whole; at most the image's shorter side.
    size : int
        Pixels on a side of the result.
    crop : int
        Pixels on a side of the square at the wanted scale, of which `size` are made.

    Raises
    ------
    UnreadableCutout
        With the status ``no_scale``, if the square is less than a pixel: such a scale is a mistake.
    """
    if side < 1:
        raise UnreadableCutout(NO_SCALE, f"at the wanted scale the model would see {side:.2g} pixels")
    left, top = (image.width - side) / 2, (image.height - side) / 2
    # Rounding must not lead out of the image, which Pillow refuses.
    box = (max(left, 0.0), max(top, 0.0), min(left + side, image.width), min(top + side, image.height))
    # The filter of the eval transform's resize; where that has none, the sharper one keeps more of the image.
    filter_ = Image.Resampling.BICUBIC if size == crop else Image.Resampling.BILINEAR
    return image.resize((size, size), filter_, box=box)


def resample_whole(image: Image.Image, zoom: float) -> Image.Image:
    """An image at another scale, about its center.

    Parameters
    ----------
    image : PIL.Image.Image
    zoom : float
        Its pixels in one of the result's.

    Raises
    ------
    UnreadableCutout
        With the status ``no_scale`` if less than a pixel is left, and ``too_large`` if there are too many.
    """
    width, height = (int(length / zoom) for length in image.size)
    if min(width, height) < 1:
        raise UnreadableCutout(NO_SCALE, f"at the wanted scale the image is {width} x {height} pixels")
    if width * height > MAX_PIXELS:
        raise UnreadableCutout(TOO_LARGE, f"{width} x {height} pixels at the wanted scale")
    left, top = (image.width - width * zoom) / 2, (image.height - height * zoom) / 2
    box = (
        max(left, 0.0),
        max(top, 0.0),
        min(left + width * zoom, image.width),
        min(top + height * zoom, image.height),
    )
    # What the network sees is scaled down once more.
    return image.resize((width, height), Image.Resampling.BICUBIC, box=box)


def resample_planes(
    planes: np.ndarray, center: tuple[float, float], zoom: float, size: int, sharp: bool = True
) -> np.ndarray:
    """A square about a place between the pixels, of planes of numbers of any size, at another scale.

    What Pillow's `resize` of mode F makes of each, in a third of the time: the same filters (Keys 1981, IEEE
    Trans. ASSP 29, 1153, with a = -1/2), spread over `zoom` pixels, as a sparse matrix for each axis.

    Parameters
    ----------
    planes : numpy.ndarray, shape (band, H, W)
        Numbers that are finite, or bool.
    center : tuple of float
        x and y of the square's center, in pixels from the center of the first.
    zoom : float
        Pixels of the planes in one of the result's.
    size : int
        Pixels on a side of the result.
    sharp : bool
        Bicubic; else bilinear, which has no negative weights.

    Returns
    -------
    numpy.ndarray of float32, shape (band, size, size)
    """
    # Here, since cutouts that are not cut from tiles do without.
    from scipy.sparse import csr_array

    bands, height, width = planes.shape
    weights, taps = _weights(np.array(center), zoom, size, sharp)
    weights[(taps < 0) | (taps >= np.array([width, height])[:, None, None])] = 0
    weights /= weights.sum(axis=2, keepdims=True)
    starts = np.arange(0, taps[0].size + 1, taps.shape[2], dtype=np.int32)
    across, along = (
        csr_array((weights[axis].ravel(), taps[axis].clip(0, length - 1).ravel(), starts), (size, length))
        for axis, length in enumerate((width, height))
    )
    rows = planes.astype(np.float32, copy=False).transpose(1, 0, 2).reshape(height, -1)
    narrow = (along @ rows).reshape(size, bands, width)
    columns = np.ascontiguousarray(narrow.transpose(2, 1, 0)).reshape(width, -1)
    return np.ascontiguousarray((across @ columns).reshape(size, bands, size).transpose(1, 2, 0))


def _weights(center: np.ndarray, zoom: float, size: int, sharp: bool) -> tuple[np.ndarray, np.ndarray]:
    """For each axis and each pixel along it the pixels that it is made of and their shares, not normalized.

    Returns
    -------
    weights : numpy.ndarray of float32, shape (2, size, taps)
    taps : numpy.ndarray of int32, shape (2, size, taps)
    """
    spread = max(zoom, 1.0)
    reach = (2.0 if sharp else 1.0) * spread
    middles = center[:, None] + (np.arange(size) - (size - 1) / 2) * zoom
    count = math.floor(2 * reach) + 1
    taps = np.ceil(middles - reach).astype(np.int32)[..., None] + np.arange(count, dtype=np.int32)
    x = (np.abs(taps - middles[..., None]) / spread).astype(np.float32)
    if not sharp:
        return np.maximum(1 - x, 0), taps
    far = np.where(x < 2, ((-0.5 * x + 2.5) * x - 4) * x + 2, np.float32(0))
    return np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, far), taps
