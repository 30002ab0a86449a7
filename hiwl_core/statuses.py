"""What can become of a cutout, in one word for the catalog and in a sentence for its reader."""

from __future__ import annotations

__all__ = [
    "BAD_PIXELS",
    "BROKEN_SHARD",
    "DUPLICATE_ID",
    "MAX_PIXELS",
    "MISSING",
    "MISSING_BAND",
    "NOT_FINITE",
    "NO_ID",
    "NO_POSITION",
    "NO_SCALE",
    "OFF_FOOTPRINT",
    "OK",
    "STATUSES",
    "TOO_LARGE",
    "TOO_SMALL",
    "UNDECODABLE",
    "UnreadableCutout",
]

MAX_PIXELS = 4096 * 4096
"""Largest image that is decoded; a thread that does it takes less than 300 MB."""

OK = "ok"
MISSING = "missing"
UNDECODABLE = "undecodable"
TOO_SMALL = "too_small"
TOO_LARGE = "too_large"
BAD_PIXELS = "bad_pixels"
MISSING_BAND = "missing_band"
NO_SCALE = "no_scale"
NOT_FINITE = "not_finite"
NO_ID = "no_id"
DUPLICATE_ID = "duplicate_id"
BROKEN_SHARD = "broken_shard"
NO_POSITION = "no_position"
OFF_FOOTPRINT = "off_footprint"
STATUSES = {
    OK: "classified",
    MISSING: "no image in the shard",
    UNDECODABLE: "not a whole JPEG, PNG or FITS image",
    TOO_SMALL: "smaller than the central crop that the model sees",
    TOO_LARGE: "more than 4096 x 4096 pixels or 128 MB, which is no cutout; not decoded",
    BAD_PIXELS: "1 % or more of the FITS pixels are not finite, or 10 % or more of those that the model sees "
    "were not observed: -9999 or areas of nothing but zero",
    MISSING_BAND: "the FITS file lacks a band that the model's colors are made of, does not name it, or has "
    "no observed pixel of it",
    NO_SCALE: "a pixel scale was asked for, but the image's own or the wanted one is not known",
    NOT_FINITE: "what the model answered is no finite number",
    NO_ID: "the row has no object id",
    DUPLICATE_ID: "the object id stands on an earlier row of the same shard",
    BROKEN_SHARD: "the shard breaks off here: the id names the file and the byte; what follows is not read",
    NO_POSITION: "of a table of positions: ra or dec is no place on the sky",
    OFF_FOOTPRINT: "of a table of positions: no tile is there",
}


class UnreadableCutout(ValueError):
    """A cutout that cannot be used.

    Parameters
    ----------
    status : str
        A key of `STATUSES`.
    words : str
        What exactly is wrong with it.
    """

    def __init__(self, status: str, words: str) -> None:
        super().__init__(f"{status}: {words}")
        self.status, self.words = status, words

    def __reduce__(self) -> tuple[type[UnreadableCutout], tuple[str, str]]:
        """So that it crosses a process border whole."""
        return type(self), (self.status, self.words)
