"""A galaxy as a card: the cutout, the label, and the probabilities as bars."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from hiwl_core.decoding import DEFAULT_RGB, decode_cutout
from hiwl_core.recipe import RgbSettings

__all__ = ["Card", "thumbnail"]


@dataclass(frozen=True)
class Card:
    """A galaxy to show.

    Parameters
    ----------
    object_id : str
    label : str or None
    confidence : float or None
    probabilities : mapping of str to float or None
        By class, in the order to show.
    ra, dec : float or None
        Degrees.
    status : str
    image : bytes or None
        A JPEG; None for a placeholder.
    words : str
        What the placeholder says.
    truth : str or None
        The class that people gave it, if that is known.
    stages : sequence of str
        What the stages said on their own, a line each.
    """

    object_id: str
    label: str | None
    confidence: float | None
    probabilities: Mapping[str, float | None]
    ra: float | None
    dec: float | None
    status: str
    image: bytes | None
    words: str = ""
    truth: str | None = None
    stages: Sequence[str] = ()

    def is_label(self, name: str) -> bool:
        """Whether a class, as the catalog's columns or the taxonomy write it, is the label."""
        return self.label is not None and name.upper() == self.label.upper()

    def is_truth(self, name: str) -> bool:
        """The same of the true class."""
        return self.truth is not None and name.upper() == self.truth.upper()


def thumbnail(encoded: bytes, pixels: int, rgb: RgbSettings = DEFAULT_RGB) -> bytes:
    """A small JPEG, whatever the cutout is.

    Parameters
    ----------
    encoded : bytes
        JPEG, PNG or FITS.
    pixels : int
        On the longer side, at most.
    rgb : RgbSettings
        Colors of FITS cutouts.

    Raises
    ------
    UnreadableCutout
        See `hiwl_core.decoding.decode_image`.
    """
    image = decode_cutout(encoded, rgb)
    image.thumbnail((pixels, pixels), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80, optimize=True)
    return buffer.getvalue()
