"""A circle on the sky: from a few words to a condition in SQL and to the HEALPix tiles that it touches."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hiwl_core.errors import UserError

__all__ = ["Cone", "parse_cone"]

DEGREES = {"": 1.0, "deg": 1.0, "arcmin": 1 / 60, "arcsec": 1 / 3600}
# Boxes and tiles only save reading; the exact distance decides. So they may be a little too large.
MARGIN = 1e-6
# `_healpix_29`: cells of HEALPix order 29, the order of the rows in a published catalog.
FINEST_ORDER = 29


@dataclass(frozen=True)
class Cone:
    """All positions within a great-circle distance of a center, the edge included.

    Parameters
    ----------
    ra, dec : float
        Center, degrees.
    radius : float
        Degrees, more than 0 and at most 180.

    Raises
    ------
    UserError
        If one of the three is not on the sky.
    """

    ra: float
    dec: float
    radius: float

    def __post_init__(self) -> None:
        if not -360 <= self.ra <= 360:
            raise UserError(f"right ascension {self.ra:g} of the cone is not within -360 to 360 degrees")
        if not -90 <= self.dec <= 90:
            raise UserError(f"declination {self.dec:g} of the cone is not within -90 to 90 degrees")
        if not 0 < self.radius <= 180:
            raise UserError(f"radius {self.radius:g} of the cone is not more than 0 and at most 180 degrees")

    def condition(self) -> str:
        """A condition in SQL on the columns ``ra`` and ``dec``, in degrees; false where one of them is null.

        A box first, which the statistics of Parquet row groups can answer, then the haversine formula
        (Sinnott 1984, Sky & Telescope 68, 159), which is exact for small distances too.
        """
        ra, dec, radius = self.ra % 360, self.dec, self.radius
        box = [f"dec BETWEEN {dec - radius - MARGIN!r} AND {dec + radius + MARGIN!r}"]
        spans = self._spans()
        if spans:
            box.append(f"({' OR '.join(f'ra BETWEEN {west!r} AND {east!r}' for west, east in spans)})")
        haversine = (
            f"pow(sin(radians(dec - {dec!r}) / 2), 2) + "
            f"cos(radians(dec)) * {math.cos(math.radians(dec))!r} * pow(sin(radians(ra - {ra!r}) / 2), 2)"
        )
        limit = math.sin(math.radians(radius) / 2) ** 2
        return " AND ".join([*box, f"isfinite(ra) AND least(1.0, {haversine}) <= {limit!r}"])

    def touched(self, tiles: Sequence[tuple[int, int]]) -> np.ndarray:
        """Which tiles of HEALPix, in nested numbering, a position in the cone can be in.

        Parameters
        ----------
        tiles : sequence of (int, int), length N
            Order and pixel.

        Returns
        -------
        numpy.ndarray of bool, shape (N,)
            Never false for a tile with such a position.
        """
        if self.radius > 60 or not tiles:
            return np.ones(len(tiles), dtype=bool)
        # Slow to import, and only a cone in a published catalog needs them.
        from astropy import units
        from astropy.coordinates import Latitude, Longitude
        from cdshealpix.nested import cone_search

        orders, pixels = (np.array(column, dtype=np.int64) for column in zip(*tiles, strict=True))
        cells, depths, _ = cone_search(
            Longitude(self.ra % 360 * units.deg),
            Latitude(self.dec * units.deg),
            (self.radius + MARGIN) * units.deg,
            depth=int(orders.max()),
            depth_delta=2,
        )
        shift = 2 * (FINEST_ORDER - depths.astype(np.int64))
        starts = np.sort(cells.astype(np.int64) << shift)
        ends = np.sort((cells.astype(np.int64) + 1) << shift)
        shift = 2 * (FINEST_ORDER - orders)
        # The cells do not overlap: a tile meets one if more start before its end than end by its start.
        begun = np.searchsorted(starts, (pixels + 1) << shift, side="left")
        ended = np.searchsorted(ends, pixels << shift, side="right")
        touched: np.ndarray = begun > ended
        return touched

    def touched_boxes(self, boxes: Sequence[tuple[float, float, float, float]]) -> np.ndarray:
        """In which boxes on the sky a position in the cone can be.

        Parameters
        ----------
        boxes : sequence of tuple of float, length N
            Least and greatest right ascension and declination, degrees; NaN where there is nothing.

        Returns
        -------
        numpy.ndarray of bool, shape (N,)
            Never false for a box with such a position.
        """
        west, east, south, north = np.array(boxes, dtype=np.float64).reshape(-1, 4).T
        touched: np.ndarray = (south <= self.dec + self.radius + MARGIN) & (
            north >= self.dec - self.radius - MARGIN
        )
        spans = self._spans()
        if spans:
            touched &= np.logical_or.reduce([(west <= end) & (east >= start) for start, end in spans])
        return touched

    def _spans(self) -> list[tuple[float, float]]:
        """Right ascensions from one edge to the other; none if a pole is in the cone."""
        half_width = self._half_width()
        if half_width is None:
            return []
        # Whole turns, since catalogs count from 0 to 360 or from -180 to 180, and the circle may cross 0.
        centers = (self.ra % 360 + turn for turn in (-360, 0, 360))
        return [(center - half_width, center + half_width) for center in centers]

    def _half_width(self) -> float | None:
        """Degrees of right ascension from the center to the edge; None if a pole is in the cone."""
        if abs(self.dec) + self.radius + MARGIN >= 90:
            return None
        ratio = math.sin(math.radians(self.radius)) / math.cos(math.radians(self.dec))
        return math.degrees(math.asin(min(1.0, ratio))) + MARGIN


def parse_cone(text: str) -> Cone:
    """A cone from ``RA,DEC,RADIUS``, such as ``"184.95,-0.88,30arcsec"``.

    Parameters
    ----------
    text : str
        Degrees; the radius also with one of the units deg, arcmin and arcsec.

    Raises
    ------
    UserError
        If the text is something else, or not on the sky.
    """
    ra, dec, radius, *others = [*(word.strip() for word in text.split(",")), "", "", ""][
        : 3 + text.count(",")
    ]
    match = re.fullmatch(r"(.*?)\s*([a-z]*)", radius)
    try:
        if match is None or match[2] not in DEGREES or any(others):
            raise ValueError(radius)
        return Cone(float(ra), float(dec), float(match[1]) * DEGREES[match[2]])
    except UserError:
        raise
    except ValueError:
        raise UserError(
            f"cannot read the cone {text!r}: give RA,DEC,RADIUS in degrees, such as 184.95,-0.88,0.1; "
            "the radius also as 6arcmin or 30arcsec"
        ) from None
