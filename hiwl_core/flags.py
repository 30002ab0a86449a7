"""Flags: bits that say what is odd about a cutout, so that its row can be left out or looked at."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from hiwl_core.errors import UserError

__all__ = [
    "BORDER",
    "EMPTY",
    "FLAGS",
    "FLAG_DESCRIPTIONS",
    "OFF_CENTER",
    "PART_MISSING",
    "SATURATED",
    "SCALE_EXTRAPOLATED",
    "UNLIKE",
    "VIEWS_DISAGREE",
    "flag_names",
]

UNLIKE = 1
BORDER = 2
OFF_CENTER = 4
SATURATED = 8
EMPTY = 16
PART_MISSING = 32
SCALE_EXTRAPOLATED = 64
VIEWS_DISAGREE = 128

FLAGS: Mapping[int, str] = MappingProxyType(
    {
        UNLIKE: "unlike",
        BORDER: "border",
        OFF_CENTER: "off_center",
        SATURATED: "saturated",
        EMPTY: "empty",
        PART_MISSING: "part_missing",
        SCALE_EXTRAPOLATED: "scale_extrapolated",
        VIEWS_DISAGREE: "views_disagree",
    }
)
"""Bits of the column `flags` and what they are called."""

_BEYOND = "more than in all but one in a thousand validation galaxies"

FLAG_DESCRIPTIONS: Mapping[int, str] = MappingProxyType(
    {
        UNLIKE: "Unlike the galaxies that the model was trained on: ood_score is above its threshold, which "
        "one in a hundred validation galaxies exceeds.",
        BORDER: "The image ended there: a row or column at its edge is constant to a few levels, or an area "
        f"of one exact color that reaches the edge is 1.2 % of the cutout or more, and {_BEYOND}.",
        OFF_CENTER: "The light about the center has its centroid elsewhere: by 0.15 of half of the side or "
        f"more, and {_BEYOND}. Often it is a brighter neighbor's.",
        SATURATED: f"At least 1 % of the cutout is above 240 of 255 levels in a channel, and {_BEYOND}.",
        EMPTY: "No source in the center: all but two of its parts are less than 5 times the sky's scatter "
        "above the sky, and less than in all but one in a thousand validation galaxies.",
        PART_MISSING: "An area of one exact color inside the cutout, as masks and lost data leave it: 1.2 % "
        f"of the cutout or more, and {_BEYOND}. Or a FITS image of which 0.1 % was not observed.",
        SCALE_EXTRAPOLATED: "The pixel scale that the model was trained at asked for more of the sky, or for "
        "finer pixels, than the cutout has.",
        VIEWS_DISAGREE: "Turned and mirrored views of the cutout differ in their most probable class.",
    }
)
"""What each bit means, and its threshold."""


def flag_names(bits: int) -> list[str]:
    """Names of the bits that are set, lowest first.

    Parameters
    ----------
    bits : int
        Of the column `flags`.

    Raises
    ------
    UserError
        If a bit has no name.
    """
    known = sum(FLAGS)
    if not 0 <= bits <= known:
        raise UserError(f"flags {bits}: the bits have names up to {known}; a newer HIWL may know it")
    return [name for bit, name in FLAGS.items() if bits & bit]
