"""Bounds of a FITS file that are checked before a reader sees it: headers and extensions cost time by number.

A card takes astropy some microseconds, an extension some milliseconds, however small the image.
"""

from __future__ import annotations

from hiwl_core.plain_fits import BLOCK, CARD
from hiwl_core.statuses import TOO_LARGE, UnreadableCutout

__all__ = ["MOST_EXTENSIONS", "MOST_HEADER_BYTES", "check_bounds"]

MOST_EXTENSIONS = 256
MOST_HEADER_BYTES = 2**20
"""Of one header: 13,107 cards."""
# Some writers fill up with zeros.
ENDS = (b"END     ", b"END\0\0\0\0\0")
EXTENSION = b"XTENSION="


def check_bounds(content: bytes) -> None:
    """Check that a FITS file has no more extensions and cards than a cutout's may.

    Parameters
    ----------
    content : bytes
        Not packed.

    Raises
    ------
    UnreadableCutout
        With the status ``too_large``.
    """
    start, extensions = 0, 0
    while start >= 0:
        stop = start + MOST_HEADER_BYTES
        end = max(_aligned(content, one, start, CARD, stop) for one in ENDS)
        if end < 0 and len(content) - start > MOST_HEADER_BYTES:
            raise UnreadableCutout(TOO_LARGE, f"a FITS header of more than {MOST_HEADER_BYTES // 2**20} MB")
        start = _aligned(content, EXTENSION, max(end, start + CARD), BLOCK, len(content))
        extensions += 1
        if extensions > MOST_EXTENSIONS:
            raise UnreadableCutout(TOO_LARGE, f"more than {MOST_EXTENSIONS} FITS extensions")


def _aligned(content: bytes, wanted: bytes, start: int, step: int, stop: int) -> int:
    """Where some bytes stand at a multiple of a step, in ``[start, stop)``; -1 if they do not."""
    found = content.find(wanted, start, stop)
    while found >= 0 and found % step:
        found = content.find(wanted, found + 1, stop)
    return found
