"""From the encoded bytes of a cutout to pixels: decoding and the eval transform.

The train transform is `hiwl_core.augmentation`'s. Images stay uint8 until they are on the device that runs
the network; `normalize` does the rest there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from hiwl_core.decoding import DEFAULT_RGB, Cutout, Scratch, decode_pixels
from hiwl_core.recipe_sections import RgbSettings
from hiwl_core.resampling import resample_center, zoom_to
from hiwl_core.statuses import BAD_PIXELS, MISSING, OK, TOO_SMALL, UnreadableCutout
from hiwl_core.unobserved import MAX_UNOBSERVED_SHARE, seen_share

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "EvalTransform",
    "Preprocessing",
    "ReadCutout",
    "center_crop",
    "normalize",
    "read_cutout",
    "seen_pixels",
]


FILTER_PIXELS = 3
"""Beyond each side of what is resampled: the two that a bicubic filter takes in, and one for rounding."""


@dataclass(frozen=True)
class Preprocessing:
    """What a stage does to a cutout at prediction, kept in the bundle.

    Parameters
    ----------
    center_crop : int
        Central pixels kept.
    input_size : int
        Pixels on a side after scaling.
    mean, std : tuple of float
        Normalization of the RGB channels, in units of full scale.
    """

    center_crop: int
    input_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a bundle's JSON."""
        return {
            "center_crop": self.center_crop,
            "input_size": self.input_size,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Preprocessing:
        """The preprocessing that `to_dict` described."""
        return cls(data["center_crop"], data["input_size"], tuple(data["mean"]), tuple(data["std"]))


def center_crop(pixels: np.ndarray, side: int) -> np.ndarray:
    """The central square of an image, as torchvision's CenterCrop takes it; what is missing is black.

    Parameters
    ----------
    pixels : numpy.ndarray, shape (H, W, C)
    side : int

    Returns
    -------
    numpy.ndarray, shape (side, side, C)
        A view, unless something was missing.
    """
    missing = [max(0, side - length) for length in pixels.shape[:2]]
    if any(missing):
        pixels = np.pad(pixels, [*((few // 2, (few + 1) // 2) for few in missing), (0, 0)])
    # Rounded to even where a pixel has to go to one side, as torchvision rounds.
    top, left = (round((length - side) / 2) for length in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]


class EvalTransform:
    """The deterministic transform of validation and prediction: central crop, scaled to the input size.

    Scaling is bilinear with antialiasing, by PyTorch on uint8: within one level of what Pillow makes, in a
    quarter of the time.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing

    def __call__(self, image: Image.Image | np.ndarray) -> np.ndarray:
        """Transform one image, uint8 of shape (H, W, 3), to shape (input_size, input_size, 3).

        The result may be a view of the image.
        """
        size, crop = self.preprocessing.input_size, self.preprocessing.center_crop
        pixels = center_crop(np.asarray(image), crop)
        if size == crop:
            return pixels
        # Here, since it takes a second, which who only looks whether an image can be read need not wait for.
        import torch
        from torch.nn.functional import interpolate

        # Channels last in memory, for which PyTorch has vector instructions.
        batch = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None]
        scaled = interpolate(batch, (size, size), mode="bilinear", antialias=True)
        return scaled[0].permute(1, 2, 0).numpy()

    def resampled(self, image: Image.Image | np.ndarray, zoom: float) -> np.ndarray:
        """As a call, of the image as it would be with `zoom` of its pixels in one; in a single step."""
        size, crop = self.preprocessing.input_size, self.preprocessing.center_crop
        whole = image if isinstance(image, Image.Image) else Image.fromarray(image)
        return np.asarray(resample_center(whole, crop * zoom, size, crop))

    def reach(self, zoom: float | None) -> float:
        """Pixels of an image, on a side, of which the result is made; at a zoom with those of the filter."""
        size, crop = self.preprocessing.input_size, self.preprocessing.center_crop
        if zoom is None:
            return crop
        return crop * zoom + 2 * FILTER_PIXELS * max(1.0, crop * zoom / size)


class ReadCutout(NamedTuple):
    """What became of a cutout.

    Parameters
    ----------
    status : str
        A key of `STATUSES`.
    pixels : tuple of numpy.ndarray, or None
        For each transform, uint8 of shape (input_size, input_size, 3).
    zoom : float
        Pixels of the image in one of those that it was resampled to: below 1 it was magnified, and shows
        nothing finer than it did; 1 if it was not resampled.
    unobserved : float
        Share of pixels, in the part that the network sees, that a FITS image does not have.
    """

    status: str
    pixels: Any = None
    zoom: float = 1.0
    unobserved: float = 0.0


def read_cutout(
    cutout: bytes | Cutout | None,
    transforms: Sequence[EvalTransform],
    smallest: int,
    rgb: RgbSettings = DEFAULT_RGB,
    scratch: Scratch | None = None,
) -> ReadCutout:
    """Decode and transform one cutout, or say why not. Whatever the bytes are, it answers and does not raise.

    Parameters
    ----------
    cutout : bytes, Cutout or None
        An encoded JPEG, PNG or FITS image; with a wanted scale it is resampled about its center.
    transforms : sequence of EvalTransform
        One for each different preprocessing; the image is decoded once.
    smallest : int
        Pixels that the shorter side must have, at the wanted scale if there is one.
    rgb : RgbSettings
        Colors of FITS images.
    scratch : Scratch, optional
        Where to decode; the pixels may then lie in it.

    Returns
    -------
    ReadCutout
    """
    cutout = cutout if isinstance(cutout, Cutout) else Cutout(cutout)
    if cutout.image is None:
        return ReadCutout(MISSING)
    try:
        decoded = decode_pixels(cutout.image, rgb, scratch, partial(_side, cutout, transforms, smallest))
        image = decoded.pixels
        zoom = 1.0 if cutout.wanted_scale is None else _zoom(cutout, decoded.pixel_scale)
        if min(image.shape[:2]) < smallest * zoom:
            return ReadCutout(TOO_SMALL)
        unobserved = 0.0
        if decoded.unobserved is not None:
            crops = [transform.preprocessing.center_crop for transform in transforms] or [smallest]
            unobserved = max(seen_share(decoded.unobserved, crop * zoom) for crop in crops)
        if unobserved >= MAX_UNOBSERVED_SHARE:
            return ReadCutout(BAD_PIXELS)
        if cutout.wanted_scale is None:
            pixels = tuple(transform(image) for transform in transforms)
        else:
            pixels = tuple(transform.resampled(image, zoom) for transform in transforms)
        return ReadCutout(OK, pixels, zoom, unobserved)
    except UnreadableCutout as error:
        return ReadCutout(error.status)


def _zoom(cutout: Cutout, own: float | None) -> float:
    """Pixels of a cutout in one at its wanted scale; its own is what its file says, if nothing else does."""
    wanted = math.nan if cutout.wanted_scale is None else cutout.wanted_scale
    return zoom_to(wanted, own if cutout.pixel_scale is None else cutout.pixel_scale)


def _side(
    cutout: Cutout, transforms: Sequence[EvalTransform], smallest: int, own: float | None
) -> float | None:
    """What is looked at of a cutout; see `hiwl_core.fits_cutouts.Seen`."""
    zoom = None
    if cutout.wanted_scale is not None:
        try:
            zoom = _zoom(cutout, own)
        except UnreadableCutout:
            return None
    return max([smallest * (zoom or 1.0), *(transform.reach(zoom) for transform in transforms)])


def seen_pixels(
    cutout: bytes | Cutout,
    transforms: Sequence[EvalTransform],
    rgb: RgbSettings = DEFAULT_RGB,
    scratch: Scratch | None = None,
) -> list[np.ndarray]:
    """What networks see of a cutout of which it is known that it can be read: the pixels of `read_cutout`.

    Raises
    ------
    UnreadableCutout
        If it cannot.
    """
    cutout = cutout if isinstance(cutout, Cutout) else Cutout(cutout)
    if cutout.image is None:
        raise UnreadableCutout(MISSING, "no image")
    decoded = decode_pixels(cutout.image, rgb, scratch, partial(_side, cutout, transforms, 1))
    if cutout.wanted_scale is None:
        return [transform(decoded.pixels) for transform in transforms]
    zoom = _zoom(cutout, decoded.pixel_scale)
    return [transform.resampled(decoded.pixels, zoom) for transform in transforms]


def normalize(pixels: Tensor, mean: tuple[float, ...] | Tensor, std: tuple[float, ...] | Tensor) -> Tensor:
    """Network input from pixels, step (6) of the transforms.

    Parameters
    ----------
    pixels : Tensor of uint8, shape (N, H, W, 3)
    mean, std : tuple of float, or Tensor of float32 on the device of `pixels`
        For each channel, in units of full scale (255). Numbers are copied to a GPU in each call, which waits
        for it.

    Returns
    -------
    Tensor of float32, shape (N, 3, H, W), channels last in memory
    """
    import torch

    scale = torch.as_tensor(std, device=pixels.device) * 255.0
    shift = torch.as_tensor(mean, device=pixels.device) * 255.0
    # A permuted (N, H, W, 3) tensor is what "channels last" means: no copy is needed.
    return ((pixels.float() - shift) / scale).permute(0, 3, 1, 2)
