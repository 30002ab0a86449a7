"""The formats of images that are read: another one that Pillow knows is entered in `PICTURE_FORMATS`."""

from __future__ import annotations

import posixpath
from typing import NamedTuple

__all__ = [
    "FITS_SUFFIXES",
    "IMAGE_SUFFIXES",
    "PICTURE_FORMATS",
    "SIGNATURES",
    "PictureFormat",
    "unpacked_name",
]


class PictureFormat(NamedTuple):
    """A format of pictures.

    Parameters
    ----------
    name : str
        As Pillow knows it.
    suffixes : tuple of str
        Of its files, in small letters.
    signature : bytes
        With which its files begin.
    """

    name: str
    suffixes: tuple[str, ...]
    signature: bytes


PICTURE_FORMATS = (
    PictureFormat("JPEG", (".jpg", ".jpeg"), b"\xff\xd8\xff"),
    PictureFormat("PNG", (".png",), b"\x89PNG\r\n\x1a\n"),
)
SIGNATURES = tuple(one.signature for one in PICTURE_FORMATS)

_FITS = (".fits", ".fit")
# Behind those of FITS: a packed file, or one whose images are.
_PACKED = (".gz", ".fz", ".bz2")
FITS_SUFFIXES = (*_FITS, *(f"{suffix}{packed}" for suffix in _FITS for packed in _PACKED))
IMAGE_SUFFIXES = (*(suffix for one in PICTURE_FORMATS for suffix in one.suffixes), *FITS_SUFFIXES)


def unpacked_name(name: str) -> str:
    """The name of a FITS file without the suffix of its packing; other names as they are."""
    inner, packed = posixpath.splitext(name)
    return inner if packed.lower() in _PACKED and inner.lower().endswith(_FITS) else name
