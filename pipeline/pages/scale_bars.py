"""Scale bars: a round length on the sky, and what share of a picture's side it takes."""

from __future__ import annotations

import math
from typing import NamedTuple

__all__ = ["ScaleBar", "scale_bar"]

ARCMIN, DEGREE = 60.0, 3600.0
ROUND = (1, 2, 5, 10, 20, 30)
# From a tenth of an arcsec to 30 degrees.
LENGTHS = (0.1, 0.2, 0.5, *(unit * number for unit in (1.0, ARCMIN, DEGREE) for number in ROUND))
LONGEST_SHARE = 0.4


class ScaleBar(NamedTuple):
    """A bar to draw over a picture: ``10″``, and its share of the picture's longer side."""

    words: str
    share: float


def scale_bar(arcsec: float | None) -> ScaleBar | None:
    """The longest round length that takes at most two fifths of a picture's side.

    Parameters
    ----------
    arcsec : float or None
        On the picture's longer side.

    Returns
    -------
    ScaleBar or None
        None if that is not known, or no length of a tenth of an arcsec or more fits.
    """
    if arcsec is None or not (math.isfinite(arcsec) and arcsec > 0):
        return None
    fitting = [length for length in LENGTHS if length <= LONGEST_SHARE * arcsec]
    return ScaleBar(_words(fitting[-1]), fitting[-1] / arcsec) if fitting else None


def _words(length: float) -> str:
    for unit, sign in ((DEGREE, "°"), (ARCMIN, "\N{PRIME}")):
        if length >= unit:
            return f"{length / unit:g}{sign}"
    return f"{length:g}\N{DOUBLE PRIME}"
