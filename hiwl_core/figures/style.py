"""The one look of all figures: fonts, sizes, a color for each class, and how figures become files."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hiwl_core.taxonomy import GALAXY_ZOO

__all__ = ["GRAY", "INK", "bare", "class_colors", "figure_files", "in_style"]

INK, GRAY = "#222222", "#767676"

# Told apart with any color vision (Okabe & Ito 2008), without their yellow, which is lost on white, and with
# violet and brown. The classes that are confused most, cigar-shaped and edge-on, are not neighbors in hue.
PALETTE = ("#0072B2", "#56B4E9", "#D55E00", "#CC79A7", "#009E73", "#E69F00", "#5B3A8E", "#8C564B")

_LOOK: dict[Any, Any] = {
    # Shipped with matplotlib, so that the same figure is the same picture on each machine.
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.labelsize": 9,
    "axes.labelcolor": INK,
    "axes.edgecolor": GRAY,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": GRAY,
    "ytick.color": GRAY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "figure.titlesize": 11,
    "figure.constrained_layout.h_pad": 0.07,
    "figure.constrained_layout.w_pad": 0.07,
    "figure.titleweight": "bold",
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}
_FILES: dict[Any, Any] = {**_LOOK, "svg.hashsalt": "hiwl", "svg.fonttype": "none"}
DOTS_PER_INCH = 200

P = ParamSpec("P")


def in_style(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Make a function draw in the look of all figures, whatever matplotlib is set to."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with rc_context(_LOOK):
            return draw(*args, **kwargs)

    return drawn


def class_colors(classes: Sequence[str]) -> dict[str, str]:
    """A color for each class that people with any color vision tell from the others, as ``#rrggbb``.

    Galaxy Zoo's classes have the same color in all figures, and its combined class is gray. Beyond eight
    classes colors repeat.
    """
    known = {**dict(zip(GALAXY_ZOO.classes, PALETTE, strict=False)), GALAXY_ZOO.groups[0].name: GRAY}
    taken = {known[name] for name in classes if name in known}
    free = [color for color in PALETTE if color not in taken] or list(PALETTE)
    strangers = [name for name in classes if name not in known]
    given = {name: free[index % len(free)] for index, name in enumerate(strangers)}
    return {name: known.get(name) or given[name] for name in classes}


def bare(axes: Axes) -> None:
    """Take away the ticks and spines of axes that show an image."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def figure_files(figure: Figure, name: str) -> dict[str, bytes]:
    """A figure as files: ``{name}.png`` and ``{name}.svg``; writing them is the caller's, local or remote.

    The same figure gives the same bytes. Text in the SVG file is text: it can be searched and copied.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        Of this package.
    name : str
        Without an ending.

    Returns
    -------
    dict of bytes
    """
    files = {}
    with rc_context(_FILES):
        for ending, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=ending, dpi=DOTS_PER_INCH, metadata=metadata)
            files[f"{name}.{ending}"] = buffer.getvalue()
    return files
