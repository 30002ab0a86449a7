"""Files inside a page: pictures to look at, tables and pictures to save."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

__all__ = ["Picture", "data_uri"]

CSS_PIXELS_PER_INCH = 96
MEDIA_TYPES = {
    "csv": "text/csv;charset=utf-8",
    "jpg": "image/jpeg",
    "png": "image/png",
    "svg": "image/svg+xml",
}


@dataclass(frozen=True)
class Picture:
    """A figure to look at and to save.

    Parameters
    ----------
    alt : str
        What is to be seen on it, for those who do not see it.
    files : mapping of bytes
        All its files, by name; those beside a page.
    shown : str
        The file that is looked at: the URI of its content.
    saved : sequence of str
        Names of the files that are in the page, to save.
    width : int, optional
        In CSS pixels, of a picture that does not say it itself.
    """

    alt: str
    files: Mapping[str, bytes]
    shown: str
    saved: Sequence[str]
    width: int | None = None

    @classmethod
    def drawn(cls, name: str, alt: str, files: Mapping[str, bytes]) -> Picture:
        """A figure of lines and letters: its SVG file is looked at, and both are saved."""
        return cls(alt, files, data_uri(files[f"{name}.svg"], "svg"), list(files))

    @classmethod
    def of_pixels(cls, name: str, alt: str, files: Mapping[str, bytes]) -> Picture:
        """A figure of images, which are large: a JPEG of it is looked at, and only its PNG file is saved."""
        png = f"{name}.png"
        small, smaller = io.BytesIO(), io.BytesIO()
        with Image.open(io.BytesIO(files[png])) as image:
            resolution = image.info["dpi"]
            opaque = image.convert("RGB")
        opaque.save(small, "PNG", optimize=True, dpi=resolution)
        opaque.save(smaller, "JPEG", quality=80, optimize=True)
        width = round(opaque.width * CSS_PIXELS_PER_INCH / resolution[0])
        shown = data_uri(smaller.getvalue(), "jpg")
        return cls(alt, {**files, png: small.getvalue()}, shown, [png], width)


def data_uri(content: bytes, name: str) -> str:
    """A file as a ``data:`` URI.

    Parameters
    ----------
    content : bytes
    name : str
        Of the file, or its ending alone: csv, jpg, png or svg.
    """
    return f"data:{MEDIA_TYPES[name.rsplit('.', 1)[-1]]};base64,{base64.b64encode(content).decode()}"
