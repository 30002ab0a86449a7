"""Addresses of pages elsewhere that show a place on the sky: for people to open, nothing here asks them.

Their parameters are those of https://www.legacysurvey.org/viewer, SDSS's Navigate tool
(https://skyserver.sdss.org) and https://aladin.cds.unistra.fr/AladinLite.
"""

from __future__ import annotations

import math
from typing import NamedTuple

__all__ = ["SkyViewer", "sky_viewers"]

# A galaxy of some arcsec to an arcmin and its neighbors, in each viewer's own unit.
LEGACY_ZOOM, SDSS_SCALE, ALADIN_FIELD = 15, 0.2, 0.03
# SDSS took no images south of it.
SDSS_SOUTH = -25.0


class SkyViewer(NamedTuple):
    """A viewer: a short name for a card, the whole one, and the address of a place."""

    name: str
    title: str
    url: str


def sky_viewers(ra: float | None, dec: float | None) -> list[SkyViewer]:
    """Where to see a place on the sky.

    Parameters
    ----------
    ra, dec : float or None
        Degrees; right ascensions of -180 to 0 are as good as those of 180 to 360.

    Returns
    -------
    list of SkyViewer
        Empty if there is no position, or it is no place on the sky.
    """
    if ra is None or dec is None or not (math.isfinite(ra) and abs(dec) <= 90):
        return []
    # Six digits are 4 milliarcsec; of 359.9999999 they would be 360.
    x, y = f"{round(ra % 360, 6) % 360:.6f}", f"{dec:.6f}"
    legacy = (
        f"https://www.legacysurvey.org/viewer?ra={x}&dec={y}&layer=ls-dr10&zoom={LEGACY_ZOOM}&mark={x},{y}"
    )
    sdss = f"https://skyserver.sdss.org/dr18/VisualTools/navi?ra={x}&dec={y}&scale={SDSS_SCALE}"
    aladin = f"https://aladin.cds.unistra.fr/AladinLite/?target={x}%20{y}&fov={ALADIN_FIELD}"
    return [
        SkyViewer("Legacy", "Legacy Surveys sky viewer", legacy),
        *([SkyViewer("SDSS", "SDSS Navigate", sdss)] if dec > SDSS_SOUTH else []),
        SkyViewer("Aladin", "Aladin Lite", aladin),
    ]
