"""A galaxy as a card: the cutout with its scale, the label, the probabilities as bars, links to the sky."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hiwl_core.decoding import DEFAULT_RGB, Cutout, decode_image
from hiwl_core.recipe_sections import RgbSettings
from hiwl_core.statuses import OK, STATUSES, UnreadableCutout
from pipeline.pages.embedded_files import small_jpeg
from pipeline.pages.scale_bars import ScaleBar, scale_bar
from pipeline.pages.sky_viewers import SkyViewer, sky_viewers

__all__ = ["Card", "Thumbnail", "thumbnail"]


class Thumbnail(NamedTuple):
    """A small JPEG, and how much of the sky is on its longer side in arcsec; None if that is not known."""

    image: bytes
    arcsec: float | None


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
    arcsec : float or None
        On the longer side of the image, if that is known.
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
    arcsec: float | None = None

    def is_label(self, name: str) -> bool:
        """Whether a class, as the catalog's columns or the taxonomy write it, is the label."""
        return self.label is not None and name.upper() == self.label.upper()

    def is_truth(self, name: str) -> bool:
        """The same of the true class."""
        return self.truth is not None and name.upper() == self.truth.upper()

    @property
    def scale(self) -> ScaleBar | None:
        """A scale bar for the image."""
        return scale_bar(self.arcsec)

    @property
    def viewers(self) -> list[SkyViewer]:
        """Where its place on the sky is to be seen."""
        return sky_viewers(self.ra, self.dec)


def thumbnail(
    cutout: Cutout | None, pixels: int, otherwise: str, rgb: RgbSettings = DEFAULT_RGB, status: str = OK
) -> tuple[Thumbnail | None, str]:
    """A small JPEG; without a cutout, or of one that cannot be read, nothing and words for a placeholder.

    Parameters
    ----------
    cutout : Cutout or None
        JPEG, PNG or FITS, with its pixel scale; a FITS image's WCS says it where that is not given.
    pixels : int
        On the longer side, at most.
    otherwise : str
        What is to be said if there is no cutout.
    rgb : RgbSettings
        Colors of FITS cutouts.
    status : str
        Of the galaxy in its catalog: what is wrong with it says why there is no picture.
    """
    words = otherwise
    if cutout is not None:
        try:
            decoded = decode_image(cutout.image or b"", rgb)
        except UnreadableCutout as error:
            words = str(error)
        else:
            image, own = decoded.image, cutout.pixel_scale
            scale = decoded.pixel_scale if own is None else own
            arcsec = None if scale is None else scale * max(image.size)
            return Thumbnail(small_jpeg(image, pixels), arcsec), ""
    return None, words if status == OK else f"{status}: {STATUSES.get(status, '')}".rstrip(": ")
