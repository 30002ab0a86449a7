"""Plain FITS files without astropy, which takes several milliseconds for the headers of a cutout alone.

Plain is: a primary image and image extensions, neither compressed nor scaled, whole, with cards of one line,
each needed one once, and of the sky nothing but a tangential projection with right ascension first. Of such a
file comes what comes of it by astropy. Of all else comes nothing, and astropy reads it.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

__all__ = [
    "BLOCK",
    "CARD",
    "WCS_KEYWORD",
    "PlainHeader",
    "PlainImage",
    "claims_nonsense",
    "plain_images",
    "tangential_sky",
]

BLOCK, CARD = 2880, 80
"""Bytes of which FITS files are made."""
TYPES = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}
PRIMARY, EXTENSION = b"SIMPLE  =                    T", b"XTENSION= 'IMAGE   '"
MOST_CARDS, MOST_IMAGES = 1000, 256
VALUE = re.compile(
    r" *(?:'(?P<text>(?:[^']|'')*)'|(?P<flag>[TF])|(?P<whole>[+-]?\d+)"
    r"|(?P<real>[+-]?(?:\d+\.\d*|\.\d+)(?:[ED][+-]?\d+)?|[+-]?\d+[ED][+-]?\d+)) *(?:/.*)?"
)
COMMENTARY = ("COMMENT ", "HISTORY ", "        ")
KEYWORD = re.compile(r"[A-Z0-9_-]+ *= ")
UNUSUAL = re.compile(r"CONTINUE|HIERARCH|GROUPS|BSCALE|BZERO|BLANK|ZIMAGE|INHERIT")
"""Keywords of files that are not plain."""
NEEDED = re.compile(r"SIMPLE|XTENSION|BITPIX|NAXIS\d*|[PG]COUNT|EXTEND|EXTNAME|BANDS|(BAND|FILTER)\d*")
"""Those whose values have to be understood, beside those of the sky."""
WCS_KEYWORD = re.compile(
    r"WCSAXES|(CTYPE|CUNIT|CRVAL|CRPIX|CDELT|CROTA)\d+|(CD|PC|PV|PS)\d+_\d+|PC\d{6}|LONPOLE|LATPOLE"
    r"|RADESYS|RADECSYS|EQUINOX|EPOCH|[AB]P?_(ORDER|\d+_\d+)|WAT\d_\d+"
)
"""Keywords that say where pixels are on the sky; dates and all others do not matter for it."""
TANGENTIAL = re.compile(r"(CTYPE|CUNIT|CRVAL|CRPIX|CDELT)[12]|(CD|PC)[12]_[12]|RADESYS|EQUINOX")
"""Those of a plain tangential projection."""


MOST_CLAIMED = 999
"""Axes or columns, by the standard."""
CLAIMS = (b"NAXIS", b"TFIELDS", b"GCOUNT", b"PCOUNT")
CLAIM = re.compile(rb"(NAXIS|TFIELDS|[PG]COUNT)(\d{0,3}) *= (.{70})")


class PlainHeader(dict[str, Any]):
    """The values of a header that are needed, by keyword, and the header as it is.

    Parameters
    ----------
    raw : bytes
        Of its cards.
    """

    def __init__(self, raw: bytes) -> None:
        super().__init__()
        self._raw = raw

    def astropy(self) -> Any:
        """The same as an `astropy.io.fits.Header`."""
        from astropy.io.fits import Header

        return Header.fromstring(self._raw.decode("ascii"))


class PlainImage:
    """A primary image or image extension, with the attributes that astropy's have of these names.

    Parameters
    ----------
    header : PlainHeader
    data : numpy.ndarray or None
    name : str
    """

    is_image = True

    def __init__(self, header: PlainHeader, data: np.ndarray | None, name: str) -> None:
        self.header, self.data, self.name = header, data, name
        self.shape = () if data is None else data.shape


def plain_images(content: bytes) -> list[PlainImage] | None:
    """The images of a plain FITS file; None if it is none.

    Parameters
    ----------
    content : bytes
    """
    images: list[PlainImage] = []
    start = 0
    while start < len(content):
        if len(images) == MOST_IMAGES or not content.startswith(EXTENSION if images else PRIMARY, start):
            return None
        header = _header(content, start)
        if header is None:
            return None
        start += -(-len(header._raw) // BLOCK) * BLOCK
        image = _image(content, start, header, "" if images else "PRIMARY")
        if image is None:
            return None
        images.append(image)
        size = 0 if image.data is None else image.data.nbytes
        start += -(-size // BLOCK) * BLOCK
        # What is cut off, even in the padding, is for astropy to judge.
        if start > len(content):
            return None
    return images


def claims_nonsense(content: bytes) -> bool:
    """Whether a header has negative sizes, or more axes or columns than there can be.

    With the first astropy finds image after image, for ever, with the others it is busy for hours.

    Parameters
    ----------
    content : bytes
        Of a FITS file, or of its beginning.
    """
    for keyword in CLAIMS:
        place = content.find(keyword)
        while place >= 0:
            claim = CLAIM.match(content, place)
            value = VALUE.fullmatch(claim[3].decode("latin-1")) if claim else None
            text = value["whole"] or value["real"] if value else None
            # Axes have lengths, and they are counted.
            counts = keyword in (b"NAXIS", b"TFIELDS") and claim is not None and not claim[2]
            if text and not 0 <= float(text.replace("D", "E")) <= (MOST_CLAIMED if counts else math.inf):
                return True
            place = content.find(keyword, place + 1)
    return False


def _header(content: bytes, start: int) -> PlainHeader | None:
    end = next(
        (
            place
            for place in range(start, min(start + MOST_CARDS * CARD, len(content)), CARD)
            if content.startswith(b"END     ", place)
        ),
        None,
    )
    if end is None or not content[start:end].isascii() or content[end + 3 : end + CARD].strip():
        return None
    header = PlainHeader(content[start : end + CARD])
    text = content[start:end].decode("ascii")
    if not text.isprintable():
        return None
    for place in range(0, len(text), CARD):
        line = text[place : place + CARD]
        if line.startswith(COMMENTARY):
            continue
        keyword = line[:8].rstrip()
        if UNUSUAL.match(keyword) or not KEYWORD.fullmatch(line, 0, 10):
            return None
        if not (NEEDED.fullmatch(keyword) or WCS_KEYWORD.fullmatch(keyword)):
            continue
        value = VALUE.fullmatch(line, 10)
        if value is None or keyword in header:
            return None
        header[keyword] = _value(value)
    return header


def _value(match: re.Match[str]) -> Any:
    if match["text"] is not None:
        return match["text"].replace("''", "'").rstrip()
    if match["flag"]:
        return match["flag"] == "T"
    return int(match["whole"]) if match["whole"] else float(match["real"].replace("D", "E"))


def _image(content: bytes, start: int, header: PlainHeader, name: str) -> PlainImage | None:
    kind = TYPES.get(header.get("BITPIX", 0))
    axes = header.get("NAXIS")
    if kind is None or type(axes) is not int or not 0 <= axes <= 9:
        return None
    if (header.get("PCOUNT", 0), header.get("GCOUNT", 1)) != (0, 1):
        return None
    lengths = [header.get(f"NAXIS{axis}") for axis in range(axes, 0, -1)]
    if not all(type(length) is int and length > 0 for length in lengths) or f"NAXIS{axes + 1}" in header:
        return None
    given = header.get("EXTNAME", name)
    if not isinstance(given, str):
        return None
    if not lengths:
        return PlainImage(header, None, given)
    count = math.prod(lengths)  # type: ignore[arg-type]
    if start + count * np.dtype(kind).itemsize > len(content):
        return None
    data = np.frombuffer(content, kind, count, start).reshape(lengths)  # type: ignore[arg-type]
    return PlainImage(header, data, given)


def tangential_sky(header: PlainHeader, shape: tuple[int, ...]) -> tuple[float, tuple[float, float]] | None:
    """Pixel scale and position of an image's center by a plain tangential projection.

    Greisen & Calabretta (2002, A&A 395, 1061 and 1077).

    Parameters
    ----------
    header : PlainHeader
    shape : tuple of int
        Rows and columns.

    Returns
    -------
    scale : float
        arcsec/pixel.
    position : tuple of float
        Right ascension, 0 <= ra < 360, and declination, degrees.
    None, if the header has another projection, or more than that.
    """
    sky = {keyword: header[keyword] for keyword in header if WCS_KEYWORD.fullmatch(keyword)}
    if not all(TANGENTIAL.fullmatch(keyword) for keyword in sky):
        return None
    names = [sky.pop(keyword, None) for keyword in ("CTYPE1", "CTYPE2")]
    units = [sky.pop(keyword, "deg") for keyword in ("CUNIT1", "CUNIT2")]
    if names != ["RA---TAN", "DEC--TAN"] or units != ["deg", "deg"]:
        return None
    if not isinstance(sky.pop("RADESYS", ""), str):
        return None
    if not all(type(value) in (int, float) for value in sky.values()):
        return None
    matrix = _matrix(sky)
    try:
        middle = [
            (length - 1) / 2 + 1 - sky[f"CRPIX{axis}"] for axis, length in ((1, shape[1]), (2, shape[0]))
        ]
        ra, dec = float(sky["CRVAL1"]), float(sky["CRVAL2"])
    except KeyError:
        return None
    if matrix is None or not abs(dec) < 90 or not abs(ra) <= 360:
        return None
    scales = np.sqrt((matrix**2).sum(axis=0))
    scale = float(np.sqrt(np.prod(scales))) * 3600.0
    east, north = np.radians(matrix @ middle).tolist()
    up = math.radians(dec)
    forward = math.cos(up) - north * math.sin(up)
    along = math.degrees(math.atan2(east, forward)) + ra
    height = math.degrees(math.atan2(math.sin(up) + north * math.cos(up), math.hypot(east, forward)))
    return scale, (along % 360.0 % 360.0, height)


def _matrix(sky: dict[str, Any]) -> np.ndarray | None:
    """Degrees a pixel; None if it is not said in one way."""
    places = [(row, column) for row in (1, 2) for column in (1, 2)]
    direct = any(f"CD{row}_{column}" in sky for row, column in places)
    steps = [sky.get("CDELT1"), sky.get("CDELT2")]
    if direct == (None not in steps) or (direct and any(key.startswith(("PC", "CDELT")) for key in sky)):
        return None
    name = "CD" if direct else "PC"
    default = {(1, 1): 0.0 if direct else 1.0, (2, 2): 0.0 if direct else 1.0}
    values = [sky.get(f"{name}{row}_{column}", default.get((row, column), 0.0)) for row, column in places]
    matrix = np.array(values, float).reshape(2, 2)
    if not direct:
        matrix *= np.array(steps, float)[:, None]
    return matrix if np.isfinite(matrix).all() and abs(np.linalg.det(matrix)) > 0 else None
