"""A galaxy on its way through the train transform, as in Figure 4 of Ma et al. (2023, MNRAS 519, 4765)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from hiwl_core.augmentation import Draw, TrainTransform
from hiwl_core.cutouts import Preprocessing, normalize
from hiwl_core.decoding import DEFAULT_RGB, Cutout, decode_pixels
from hiwl_core.errors import UserError
from hiwl_core.figures.style import GRAY, bare, in_style
from hiwl_core.recipe_sections import Augmentation, RgbSettings
from hiwl_core.statuses import UnreadableCutout

__all__ = ["draw_augmentation_steps"]

TILE = 1.55
TRIES = 64


class Step(NamedTuple):
    """An image on its way, and what was done to it last."""

    name: str
    words: str
    image: np.ndarray


@in_style
def draw_augmentation_steps(
    image: bytes | Cutout,
    augmentation: Augmentation,
    preprocessing: Preprocessing,
    seed: int = 0,
    title: str = "",
    rgb: RgbSettings = DEFAULT_RGB,
) -> Figure:
    """The steps one by one, and below them what other draws make of the same galaxy.

    Parameters
    ----------
    image : bytes or Cutout
        An encoded cutout.
    augmentation : Augmentation
        Of the recipe.
    preprocessing : Preprocessing
        Its input size and normalization.
    seed : int
        Of this seed and the next ones, the first draw that changes much in each step is shown step by step.
    title : str
    rgb : RgbSettings
        Colors of a FITS cutout.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    UserError
        If the image cannot be read.
    """
    try:
        pixels = decode_pixels(image, rgb).pixels
    except UnreadableCutout as error:
        raise UserError(f"the galaxy to augment cannot be read: {error}") from None
    transform = TrainTransform(augmentation, preprocessing.input_size)
    draws = [transform.draw(one) for one in range(seed, seed + TRIES)]
    shown = max(draws, key=lambda draw: _steps_that_show(draw, augmentation))
    steps = list(_steps(pixels, augmentation, preprocessing, shown))
    figure = Figure(figsize=(TILE * len(steps), 2 * TILE + (1.6 if title else 1.25)), layout="constrained")
    if title:
        figure.suptitle(title)
    (upper,), (lower,) = figure.subfigures(2, 1, squeeze=False, height_ratios=(1.12, 1))
    upper.suptitle("One draw, step by step", fontsize=9.5)
    lower.suptitle("Other draws of the same galaxy", fontsize=9.5)
    first = upper.subplots(1, len(steps))
    for axes, step in zip(first, steps, strict=True):
        _show(axes, step.image, step.words)
        axes.set_title(step.name, fontsize=8.5, fontweight="normal")
    first[2].add_patch(
        Rectangle(
            (shown.left - 0.5, shown.top - 0.5),
            shown.width,
            shown.height,
            fill=False,
            edgecolor="white",
            linestyle=(0, (4, 3)),
        )
    )
    for number, axes in enumerate(lower.subplots(1, len(steps)), 1):
        other = transform.draw(seed + TRIES + number)
        _show(axes, transform.apply(pixels, other), f"{_angle(other)}{_flips(other)}")
    return figure


def _steps_that_show(draw: Draw, augmentation: Augmentation) -> int:
    """In how many of the steps a draw changes at least half of what it may."""
    largest = augmentation.center_crop**2
    cropped = draw.width * draw.height < (augmentation.scale[0] + 1) / 2 * largest
    turned = abs(draw.angle) > augmentation.rotation / 2
    return turned + cropped + draw.horizontal_flip + draw.vertical_flip


def _steps(
    pixels: np.ndarray, augmentation: Augmentation, preprocessing: Preprocessing, draw: Draw
) -> Iterator[Step]:
    """The steps of the train transform: each image is the transform's own, with what was drawn so far."""
    side, size = augmentation.center_crop, preprocessing.input_size
    nothing = Draw(0.0, 0, 0, side, side, horizontal_flip=False, vertical_flip=False)
    unscaled, transform = TrainTransform(augmentation, side), TrainTransform(augmentation, size)
    cropped = draw._replace(horizontal_flip=False, vertical_flip=False)
    across = draw._replace(vertical_flip=False)
    last = transform.apply(pixels, draw)
    yield Step("cutout", f"{pixels.shape[1]} × {pixels.shape[0]}", pixels)
    yield Step("center crop", f"{side} × {side}", unscaled.apply(pixels, nothing))
    yield Step("rotation", _angle(draw), unscaled.apply(pixels, nothing._replace(angle=draw.angle)))
    yield Step(
        "random crop", f"{draw.width} × {draw.height} to {size} × {size}", transform.apply(pixels, cropped)
    )
    yield Step("horizontal flip", _drawn(draw.horizontal_flip), transform.apply(pixels, across))
    yield Step("vertical flip", _drawn(draw.vertical_flip), last)
    inputs = normalize(torch.from_numpy(last.copy())[None], preprocessing.mean, preprocessing.std)
    values = inputs[0].permute(1, 2, 0).numpy()
    low, high = float(values.min()), float(values.max())
    yield Step(
        "normalization", f"{low:.1f} to {high:.1f}".replace("-", "−"), (values - low) / max(high - low, 1e-6)
    )


def _show(axes: Axes, image: np.ndarray, words: str) -> None:
    axes.imshow(image, interpolation="nearest")
    axes.set_xlabel(words, fontsize=7.5, color=GRAY)
    bare(axes)


def _drawn(flip: bool) -> str:
    return "drawn" if flip else "not drawn"


def _angle(draw: Draw) -> str:
    return f"{round(draw.angle):+d}°".replace("-", "−")


def _flips(draw: Draw) -> str:
    names = [name for name, flip in (("↔", draw.horizontal_flip), ("↕", draw.vertical_flip)) if flip]
    return ", flipped " + " ".join(names) if names else ""
