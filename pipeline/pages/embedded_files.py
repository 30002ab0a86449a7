"""Files inside a page: pictures to look at, tables and pictures to save."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

__all__ = ["Picture", "data_uri", "small_jpeg"]

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
        The file that is looked at: the URI of its content. Empty if the page shows it otherwise.
    saved : sequence of str
        Names of the files that are in the page, to save.
    """

    alt: str
    files: Mapping[str, bytes]
    shown: str
    saved: Sequence[str]

    @classmethod
    def drawn(cls, name: str, alt: str, files: Mapping[str, bytes]) -> Picture:
        """A figure of lines and letters: its SVG file is looked at, and both are saved."""
        return cls(alt, files, data_uri(files[f"{name}.svg"], "svg"), list(files))

    @classmethod
    def to_save(cls, files: Mapping[str, bytes]) -> Picture:
        """A figure that the page shows otherwise."""
        return cls("", files, "", list(files))

    @classmethod
    def of_pixels(cls, name: str, files: Mapping[str, bytes]) -> Picture:
        """A figure of images, which are large: only its PNG file is saved, and the page shows its parts."""
        png, small = f"{name}.png", io.BytesIO()
        with Image.open(io.BytesIO(files[png])) as image:
            resolution = image.info["dpi"]
            opaque = image.convert("RGB")
        opaque.save(small, "PNG", optimize=True, dpi=resolution)
        return cls("", {**files, png: small.getvalue()}, "", [png])


def data_uri(content: bytes, name: str) -> str:
    """A file as a ``data:`` URI.

    Parameters
    ----------
    content : bytes
    name : str
        Of the file, or its ending alone: csv, jpg, png or svg.
    """
    return f"data:{MEDIA_TYPES[name.rsplit('.', 1)[-1]]};base64,{base64.b64encode(content).decode()}"


def small_jpeg(image: Image.Image, pixels: int) -> bytes:
    """A JPEG of an RGB image, made smaller if its longer side has more pixels."""
    small = image.copy()
    small.thumbnail((pixels, pixels), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80, optimize=True)
    return buffer.getvalue()
