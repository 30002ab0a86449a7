"""What a disk that takes no more says, in whoever's words, and how much room is left where."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress

__all__ = ["disk_fault", "room_at"]

FAULTS = {
    errno.ENOSPC: "No space left on device",
    errno.EDQUOT: "Disk quota exceeded",
    errno.EROFS: "Read-only file system",
    errno.EIO: "Input/output error",
    errno.EFBIG: "File too large",
}
# As others say it, who lose the number: a worker's error as text, SQLite, Ray.
WORDS = (
    *FAULTS.values(),
    "database or disk is full",
    "OutOfDiskError",
    "disk's utilization is over capacity",
)
LINKS = 8


def disk_fault(error: BaseException) -> str:
    """What a disk said, and of which file, if that is why there is an error; else empty.

    Parameters
    ----------
    error : BaseException
        Also one that was raised because of another, or that has another's text in its own.
    """
    for link in _chain(error):
        if isinstance(link, OSError) and link.errno in FAULTS:
            return f"{FAULTS[link.errno]}{f': {link.filename}' if link.filename else ''}"
        for line in str(link).splitlines():
            if any(words in line for words in WORDS):
                return line.strip()
    return ""


def room_at(places: Sequence[str]) -> str:
    """How much is free at local places, which need not be there yet, for people."""
    said = {}
    for place in places:
        with suppress(OSError):
            said[place] = f"{shutil.disk_usage(_existing(place)).free / 1e6:,.1f} MB at {place}"
    return ", ".join(said.values())


def _existing(place: str) -> str:
    while not os.path.exists(place) and place != os.path.dirname(place):
        place = os.path.dirname(place)
    return place


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(LINKS):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__
