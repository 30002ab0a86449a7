"""Where networks look, over the galaxies, as in Figure 7 of Ma et al. (2023, MNRAS 519, 4765)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from PIL import Image

from hiwl_core.errors import UserError
from hiwl_core.explanation.explained_model import HeatMap
from hiwl_core.figures.style import bare, class_colors, in_style

__all__ = ["AttentionExample", "draw_attention_grid", "heated"]

HEAT = colormaps["inferno"]
# How much of the color of a place is heat, and how much galaxy.
OPACITY = 0.55
GAMMA = 0.7
# Inches.
TILE, GAP, GROUP_GAP = 1.15, 0.04, 0.2
LEFT, RIGHT, BOTTOM, HEADING, TITLE = 0.55, 0.95, 0.12, 0.3, 0.35


class AttentionExample(NamedTuple):
    """One galaxy as several models see it.

    Parameters
    ----------
    label : str
        Its class, which the maps explain; galaxies of one class share a row.
    cutout : numpy.ndarray of uint8, shape (H, W, 3)
        Shown as it is; any size.
    maps : mapping of HeatMap
        For each model, by its name.
    caption : str
        A few words, such as the object's id; shown in the cutout.
    """

    label: str
    cutout: np.ndarray
    maps: Mapping[str, HeatMap]
    caption: str = ""


@in_style
def draw_attention_grid(
    examples: Sequence[AttentionExample], models: Sequence[str], classes: Sequence[str], title: str = ""
) -> Figure:
    """For each class its galaxies: the cutout, and each model's heat map over it.

    Parameters
    ----------
    examples : sequence of AttentionExample
        In any order; a class without any has no row.
    models : sequence of str
        Names of the models, in the order of their columns.
    classes : sequence of str
        In the order of the rows.
    title : str

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    UserError
        If there is no example, or one has another class or lacks a model.
    """
    _check(examples, models, classes)
    rows = {name: [example for example in examples if example.label == name] for name in classes}
    rows = {name: found for name, found in rows.items() if found}
    group = (1 + len(models)) * (TILE + GAP) - GAP
    width = max(map(len, rows.values())) * (group + GROUP_GAP) - GROUP_GAP
    height = len(rows) * (TILE + GAP) - GAP
    above = HEADING + (TITLE if title else 0)
    size = LEFT + width + RIGHT, BOTTOM + height + above
    figure = Figure(figsize=size)

    def axes_at(x: float, y: float, wide: float, high: float) -> Axes:
        """Axes by inches from the grid's upper left corner."""
        bottom = BOTTOM + height - y - high
        return figure.add_axes(
            ((LEFT + x) / size[0], bottom / size[1], wide / size[0], high / size[1]), xticks=[], yticks=[]
        )

    for row, (name, found) in enumerate(rows.items()):
        for number, example in enumerate(found):
            tiles = [
                axes_at(number * (group + GROUP_GAP) + tile * (TILE + GAP), row * (TILE + GAP), TILE, TILE)
                for tile in range(1 + len(models))
            ]
            _draw_example(tiles, example, models)
            if number == 0:
                tiles[0].set_ylabel(name, fontweight="bold", fontsize=10, color=class_colors(classes)[name])
            # Above the topmost galaxy of a column, which need not be one of the first class.
            if all(number >= len(earlier) for earlier in list(rows.values())[:row]):
                for axes, heading in zip(tiles, ("galaxy", *models), strict=True):
                    axes.set_title(heading, fontsize=9, fontweight="normal", pad=4)
    bar = axes_at(width + 0.2, 0.15 * height, 0.14, 0.7 * height)
    ends = figure.colorbar(ScalarMappable(cmap=HEAT), cax=bar, ticks=[0, 1])
    ends.ax.set_yticklabels(["least", "most"])
    ends.set_label("evidence for the class", labelpad=-16)
    ends.outline.set_visible(False)
    if title:
        figure.suptitle(title, y=1 - 0.12 / size[1], va="top")
    return figure


def _check(examples: Sequence[AttentionExample], models: Sequence[str], classes: Sequence[str]) -> None:
    if not examples:
        raise UserError("an attention grid needs a galaxy or more: there is none")
    for example in examples:
        if example.label not in classes:
            raise UserError(f"an example of class {example.label!r}: the classes are {', '.join(classes)}")
        missing = [model for model in models if model not in example.maps]
        if missing:
            raise UserError(f"an example of class {example.label!r} has no heat map of {missing[0]!r}")


def _draw_example(tiles: Sequence[Axes], example: AttentionExample, models: Sequence[str]) -> None:
    images = [example.cutout, *(heated(example.maps[model]) for model in models)]
    for axes, image in zip(tiles, images, strict=True):
        axes.imshow(image, interpolation="antialiased", aspect="auto")
        bare(axes)
    tiles[0].text(
        0.04, 0.95, example.caption, transform=tiles[0].transAxes, color="white", fontsize=6, va="top"
    )


def heated(found: HeatMap) -> np.ndarray:
    """The galaxy in gray under the heat, float, shape (side, side, 3).

    In gray, since a galaxy's colors would be taken for heat; and brighter than it is, or its outskirts would
    be lost.
    """
    side = len(found.cutout)
    # The map's few pixels come from fewer still, between which it was interpolated already.
    smooth = Image.fromarray(found.heat).resize((side, side), Image.Resampling.BICUBIC)
    heat = HEAT(np.clip(np.asarray(smooth), 0, 1))[..., :3]
    gray = (found.cutout.mean(axis=2, keepdims=True) / 255) ** GAMMA
    return np.asarray(OPACITY * heat + (1 - OPACITY) * gray)
