"""Small files of each kind that a user may have, and ways in which they go wrong."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import struct
import tarfile
import zlib
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.io import fits
from astropy.table import Table
from PIL import Image

from tests.drawings import draw_galaxy

__all__ = ["SEEDS", "mutated"]

SIDE = 24
SKY = {
    "CTYPE1": "RA---TAN",
    "CTYPE2": "DEC--TAN",
    "CRVAL1": 150.0,
    "CRVAL2": 2.0,
    "CRPIX1": 12.5,
    "CRPIX2": 12.5,
    "CDELT1": -5e-5,
    "CDELT2": 5e-5,
}
NUMBERS = (
    "0",
    "-1",
    "1",
    "2",
    "7",
    "255",
    "4096",
    "65535",
    "99999",
    "2147483647",
    "4294967296",
    "1e9",
    "nan",
    "'x'",
)
WORDS = (
    b'"',
    b"\n",
    b"\r\n",
    b",",
    b"\t",
    b"#",
    b"\0",
    b"nan",
    b"1e999",
    b"99999999999999999999",
    b"\xff\xfe",
    b"'",
    b"<",
)


def mutated(content: bytes, kind: str, random: np.random.Generator) -> bytes:
    """A file with one to three things wrong.

    Parameters
    ----------
    content : bytes
    kind : str
        A key of `SEEDS`.
    random : numpy.random.Generator
    """
    ways: list[Callable[[bytearray, np.random.Generator], bytearray]] = [
        _flipped,
        _cut,
        _swapped,
        _repeated,
        _overwritten,
        _numbers_changed,
    ]
    own = _own_way(kind)
    changed = bytearray(content)
    for _ in range(random.integers(1, 4)):
        way = own if own is not None and random.random() < 0.5 else ways[random.integers(len(ways))]
        changed = way(changed, random)
    return bytes(changed)


def _own_way(kind: str) -> Callable[[bytearray, np.random.Generator], bytearray] | None:
    if kind.startswith("fits") and "." not in kind:
        return _cards_changed
    if kind.startswith("png"):
        return _png_size
    if kind == "tar":
        return _tar_size
    if kind in ("csv", "tsv", "ecsv", "votable"):
        return _words_changed
    return _size_of_gzip if kind.endswith(".gz") else None


def _flipped(content: bytearray, random: np.random.Generator) -> bytearray:
    for place in random.integers(0, max(1, len(content)), 2 ** random.integers(0, 7)):
        if content:
            content[place] ^= 1 << int(random.integers(8))
    return content


def _cut(content: bytearray, random: np.random.Generator) -> bytearray:
    return content[: random.integers(0, len(content) + 1)]


def _piece(content: bytearray, random: np.random.Generator) -> slice:
    start = int(random.integers(0, len(content) + 1))
    return slice(start, start + int(2 ** random.integers(0, 12)))


def _swapped(content: bytearray, random: np.random.Generator) -> bytearray:
    one, other = sorted((_piece(content, random) for _ in range(2)), key=lambda piece: piece.start)
    one = slice(one.start, min(one.stop, other.start))
    return (
        content[: one.start]
        + content[other]
        + content[one.stop : other.start]
        + content[one]
        + content[other.stop :]
    )


def _repeated(content: bytearray, random: np.random.Generator) -> bytearray:
    piece = _piece(content, random)
    return content[: piece.stop] + content[piece] * int(random.integers(1, 4)) + content[piece.stop :]


def _overwritten(content: bytearray, random: np.random.Generator) -> bytearray:
    piece = _piece(content, random)
    length = len(content[piece])
    with_what = (bytes(length), b"\xff" * length, random.bytes(length), b" " * length)
    content[piece] = with_what[random.integers(len(with_what))]
    return content


def _numbers_changed(content: bytearray, random: np.random.Generator) -> bytearray:
    """Four bytes of a claimed size, in either order."""
    if len(content) < 4:
        return content
    place = int(random.integers(0, len(content) - 3))
    number = int(random.choice([0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 4097]))
    content[place : place + 4] = struct.pack(random.choice(["<I", ">I"]), number)
    return content


def _cards_changed(content: bytearray, random: np.random.Generator) -> bytearray:
    """Another value in a card of a FITS header, or a card more."""
    places = [
        place for place in range(0, min(len(content), 20_000), 80) if content[place + 8 : place + 10] == b"= "
    ]
    if not places:
        return content
    place = int(random.choice(places))
    value = str(random.choice(NUMBERS))
    if random.random() < 0.2:
        content[place : place + 8] = (
            str(random.choice(["BSCALE", "BZERO", "BLANK", "NAXIS9", "GCOUNT", "CD3_3"])).ljust(8).encode()
        )
    content[place + 10 : place + 80] = value.rjust(20).ljust(70).encode()
    return content


def _png_size(content: bytearray, random: np.random.Generator) -> bytearray:
    """Another size, depth or color type in a PNG's header, with a checksum that is right."""
    if len(content) < 33:
        return content
    place = int(random.choice([16, 20]))
    if random.random() < 0.7:
        content[place : place + 4] = struct.pack(
            ">I", int(random.choice([0, 1, 4096, 4097, 65535, 2**31 - 1]))
        )
    else:
        content[int(random.integers(24, 29))] = int(random.integers(0, 20))
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return content


def _tar_size(content: bytearray, random: np.random.Generator) -> bytearray:
    """Another size or kind of a member of a tar, with a checksum that is right."""
    heads = [
        place for place in range(0, len(content) - 511, 512) if content[place + 257 : place + 262] == b"ustar"
    ]
    if not heads:
        return content
    place = int(random.choice(heads))
    if random.random() < 0.7:
        size = int(random.choice([0, 1, 511, 513, 2**20, 8**11 - 1]))
        content[place + 124 : place + 136] = f"{size:011o}\0".encode()
    else:
        content[place + 156] = ord(str(random.choice(list("012567LKxgS"))))
    content[place + 148 : place + 156] = b" " * 8
    content[place + 148 : place + 156] = f"{sum(content[place : place + 512]):06o}\0 ".encode()
    return content


def _words_changed(content: bytearray, random: np.random.Generator) -> bytearray:
    place = int(random.integers(0, len(content) + 1))
    word = WORDS[random.integers(len(WORDS))] * int(random.choice([1, 1, 1, 2, 1000]))
    return content[:place] + word + content[place + int(random.integers(0, 3)) :]


def _size_of_gzip(content: bytearray, random: np.random.Generator) -> bytearray:
    content[-4:] = random.bytes(4)
    return content


def _image(kind: str, mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(draw_galaxy("SPI", 1, size=80))).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def _fits(*units: fits.PrimaryHDU | fits.ImageHDU | fits.BinTableHDU) -> bytes:
    buffer = io.BytesIO()
    fits.HDUList(list(units)).writeto(buffer)
    return buffer.getvalue()


def _cube(kind: str = "f4") -> bytes:
    unit = fits.PrimaryHDU((np.random.default_rng(0).gamma(1, 9, (3, SIDE, SIDE))).astype(kind))
    unit.header.update({**SKY, "BANDS": "gri", "SKYBKG": 3.5, "OBJECT": "it''s one"})
    return _fits(unit)


def _extensions(compressed: bool) -> bytes:
    random = np.random.default_rng(1)
    make = fits.CompImageHDU if compressed else fits.ImageHDU
    units = [make(random.gamma(1, 1, (SIDE, SIDE)).astype(np.float32), name=name) for name in "GRI"]
    units[0].header.update(SKY)
    return _fits(fits.PrimaryHDU(), *units)


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number in range(3):
            members = {
                "jpg": _image("JPEG"),
                "json": json.dumps({"ra": 1.5, "dec": number}).encode(),
                "cls": b"EO",
            }
            for ending, content in members.items():
                info = tarfile.TarInfo(f"J12{number}+5.6.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def _table() -> pa.Table:
    return pa.table(
        {
            "object_id": pa.array([1237648720690000000 + number for number in range(40)]),
            "ra": np.linspace(-170, 350, 40),
            "dec": np.linspace(-90, 90, 40),
            "image": [_image("JPEG")] * 20 + [_cube()] * 20,
            "label": ["EO", "SPI"] * 20,
        }
    )


def _parquet(table: pa.Table, **options: object) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=16, **options)
    return buffer.getvalue()


def _astropy_table(kind: str) -> bytes:
    table = Table(
        {"id": np.arange(5) + 10**17, "ra": np.arange(5) / 3, "dec": np.arange(5) / 7, "class": ["EO"] * 5}
    )
    buffer = io.BytesIO()
    if kind == "ascii.ecsv":
        text = io.StringIO()
        table.write(text, format=kind)
        return text.getvalue().encode()
    table.write(buffer, format=kind)
    return buffer.getvalue()


def _csv(delimiter: str) -> bytes:
    rows = [
        ["#Table1"],
        ["id", "class", "ra", "dec"],
        *[[str(10**17 + n), "EO", f"{n / 3}", '"2"'] for n in range(5)],
    ]
    return "\n".join(delimiter.join(row) for row in rows).encode() + b"\n"


SEEDS: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: draw_galaxy("SPI", 1, size=80),
    "jpeg progressive": lambda: _image("JPEG", progressive=True),
    "jpeg gray": lambda: _image("JPEG", "L"),
    "jpeg CMYK": lambda: _image("JPEG", "CMYK"),
    "png": lambda: _image("PNG"),
    "png palette": lambda: _image("PNG", "P"),
    "png with alpha": lambda: _image("PNG", "LA"),
    "fits cube": _cube,
    "fits integers": lambda: _cube("i2"),
    "fits bytes": lambda: _cube("u1"),
    "fits doubles": lambda: _cube("f8"),
    "fits extensions": lambda: _extensions(False),
    "fits compressed": lambda: _extensions(True),
    "cube.gz": lambda: gzip.compress(_cube(), mtime=0),
    "cube.bz2": lambda: bz2.compress(_cube()),
    "tar": _tar,
    "tar.gz": lambda: gzip.compress(_tar(), mtime=0),
    "parquet": lambda: _parquet(_table()),
    "parquet plain": lambda: _parquet(_table(), compression="none", use_dictionary=False),
    "csv": lambda: _csv(","),
    "tsv": lambda: _csv("\t"),
    "csv.gz": lambda: gzip.compress(_csv(","), mtime=0),
    "ecsv": lambda: _astropy_table("ascii.ecsv"),
    "votable": lambda: _astropy_table("votable"),
    "table.fits": lambda: _astropy_table("fits"),
    "table.parquet": lambda: _parquet(
        _table().drop_columns("image").rename_columns(["id", "ra", "dec", "class"])
    ),
}
"""Kinds of files, and one of each."""
