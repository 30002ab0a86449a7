"""The train transform: what is random about a training image, drawn from a seed, and the image that it makes.

Drawing is apart from applying, so that a draw can be looked at, and given to another implementation to
compare. Applying is the most of what a training image costs, so it is done on arrays in few passes: the
rotation reads only the pixels that the random crop keeps, and the flips are views.
"""

from __future__ import annotations

import cmath
import math
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import grid_sample, interpolate

from hiwl_core.cutouts import center_crop
from hiwl_core.recipe_sections import Augmentation

__all__ = ["Draw", "TrainTransform"]

CROP_TRIES = 10


class Draw(NamedTuple):
    """What is random about one training image.

    Parameters
    ----------
    angle : float
        Of the rotation, degrees counterclockwise.
    top, left, height, width : int
        The random crop, in pixels of the center crop.
    horizontal_flip, vertical_flip : bool
    """

    angle: float
    top: int
    left: int
    height: int
    width: int
    horizontal_flip: bool
    vertical_flip: bool


class TrainTransform:
    """The paper's train transform, steps (1) to (5); `hiwl_core.cutouts.normalize` is step (6).

    (1) center crop, (2) random rotation, (3) random resized crop, (4) horizontal and (5) vertical flip
    (Ma et al. 2023, MNRAS 519, 4765). The steps are torchvision's CenterCrop, RandomRotation,
    RandomResizedCrop (bilinear, antialiased), RandomHorizontalFlip and RandomVerticalFlip: drawn from the
    same distributions, and to within a gray level the same pixels.

    Parameters
    ----------
    augmentation : Augmentation
    input_size : int
        Pixels on a side of the result.
    """

    def __init__(self, augmentation: Augmentation, input_size: int) -> None:
        self.augmentation, self.input_size = augmentation, input_size

    def __call__(self, image: Image.Image | np.ndarray, seed: int) -> np.ndarray:
        """Transform one RGB image to uint8 of shape (input_size, input_size, 3), the same for the same seed.

        Parameters
        ----------
        image : PIL.Image.Image, or numpy.ndarray of uint8, shape (H, W, 3)
        seed : int
            Not negative. Each is another draw.
        """
        return self.apply(image, self.draw(seed))

    def draw(self, seed: int) -> Draw:
        """What is random, as a function of the seed alone."""
        settings, generator = self.augmentation, np.random.default_rng(seed)
        angle = generator.uniform(-settings.rotation, settings.rotation)
        crop = self._draw_crop(generator)
        horizontal, vertical = generator.random(2).tolist()
        return Draw(angle, *crop, horizontal < settings.horizontal_flip, vertical < settings.vertical_flip)

    def apply(self, image: Image.Image | np.ndarray, draw: Draw) -> np.ndarray:
        """Steps (1) to (5) with what was drawn."""
        pixels = center_crop(np.asarray(image), self.augmentation.center_crop)
        if draw.angle:
            planes = _rotated_crop(pixels, draw, self.augmentation.rotation_interpolation)
        else:
            rows, columns = slice(draw.top, draw.top + draw.height), slice(draw.left, draw.left + draw.width)
            # A copy, since a decoder's array may be read-only; its channels stay together, as resizing likes.
            planes = torch.from_numpy(pixels[rows, columns].copy()).permute(2, 0, 1)[None]
        size = (self.input_size, self.input_size)
        resized = interpolate(planes, size, mode="bilinear", antialias=True)[0].permute(1, 2, 0).numpy()
        return resized[:: -1 if draw.vertical_flip else 1, :: -1 if draw.horizontal_flip else 1]

    def _draw_crop(self, generator: np.random.Generator) -> tuple[int, int, int, int]:
        """Top, left, height and width, as RandomResizedCrop draws them."""
        side, (narrow, wide) = self.augmentation.center_crop, self.augmentation.aspect_ratio
        for _ in range(CROP_TRIES):
            area = side * side * generator.uniform(*self.augmentation.scale)
            ratio = math.exp(generator.uniform(math.log(narrow), math.log(wide)))
            width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < width <= side and 0 < height <= side:
                top, left = generator.integers(side - height + 1), generator.integers(side - width + 1)
                return int(top), int(left), height, width
        # Nothing fitted: the largest central crop whose shape is allowed.
        width, height = min(side, round(side * wide)), min(side, round(side / narrow))
        return (side - height) // 2, (side - width) // 2, height, width


def _rotated_crop(pixels: np.ndarray, draw: Draw, interpolation: str) -> torch.Tensor:
    """A part of the rotated image, of uint8 and shape (1, 3, height, width); no other pixel is computed."""
    side = len(pixels)
    # Half a level more, so that cutting off the fraction at the end is rounding.
    source = torch.from_numpy(np.add(pixels, 0.5, dtype=np.float32)).permute(2, 0, 1)[None]
    # Where each pixel comes from: complex numbers turn in one multiplication, and lie in memory as (x, y).
    turn = cmath.rect(1.0, math.radians(draw.angle))
    places = (np.arange(side) + 0.5) * (2 / side) - 1
    across = (places[draw.left : draw.left + draw.width] * turn).astype(np.complex64)
    down = (places[draw.top : draw.top + draw.height] * (turn * 1j)).astype(np.complex64)
    grid: np.ndarray[Any, np.dtype[np.float32]] = np.add.outer(down, across).view(np.float32)
    grid = grid.reshape(1, draw.height, draw.width, 2)
    rotated = grid_sample(source, torch.from_numpy(grid), mode=interpolation, align_corners=False)
    # NumPy converts to bytes several times faster than torch.
    return torch.from_numpy(rotated.numpy().astype(np.uint8))
